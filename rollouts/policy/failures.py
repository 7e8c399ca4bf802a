"""What an answer that is not a completion means: one table from status and body to the error tree.

The server's own words are kept, shortened to 300 characters and without the key. Wordings change between server
versions, so a context overflow is known by code and by several patterns.
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import msgspec

from rollouts.errors import PolicyBusy, PolicyError, PolicyFatal, PolicyUnavailable, PromptTooLong, RequestRefused

MAX_RETRY_AFTER_S = 300.0
"""Longest wait a server may ask for; more is taken for a mistake and cut to this (guess)."""

_TOO_LONG = re.compile(
    r"context_length_exceeded|maximum context length|context window|max_model_len|maximum model length"
    r"|max_(?:completion_)?tokens must be at least 1|longer than the (?:maximum )?model|input tokens",
    re.IGNORECASE,
)
_BUSY = 429
_LATER = {408, 409, 425, _BUSY}
_FATAL_SETUP = {405, 411, 415, 501}


def failure(status: int, headers: Mapping[str, str], body: bytes, secret: str | None = None) -> PolicyError:
    """Return the error that an answer stands for.

    Args:
        status: HTTP status, or the code found inside a 200 that holds an error.
        headers: Of the answer.
        body: Of the answer.
        secret: Key to strike out wherever the server repeats it.
    """
    code, words = _server_words(body)
    said = excerpt(words, secret)
    if status in (401, 403):
        hint = "" if secret else ". No key was sent: set POLICY_API_KEY, or name its variable in policy.api_key_env"
        return PolicyFatal(f"the policy server refused the key ({status}): {said}{hint}", status=status)
    if status == 404:
        hint = "Does the URL end in /v1?"
        return PolicyFatal(f"the policy server does not know this model or path (404): {said}. {hint}", status=status)
    if code == "insufficient_quota" or "insufficient_quota" in words:
        return PolicyFatal(f"the account has no quota left ({status}): {said}", status=status)
    if status in _LATER or (status >= 500 and status not in _FATAL_SETUP):
        later = PolicyBusy if status == _BUSY else PolicyUnavailable
        return later(f"the server answered {status}: {said}", status=status, retry_after_s=retry_after_s(headers))
    if status in _FATAL_SETUP or 300 <= status < 400:
        return PolicyFatal(
            f"the server answered {status}: {said}. Check the URL; it should end in /v1 and need no redirect",
            status=status,
        )
    if status in (400, 413, 422) and (code == "context_length_exceeded" or _TOO_LONG.search(words)):
        return PromptTooLong(f"the prompt does not fit the context window: {said}", status=status)
    return RequestRefused(f"the server refused the request ({status}): {said}", status=status)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the server asks to wait, 0 to `MAX_RETRY_AFTER_S`; `None` when it does not ask, or asks nonsense."""
    milliseconds = _finite(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return min(max(milliseconds / 1000, 0.0), MAX_RETRY_AFTER_S)
    value = headers.get("Retry-After")
    if value is None:
        return None
    seconds = _finite(value)
    if seconds is None:
        try:
            moment = email.utils.parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = moment.timestamp() - time.time()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _finite(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _server_words(body: bytes) -> tuple[str | None, str]:
    """Return the error code and the message of an error body in OpenAI's, vLLM's or any other shape."""
    text = body[:4096].decode("utf-8", errors="replace")
    try:
        decoded: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None, text
    if not isinstance(decoded, dict):
        return None, text
    error: Any = decoded.get("error", decoded)
    if isinstance(error, str):
        return None, error
    if not isinstance(error, dict):
        return None, text
    code = error.get("code")
    words = error.get("message") or error.get("detail") or text
    return (code if isinstance(code, str) else None), str(words)


def excerpt(words: str, secret: str | None) -> str:
    """Make a server's words fit to be shown: at most 300 printable characters, without the key."""
    if secret:
        words = words.replace(secret, "***")
    printable = "".join(c if c.isprintable() else " " for c in words)
    return " ".join(printable.split())[:300] or "no message"
