import email.utils
import json
import time

import pytest

from rollouts.errors import PolicyBusy, PolicyFatal, PolicyUnavailable, PromptTooLong, RequestRefused
from rollouts.policy.failures import MAX_RETRY_AFTER_S, failure, retry_after_s


def openai_error(message: str, code: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, openai_error("Incorrect API key provided"), PolicyFatal),
        (403, b"<html>Forbidden</html>", PolicyFatal),
        (404, openai_error("The model `m` does not exist."), PolicyFatal),
        (404, b'{"detail":"Not Found"}', PolicyFatal),
        (405, b"", PolicyFatal),
        (307, b"", PolicyFatal),
        (501, b"", PolicyFatal),
        (429, openai_error("You exceeded your current quota", "insufficient_quota"), PolicyFatal),
        (429, openai_error("Rate limit reached"), PolicyBusy),
        (408, b"", PolicyUnavailable),
        (425, b"", PolicyUnavailable),
        (500, b'"just a string"', PolicyUnavailable),
        (503, b"[" * 100_000, PolicyUnavailable),
        (529, openai_error("Overloaded"), PolicyUnavailable),
        (999, b"", PolicyUnavailable),
        (400, openai_error("x", "context_length_exceeded"), PromptTooLong),
        (400, openai_error("This model's maximum context length is 1024 tokens."), PromptTooLong),
        (400, openai_error("You passed 1030 input tokens and requested 16 output tokens."), PromptTooLong),
        (400, b'{"object":"error","message":"max_tokens must be at least 1, got -186","code":400}', PromptTooLong),
        (400, openai_error("temperature must be non-negative"), RequestRefused),
        (413, b"", RequestRefused),
        (422, b'{"detail":[{"msg":"extra"}]}', RequestRefused),
    ],
)
def test_an_answer_means_what_the_table_says(status: int, body: bytes, expected: type[Exception]) -> None:
    error = failure(status, {}, body)
    assert type(error) is expected
    assert error.status == status


def test_the_servers_words_are_kept_short_printable_and_without_the_key() -> None:
    error = failure(401, {}, openai_error("bad key sk-secret-1 \x1b[31m" + "x" * 5000), "sk-secret-1")
    assert "sk-secret-1" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "2"}, 2.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-1"}, 0.0),
        ({"Retry-After": "1e9"}, MAX_RETRY_AFTER_S),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2099 07:28:00"}, MAX_RETRY_AFTER_S),
        ({"retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
    ],
)
def test_retry_after_is_finite_and_clamped(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_retry_after_takes_a_date_in_the_future() -> None:
    date = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 27 < (retry_after_s({"Retry-After": date}) or 0) <= 30
