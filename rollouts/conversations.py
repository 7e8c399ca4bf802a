"""Conversations: from the shapes that datasets use to chat messages and tools that a policy server takes.

Text is never changed and roles are never renamed: `developer` stays `developer`, because a chat template that knows
it treats it differently from `system`. What a text policy cannot be shown (images, files, calls made elsewhere) makes
the row unusable, instead of a conversation with a hole in it.
"""

from __future__ import annotations

from typing import Any

from rollouts.json_lines import parse_strictly
from rollouts.records import Message
from rollouts.rows import Reason, UnusableRow, excerpt_of_value

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "input_text", "output_text")
_ITEM_BOOKKEEPING = ("type", "id", "status")


def chat_messages(value: Any, column: str) -> list[Message]:
    """Check a list of chat messages and join content parts of type text with a line feed.

    Args:
        value: What the row holds.
        column: Where it holds it, for messages.

    Returns:
        Messages with a known role and text; unknown keys stay, keys with null go.

    Raises:
        UnusableRow: With the reason.
    """
    if not isinstance(value, list):
        shown = excerpt_of_value(value)
        raise UnusableRow(Reason.INVALID_PROMPT, f"{column} must be a text or a list of messages, got {shown}")
    if not value:
        raise UnusableRow(Reason.EMPTY_PROMPT, f"{column} holds no message")
    return [_message(message, f"{column}[{index}]") for index, message in enumerate(value)]


def responses_messages(value: Any) -> list[Message]:
    """Turn the `input` of a Responses request into chat messages.

    Args:
        value: A text, which the user says, or a list of message items.

    Raises:
        UnusableRow: An item is not a message, or no text.
    """
    if isinstance(value, str):
        return user_message(value, "input")
    if isinstance(value, list):
        value = [_without_bookkeeping(item, f"input[{index}]") for index, item in enumerate(value)]
    return chat_messages(value, "input")


def user_message(text: str, column: str) -> list[Message]:
    """Make a conversation of one user message.

    Raises:
        UnusableRow: The text is blank.
    """
    if not text.strip():
        raise UnusableRow(Reason.EMPTY_PROMPT, f"{column} is blank")
    return [{"role": "user", "content": text}]


def with_system_prompt(messages: list[Message], system_prompt: str | None) -> list[Message]:
    """Put a system message first, unless the conversation has a system or developer message of its own."""
    if not system_prompt or any(message["role"] in ("system", "developer") for message in messages):
        return messages
    return [{"role": "system", "content": system_prompt}, *messages]


def refuse_unanswerable(messages: list[Message]) -> None:
    """Refuse a conversation that does not end with a user or a tool.

    Raises:
        UnusableRow: With the reason.
    """
    if not any(message["role"] in ("user", "tool") for message in messages):
        raise UnusableRow(Reason.NO_USER_MESSAGE, "no message is from a user or a tool")
    last = messages[-1]["role"]
    if last not in ("user", "tool"):
        message = f"the last message is from {last!r}: cut it off, the policy answers the last user or tool message"
        raise UnusableRow(Reason.DOES_NOT_END_WITH_USER, message)


def chat_tools(value: Any) -> list[dict[str, Any]] | None:
    """Turn tools, flat as in the Responses API or nested as in chat completions, into chat-completion schemas.

    Args:
        value: A list, the same as JSON text (as Parquet files often hold it), or null.

    Returns:
        Schemas `{"type": "function", "function": {...}}`, or `None` when there are none.

    Raises:
        UnusableRow: A tool is not a function or has no name.
    """
    if isinstance(value, str) and value.strip():
        value = parse_strictly(value)
    if value is None or value == [] or value == "":
        return None
    if not isinstance(value, list):
        raise UnusableRow(Reason.INVALID_TOOLS, f"tools must be a list, got {excerpt_of_value(value)}")
    return [_tool(tool, f"tools[{index}]") for index, tool in enumerate(value)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, dict):
        raise UnusableRow(Reason.INVALID_MESSAGE, f"{where} must be an object, got {excerpt_of_value(value)}")
    message: Message = {name: inner for name, inner in value.items() if inner is not None}
    role = message.get("role")
    if role not in ROLES:
        expected = ", ".join(ROLES)
        raise UnusableRow(Reason.UNKNOWN_ROLE, f"{where} has role {excerpt_of_value(role)}, need one of {expected}")
    content = _text(message.get("content"), where)
    calls_tools = role == "assistant" and bool(message.get("tool_calls"))
    if not content.strip() and not calls_tools:
        raise UnusableRow(Reason.EMPTY_MESSAGE, f"{where} ({role}) has no text")
    # Null is what chat completions write beside tool calls; an empty text would read as an answer.
    return {**message, "content": content or None}


def _text(content: Any, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        message = f"{where}.content must be a text or a list of parts, got {excerpt_of_value(content)}"
        raise UnusableRow(Reason.INVALID_MESSAGE, message)
    return "\n".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind not in _TEXT_PARTS:
        shown = excerpt_of_value(part if kind is None else kind)
        raise UnusableRow(Reason.UNSUPPORTED_CONTENT, f"{where} is {shown}; only text can be sampled")
    text = part.get("text")
    if not isinstance(text, str):
        raise UnusableRow(Reason.INVALID_MESSAGE, f"{where}.text must be a text, got {excerpt_of_value(text)}")
    return text


def _without_bookkeeping(item: Any, where: str) -> Any:
    if not isinstance(item, dict):
        return item
    kind = item.get("type") or "message"
    if kind != "message":
        message = f"{where} is of type {excerpt_of_value(kind)}; only messages are read"
        raise UnusableRow(Reason.UNSUPPORTED_ITEM, message)
    return {name: inner for name, inner in item.items() if name not in _ITEM_BOOKKEEPING}


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise UnusableRow(Reason.INVALID_TOOLS, f"{where} must be an object, got {excerpt_of_value(tool)}")
    kind = tool.get("type")
    if kind != "function":
        message = f"{where} is of type {excerpt_of_value(kind)}; only functions can be offered"
        raise UnusableRow(Reason.UNSUPPORTED_TOOL, message)
    if "function" in tool:
        schema, function = tool, tool["function"]
    else:
        function = {name: inner for name, inner in tool.items() if name != "type" and inner is not None}
        schema = {"type": "function", "function": function}
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UnusableRow(Reason.INVALID_TOOLS, f"{where} has no name")
    return schema
