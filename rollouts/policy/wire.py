"""Chat completions on the wire: the request we send, and the few fields of the answer we keep.

Answers are decoded straight into typed structs with only the needed fields. Every field that servers are known to get
wrong (usage, content) is taken as it comes and made sense of here; nothing is guessed. Token ids and log-probabilities
pass through untouched, or not at all.
"""

from __future__ import annotations

from typing import Any

import msgspec

from rollouts.errors import MalformedCompletion
from rollouts.policy.failures import excerpt
from rollouts.records import Message, Prompt, StopReason, Usage

CLAMPED_LOG_PROB = -9999.0
"""vLLM reports minus infinity as this number: it is not a log-probability."""


# Thousands of these come with every answer and none refers to another: the garbage collector need not know them.
class _LogProb(msgspec.Struct, gc=False):
    logprob: float


class _LogProbs(msgspec.Struct):
    content: list[_LogProb] | None = None


class _Message(msgspec.Struct):
    content: Any = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[dict[str, Any]] | None = None


class Choice(msgspec.Struct):
    """One completion of an answer."""

    message: _Message
    index: int = 0
    finish_reason: str | None = None
    logprobs: _LogProbs | None = None
    token_ids: list[int] | None = None


class ChatCompletion(msgspec.Struct):
    """The part of an answer that is kept."""

    choices: list[Choice] = []
    id: str | None = None
    model: str | None = None
    usage: Any = None
    prompt_token_ids: list[int] | None = None
    error: Any = None
    object: str | None = None
    message: Any = None
    code: Any = None


_decoder = msgspec.json.Decoder(ChatCompletion)


class SampledTokens(msgspec.Struct, frozen=True):
    """Ids and log-probabilities of one completion, each exact or absent, and what was wrong with them."""

    prompt_token_ids: list[int] | None
    generation_token_ids: list[int] | None
    generation_log_probs: list[float] | None
    flags: list[str]


def request_body(
    model: str, prompt: Prompt, sampling: dict[str, Any], seed: int | None, num_samples: int = 1
) -> dict[str, Any]:
    """Build a request for completions with token ids and log-probabilities.

    Args:
        model: Name the server knows.
        prompt: What to continue.
        sampling: Settings named as in NeMo Gym; unknown ones are sent as they stand.
        seed: Seed of this rollout, `None` for the server's own.
        num_samples: Completions to ask for.
    """
    params = dict(sampling)
    limit = params.pop("max_output_tokens", None)
    body: dict[str, Any] = {"model": model, "messages": prompt.messages, **params}
    if seed is not None:
        body["seed"] = seed
    if limit is not None:
        body["max_tokens"] = limit
    if prompt.tools:
        body["tools"] = prompt.tools
    if num_samples > 1:
        body["n"] = num_samples
    body["logprobs"] = True
    body["return_token_ids"] = True
    return body


def decode(body: bytes, secret: str | None = None) -> ChatCompletion:
    """Decode an answer with status 200.

    Args:
        body: As it came.
        secret: Key to strike out where the message quotes the body.

    Raises:
        MalformedCompletion: It is not JSON, not a completion, or holds no choice.
    """
    if not body or body.isspace():
        raise MalformedCompletion("the server answered 200 with an empty body", status=200)
    try:
        completion = _decoder.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        start = excerpt(body[:4096].decode("utf-8", errors="replace"), secret)[:80]
        raise MalformedCompletion(f"not a chat completion ({error}): {start}", status=200) from error
    if not completion.choices and not completion.error and completion.object != "error":
        raise MalformedCompletion("the answer has no choices", status=200)
    return completion


def error_status(completion: ChatCompletion) -> int | None:
    """Status of an error that came inside a 200, `None` when the answer is no error."""
    if completion.error is None and completion.object != "error":
        return None
    inner: Any = completion.error if isinstance(completion.error, dict) else {}
    code: Any = inner.get("code", completion.code)
    return code if isinstance(code, int) and 400 <= code < 600 else 500


def assistant_message(choice: Choice) -> Message:
    """The assistant message of a choice: string content, and other keys only where there is something in them."""
    content = choice.message.content
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    message: Message = {"role": "assistant", "content": content if isinstance(content, str) else ""}
    reasoning = choice.message.reasoning_content or choice.message.reasoning
    if reasoning:
        message["reasoning_content"] = reasoning
    if choice.message.tool_calls:
        message["tool_calls"] = choice.message.tool_calls
    if choice.message.refusal:
        message["refusal"] = choice.message.refusal
    return message


def stop_reason(choice: Choice) -> StopReason:
    """Why the completion ended; anything unheard-of, and nothing at all, is `abort`."""
    match choice.finish_reason:
        case "stop" | "eos" | "eos_token" | "end_turn" | "stop_sequence":
            return StopReason.TOOL_CALLS if choice.message.tool_calls else StopReason.STOP
        case "length" | "max_tokens" | "model_length":
            return StopReason.LENGTH
        case "content_filter":
            return StopReason.CONTENT_FILTER
        case "tool_calls" | "function_call":
            return StopReason.TOOL_CALLS
        case _:
            return StopReason.ABORT


def usage(completion: ChatCompletion) -> Usage:
    """Token counts; `None` where the server sent none, a negative one, or something that is not a count."""
    counts: Any = completion.usage if isinstance(completion.usage, dict) else {}
    return Usage(_count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens")))


def usage_of_one(completion: ChatCompletion, tokens: SampledTokens) -> Usage:
    """Token counts of one of several choices: the server bills them together, so only the ids tell them apart."""
    together = usage(completion)
    ids = tokens.generation_token_ids
    return Usage(together.prompt_tokens, None if ids is None else len(ids))


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None


def sampled_tokens(completion: ChatCompletion, choice: Choice) -> SampledTokens:
    """Take ids and log-probabilities that belong together, drop those that cannot be trusted, and say so."""
    flags: list[str] = []
    ids = choice.token_ids or None
    log_probs = None
    if choice.logprobs is not None and choice.logprobs.content:
        log_probs = [entry.logprob for entry in choice.logprobs.content]
        if not (min(log_probs) > CLAMPED_LOG_PROB and max(log_probs) <= 0.0):  # JSON knows no NaN
            flags.append("log_probs_invalid")
            log_probs = None
    prompt_ids = completion.prompt_token_ids or None
    if (ids and not _are_ids(ids)) or (prompt_ids and not _are_ids(prompt_ids)):
        flags.append("token_ids_invalid")
        ids = prompt_ids = log_probs = None
    elif ids is None:
        flags.append("token_ids_missing")
    if log_probs is None and not {"log_probs_invalid", "token_ids_invalid"}.intersection(flags):
        flags.append("log_probs_missing")
    if ids is not None and log_probs is not None and len(ids) != len(log_probs):
        flags.append("log_probs_disagree")
        ids = log_probs = None
    return SampledTokens(prompt_ids, ids, log_probs, flags)


def _are_ids(numbers: list[int]) -> bool:
    """Whether numbers can be token ids: vocabularies are far smaller than 2**31."""
    return min(numbers) >= 0 and max(numbers) < 2**31
