"""One rollout as one token sequence, made of the ids that were sampled and of nothing else.

Calls of a rollout form one sequence when each call's prompt starts with all that came before it (the prefix property:
prompt and generation of the call before). Then what lies between two generations is text of the environment: mask 0,
log-probability 0.0. When the property breaks, because a template dropped old reasoning or because text was tokenised
again, the recorded log-probabilities do not belong to any single sequence, and the rollout is refused.
"""

from __future__ import annotations

import msgspec

from rollouts.formats import Unrepresentable
from rollouts.records import ModelCall, Rollout


class TokenSequence(msgspec.Struct, frozen=True):
    """Ids of one rollout. `completion_ids`, `log_probs` and `mask` have one length T >= 1."""

    prompt_ids: list[int]
    """Prompt of the first call."""
    completion_ids: list[int]
    """Everything after it: generations, and what the environment put between them."""
    log_probs: list[float]
    """Natural logarithms under the distribution that was sampled; 0.0 where `mask` is 0."""
    mask: list[int]
    """1 where the policy sampled the token, 0 where the environment wrote it."""


def has_token_ids(rollout: Rollout) -> bool:
    """Whether every call of the rollout has prompt ids, generated ids and log-probabilities."""
    for call in rollout.calls:
        if call.prompt_token_ids is None or call.generation_token_ids is None or call.generation_log_probs is None:
            return False
    return bool(rollout.calls)


def token_sequence(rollout: Rollout) -> TokenSequence:
    """Join the calls of a rollout.

    Raises:
        Unrepresentable: `token_ids_missing`, `token_lengths_disagree`, `history_not_contiguous` or
            `completion_empty`.
    """
    if not has_token_ids(rollout):
        raise Unrepresentable("token_ids_missing")
    first, *later = rollout.calls
    prompt_ids = first.prompt_token_ids or []
    completion_ids, log_probs = _generated(first)
    mask = [1] * len(completion_ids)
    if later:
        completion_ids, log_probs = [*completion_ids], [*log_probs]  # records are never changed
    for call in later:
        generated, generated_log_probs = _generated(call)
        between = _between(call, prompt_ids, completion_ids)
        completion_ids += between + generated
        log_probs += [0.0] * len(between) + generated_log_probs
        mask += [0] * len(between) + [1] * len(generated)
    if not completion_ids:
        raise Unrepresentable("completion_empty")
    return TokenSequence(prompt_ids, completion_ids, log_probs, mask)


def _generated(call: ModelCall) -> tuple[list[int], list[float]]:
    """Generated ids of a call and their log-probabilities, in lists of one length."""
    generated = call.generation_token_ids or []
    log_probs = call.generation_log_probs or []
    if len(generated) != len(log_probs):
        raise Unrepresentable("token_lengths_disagree")
    return generated, log_probs


def _between(call: ModelCall, prompt_ids: list[int], completion_ids: list[int]) -> list[int]:
    """Ids of the environment that a call adds to the sequence so far."""
    call_prompt_ids = call.prompt_token_ids or []
    num_seen = len(prompt_ids) + len(completion_ids)
    if (
        call_prompt_ids[: len(prompt_ids)] != prompt_ids
        or call_prompt_ids[len(prompt_ids) : num_seen] != completion_ids
    ):
        raise Unrepresentable("history_not_contiguous")
    return call_prompt_ids[num_seen:]
