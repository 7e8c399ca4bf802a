"""Chat messages as trainers take them: string content, no nulls, tool arguments as objects, and nothing guessed.

What a trainer's form cannot hold is refused with a named reason instead of being left out, because a conversation
without its tool calls or its reasoning is another conversation than the one that was rewarded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from rollouts.formats import Unrepresentable
from rollouts.records import Message, Prompt, Rollout, StopReason

_TEXT_PARTS = ("text", "input_text", "output_text")


def chat_messages(messages: Sequence[Message]) -> list[Message]:
    """Return messages for trainers that render tool calls themselves.

    Each has `role` and a string `content`, and where there is something in them `reasoning_content`, `tool_calls`
    (arguments as objects, as chat templates want them), `tool_call_id` and `name`. Other keys stay behind: no chat
    template reads them, and a rare key makes a file's rows differ.

    Raises:
        Unrepresentable: `content_not_text` or `tool_call_invalid`.
    """
    return [_chat_message(message) for message in messages]


def text_messages(messages: Sequence[Message]) -> list[Message]:
    """Return messages that are only `role` and `content`, for forms that hold nothing else.

    Raises:
        Unrepresentable: `content_not_text`, `tool_calls`, `reasoning_content` or `message_name`.
    """
    return [_text_message(message) for message in messages]


def content_text(message: Message) -> str:
    """Text of a message. A list with one text part is that text; several parts are joined differently by every server.

    Raises:
        Unrepresentable: `content_not_text`.
    """
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    match cast("list[Any]", content):
        case [{"type": kind, "text": str(text)}] if kind in _TEXT_PARTS:
            return text
        case []:
            return ""
        case _:
            raise Unrepresentable("content_not_text")


def completion_message(rollout: Rollout) -> Message:
    """Return the one assistant message that the policy wrote, as it is stored.

    Trainers that split a conversation into prompt and completion train everything after the prompt, the text of tools
    included, so a completion of several messages is refused. So is one whose server said that it ends in tool calls
    but sent none: what is left of it is not what the policy wrote.

    Raises:
        Unrepresentable: `completion_not_one_message`, `completion_empty` or `tool_calls_missing`.
    """
    completion = rollout.completion
    if len(completion) != 1 or completion[0].get("role") != "assistant":
        raise Unrepresentable("completion_not_one_message")
    message = completion[0]
    if not content_text(message) and not message.get("tool_calls"):
        raise Unrepresentable("completion_empty")
    if rollout.stop_reason is StopReason.TOOL_CALLS and not message.get("tool_calls"):
        raise Unrepresentable("tool_calls_missing")
    return message


def refuse_tools(prompt: Prompt) -> None:
    """Refuse prompts with tool schemas, for trainers that would render the prompt without them.

    Raises:
        Unrepresentable: `tools`.
    """
    if prompt.tools:
        raise Unrepresentable("tools")


def refuse_earlier_turns(prompt: Prompt) -> None:
    """Refuse prompts that hold assistant turns, for trainers that train every assistant turn of a conversation.

    Raises:
        Unrepresentable: `earlier_assistant_turns`: nobody verified those turns.
    """
    if any(message.get("role") == "assistant" for message in prompt.messages):
        raise Unrepresentable("earlier_assistant_turns")


def tools_json(prompt: Prompt) -> str | None:
    """Tool schemas as one JSON string, so that no loader merges the schemas of different rows; `None` without tools."""
    return msgspec.json.encode(prompt.tools).decode() if prompt.tools else None


def truth_text(prompt: Prompt) -> str | None:
    """Reference answer as text: a string as it is, anything else as JSON; `None` when the row has none.

    A column holds one type in every trainer, and JSON loaders turn a column of mixed types into something else.
    """
    if prompt.ground_truth is None or isinstance(prompt.ground_truth, str):
        return prompt.ground_truth
    return msgspec.json.encode(prompt.ground_truth).decode()


def required_truth(prompt: Prompt) -> str:
    """Reference answer as text, for trainers whose reward needs one.

    Raises:
        Unrepresentable: `ground_truth_missing`.
    """
    truth = truth_text(prompt)
    if truth is None:
        raise Unrepresentable("ground_truth_missing")
    return truth


def _chat_message(message: Message) -> Message:
    shaped: Message = {"role": message.get("role"), "content": content_text(message)}
    if message.get("reasoning_content"):
        shaped["reasoning_content"] = message["reasoning_content"]
    if message.get("tool_calls"):
        shaped["tool_calls"] = [_tool_call(call) for call in message["tool_calls"]]
    for key in ("tool_call_id", "name"):
        if message.get(key):
            shaped[key] = message[key]
    return shaped


def _text_message(message: Message) -> Message:
    if message.get("tool_calls") or message.get("tool_call_id") or message.get("role") == "tool":
        raise Unrepresentable("tool_calls")
    if message.get("reasoning_content"):
        raise Unrepresentable("reasoning_content")
    if message.get("name"):
        raise Unrepresentable("message_name")
    return {"role": message.get("role"), "content": content_text(message)}


def _tool_call(call: Any) -> dict[str, Any]:
    match call:
        case {"function": {"name": str(name), **function}}:
            shaped = {"type": "function", "function": {"name": name, "arguments": _arguments(function)}}
            return {"id": call["id"], **shaped} if call.get("id") else shaped
        case _:
            raise Unrepresentable("tool_call_invalid")


def _arguments(function: dict[str, Any]) -> dict[str, Any]:
    """Parse the wire's JSON string. Integers beyond 64 bits are refused: `datasets` reads them back as others."""
    arguments = function.get("arguments")
    try:
        if isinstance(arguments, str):
            arguments = msgspec.json.decode(arguments) if arguments.strip() else {}
        sound = isinstance(arguments, dict) and _fits(cast("dict[str, Any]", arguments))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unrepresentable("tool_call_invalid") from error
    if not sound:
        raise Unrepresentable("tool_call_invalid")
    return cast("dict[str, Any]", arguments)


def _fits(value: Any) -> bool:
    match value:
        case dict():
            return all(_fits(item) for item in cast("dict[str, Any]", value).values())
        case list():
            return all(_fits(item) for item in cast("list[Any]", value))
        case int():
            return -(2**63) <= value < 2**63
        case _:
            return True
