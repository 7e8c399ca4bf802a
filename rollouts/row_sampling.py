"""Sampling settings of one row: what a NeMo Gym row asks of the server beside its input.

Names stay NeMo Gym's, as in the parameters of a run. Where a chat-completion server knows a setting by another shape
only (tool choice, reasoning effort, output format), it is translated here, beside the tools it refers to. What names
the server, the model or the transport belongs to the run and is kept as an extra column, never sent.
"""

from __future__ import annotations

from typing import Any

from rollouts.rows import Reason, UnusableRow, excerpt_of_value

NOT_SAMPLING = frozenset(
    {
        "background", "include", "logprobs", "max_tool_calls", "messages", "metadata", "model", "n", "prompt_cache_key",
        "return_token_ids", "safety_identifier", "seed", "service_tier", "store", "stream", "stream_options",
        "truncation", "user",
    }
)  # fmt: skip
"""Request parameters that do not change what is sampled, or that the run decides."""
_REMOTE = ("previous_response_id", "conversation", "prompt")
_NESTED = {"reasoning": "effort", "text": "format"}
"""Parameters of which chat completions know one field."""
_RANGES: dict[str, tuple[float, float]] = {"temperature": (0, 2), "top_p": (0, 1)}


def split_parameters(params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Divide request parameters, without input, instructions and tools, into sampling settings and the rest.

    Args:
        params: As in the row; a null means that nothing was set.

    Returns:
        Sampling settings for `Prompt.sampling`, and parameters that are kept but not sent.

    Raises:
        UnusableRow: A setting is out of range, or refers to text that another server holds.
    """
    given = {name: value for name, value in params.items() if value is not None}
    for name in _REMOTE:
        if given.get(name):
            message = f"{name} refers to text that is not in the row"
            raise UnusableRow(Reason.UNSUPPORTED_PARAMETER, message)
    kept = {name: given.pop(name) for name in sorted(NOT_SAMPLING & given.keys())}
    _check(given)
    kept |= {name: given[name] for name, sent in _NESTED.items() if _object(given, name).keys() - {sent}}
    return _translated(given), kept


def _check(given: dict[str, Any]) -> None:
    for name, (low, high) in _RANGES.items():
        value = given.get(name, high)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high or (name == "top_p" and value == 0):
            message = f"{name} must be a number from {low} to {high}, got {excerpt_of_value(value)}"
            raise UnusableRow(Reason.INVALID_SAMPLING, message)
    limit = given.get("max_output_tokens", 1)
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        message = f"max_output_tokens must be an integer from 1, got {excerpt_of_value(limit)}"
        raise UnusableRow(Reason.INVALID_SAMPLING, message)


def _translated(given: dict[str, Any]) -> dict[str, Any]:
    sampling = {name: value for name, value in given.items() if name not in ("tool_choice", *_NESTED)}
    if "tool_choice" in given:
        sampling["tool_choice"] = _tool_choice(given["tool_choice"])
    effort = _object(given, "reasoning").get("effort")
    if effort is not None:
        sampling["reasoning_effort"] = effort
    text_format = _object(given, "text").get("format")
    if isinstance(text_format, dict) and text_format.get("type") != "text":
        sampling["response_format"] = _response_format(text_format)
    return sampling


def _object(given: dict[str, Any], name: str) -> dict[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, dict):
        raise UnusableRow(Reason.INVALID_SAMPLING, f"{name} must be an object, got {excerpt_of_value(value)}")
    return value


def _tool_choice(choice: Any) -> Any:
    """The Responses API names the function beside the type, chat completions name it one level below."""
    if isinstance(choice, dict) and choice.get("type") == "function" and "function" not in choice:
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _response_format(text_format: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema lies beside the type in the Responses API, and one level below in chat completions."""
    if text_format.get("type") != "json_schema" or "json_schema" in text_format:
        return text_format
    schema = {name: value for name, value in text_format.items() if name != "type" and value is not None}
    return {"type": "json_schema", "json_schema": schema}
