"""A language model small enough to be exact: a finite set of completions, read as a distribution over next bytes.

At temperature T a completion has probability softmax(score / T) over all completions of its prompt; T = 0 is the limit,
all mass on the best one. That distribution over texts *is* an autoregressive model:

    P(token | prefix) = weight of completions that start with prefix + token / weight of those that start with prefix

The reported log-probability of a token is the logarithm of exactly this number, after top-p has been applied at that
position, so they sum to the log-probability of the text. It is the distribution that was sampled, which vLLM reports
with `--logprobs-mode processed_logprobs`; by default vLLM reports the one before temperature and top-p.

Where all completions with a prefix agree on the next byte, its log-probability is 0. Most positions are like that.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import Any, Literal, NamedTuple

from rollouts.simulator.candidates import Candidate, candidates
from rollouts.simulator.tokens import IM_END, VOCABULARY_SIZE, decode, encode, text_of

_NEGLIGIBLE = 1e-60
"""Completions with less than this share of the best one's weight are left out, before probabilities are formed."""


class TokenProbability(NamedTuple):
    """A token with the natural logarithm of its probability."""

    token_id: int
    log_prob: float


_CERTAIN = [(TokenProbability(token, 0.0),) for token in range(VOCABULARY_SIZE)]


class Completion(NamedTuple):
    """What the model generated."""

    token_ids: list[int]
    """Length T, with the end token when the model ended by itself: vLLM counts it too, and leaves it out of the text."""
    log_probs: list[float]
    """Length T, natural logarithms, <= 0."""
    alternatives: list[tuple[TokenProbability, ...]]
    """Length T: at each position the tokens that could have come, the likeliest first; all have a probability > 0."""
    finish_reason: Literal["stop", "length"]

    @property
    def text(self) -> str:
        """The generated text, without the end token."""
        return decode(self.token_ids, skip_special_tokens=True)


@dataclass(frozen=True, slots=True)
class _Branch:
    """A stretch of tokens that had to come, and the choice that follows; no choice means the completion is over."""

    forced: tuple[int, ...]
    choices: tuple[TokenProbability, ...] = ()
    cumulative: tuple[float, ...] = ()
    followers: tuple[_Branch, ...] = ()


def complete(
    messages: Sequence[Mapping[str, Any]],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_tokens: int = 4096,
    seed: str | int | None = None,
) -> Completion:
    """Sample one completion.

    Args:
        messages: The conversation. The model answers its last user message and is blind to the rest.
        temperature: >= 0; 0 takes the best completion, with log-probabilities of 0.
        top_p: 0..1, exclusive of 0: the share of probability kept at each position.
        max_tokens: >= 1; what comes after is cut off, and the finish reason is "length".
        seed: Same arguments with the same seed give the same completion; `None` draws anew each time.
    """
    asked = next((m for m in reversed(messages) if m.get("role") == "user"), messages[-1])
    branch = _tree(text_of(asked.get("content")), temperature, top_p)
    rng = Random(seed)
    token_ids: list[int] = []
    log_probs: list[float] = []
    alternatives: list[tuple[TokenProbability, ...]] = []
    while True:
        token_ids += branch.forced
        log_probs += [0.0] * len(branch.forced)
        alternatives += [_CERTAIN[token] for token in branch.forced]
        if not branch.choices or len(token_ids) >= max_tokens:
            break
        at = min(bisect(branch.cumulative, rng.random() * branch.cumulative[-1]), len(branch.choices) - 1)
        token_ids.append(branch.choices[at].token_id)
        log_probs.append(branch.choices[at].log_prob)
        alternatives.append(branch.choices)
        branch = branch.followers[at]
    ended = len(token_ids) <= max_tokens and token_ids[-1] == IM_END
    return Completion(
        token_ids[:max_tokens], log_probs[:max_tokens], alternatives[:max_tokens], "stop" if ended else "length"
    )


@lru_cache(maxsize=512)
def _tree(prompt: str, temperature: float, top_p: float) -> _Branch:
    weighted = _weights(candidates(prompt), temperature)
    return _grow(sorted(((*encode(text), IM_END), weight) for text, weight in weighted), 0, top_p)


def _weights(options: Sequence[Candidate], temperature: float) -> list[tuple[str, float]]:
    best = max(options, key=lambda option: option.score)
    if temperature == 0:
        return [(best.text, 1.0)]
    weighted = [(option.text, math.exp((option.score - best.score) / temperature)) for option in options]
    return [(text, weight) for text, weight in weighted if weight > _NEGLIGIBLE]


def _grow(completions: Sequence[tuple[tuple[int, ...], float]], depth: int, top_p: float) -> _Branch:
    """Build the tree for sorted `completions`, all of which agree up to `depth`."""
    first, last = completions[0][0], completions[-1][0]
    if len(completions) == 1:
        return _Branch(first[depth:])
    # In a sorted list the first and the last differ earliest. No completion is the beginning of another one: each
    # ends with the only end token it has.
    fork = next(at for at in range(depth, len(first)) if first[at] != last[at])
    groups: dict[int, list[tuple[tuple[int, ...], float]]] = {}
    for tokens, weight in completions:
        groups.setdefault(tokens[fork], []).append((tokens, weight))
    masses = {token: math.fsum(weight for _, weight in group) for token, group in groups.items()}
    kept = _nucleus(masses, top_p)
    total = math.fsum(masses[token] for token in kept)
    return _Branch(
        forced=first[depth:fork],
        choices=tuple(TokenProbability(token, math.log(masses[token] / total)) for token in kept),
        cumulative=tuple(accumulate(masses[token] for token in kept)),
        followers=tuple(_grow(groups[token], fork + 1, top_p) for token in kept),
    )


def _nucleus(masses: Mapping[int, float], top_p: float) -> list[int]:
    """Return the likeliest tokens, in order, until their share of the mass reaches `top_p`; at least one."""
    ordered = sorted(masses, key=lambda token: (-masses[token], token))
    if top_p >= 1:
        return ordered
    reached = accumulate(masses[token] for token in ordered)
    enough = top_p * math.fsum(masses.values())
    return ordered[: next((n for n, mass in enumerate(reached, start=1) if mass >= enough), len(ordered))]
