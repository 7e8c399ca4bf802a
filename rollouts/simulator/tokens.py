"""The simulated model's tokenizer: a byte is a token, and a conversation is rendered in the manner of ChatML.

Text can never become a special token: the letters "<|im_end|>" inside a message are ten ordinary bytes. The ids of a
prompt, followed by the ids that were generated for it, are a prefix of the prompt that carries the conversation on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

IM_START = 256
"""Opens a message."""
IM_END = 257
"""Closes a message; the end token of the model."""
SPECIAL_TOKENS: dict[int, str] = {IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
VOCABULARY_SIZE = 258


def text_of(content: object) -> str:
    """Text of a message's content: the string itself, or the text parts of a list, joined; "" for `None`.

    Raises:
        ValueError: The content is neither, or a part is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        return "".join(_part_text(part) for part in content)  # pyright: ignore[reportUnknownArgumentType]
    raise ValueError(f"message content must be a string or a list of text parts, got {type(content).__name__}")


def _part_text(part: object) -> str:
    if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):  # pyright: ignore
        return text
    raise ValueError("this model reads text only; a content part must be an object with a string under 'text'")


def encode(text: str) -> list[int]:
    """Token ids of a text: its UTF-8 bytes. Lone surrogates become question marks."""
    return list(text.encode("utf-8", errors="replace"))


def decode(token_ids: Iterable[int], *, skip_special_tokens: bool = False) -> str:
    """Text of token ids.

    Args:
        token_ids: Values 0..257. Bytes that are no UTF-8, such as a character cut in two, become U+FFFD.
        skip_special_tokens: Leave out the markers of `SPECIAL_TOKENS` instead of writing their names.

    Raises:
        ValueError: An id is outside the vocabulary.
    """
    pieces = bytearray()
    for token in token_ids:
        if token in SPECIAL_TOKENS:
            pieces += b"" if skip_special_tokens else SPECIAL_TOKENS[token].encode()
        elif 0 <= token < 256:
            pieces.append(token)
        else:
            raise ValueError(f"token id {token} is outside the vocabulary 0..{VOCABULARY_SIZE - 1}")
    return pieces.decode("utf-8", errors="replace")


def render_chat(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Token ids of a conversation, ending where the assistant is about to speak.

    Raises:
        ValueError: A message has no role, or content that is not text.
    """
    ids: list[int] = []
    for message in messages:
        role = message.get("role")
        if not isinstance(role, str) or not role:
            raise ValueError("every message needs a 'role'")
        ids += [IM_START, *encode(f"{role}\n{text_of(message.get('content'))}"), IM_END, *b"\n"]
    return [*ids, IM_START, *b"assistant\n"]
