"""Answers of the stub: chat completions as vLLM sends them, with token ids and log-probabilities, right and wrong in turn.

A kind has many different answers, so that nothing downstream (dictionaries of Parquet, branch predictors) profits from
seeing one answer for ever.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

SEPARATOR = b"\x1e"
"""Stands between the three parts of an answer that the stub puts together (`stub/behaviour.hpp`)."""
RIGHT_ANSWER = "42"
WRONG_ANSWER = "41"
MODEL = "stub"


class Kind(NamedTuple):
    """A size of answers."""

    num_tokens: int
    num_answers: int


KINDS = {"small": Kind(8, 64), "2KB": Kind(18, 64), "large": Kind(512, 32)}
"""By name: about 1 KB, 2 KB and 53 KB."""


def write_answers(kind: str, folder: Path) -> list[Path]:
    """Write the answers of a kind, each a file for the stub's `--body`; the same kind gives the same bytes."""
    num_tokens, num_answers = KINDS[kind]
    random_numbers = random.Random(f"{kind} {num_tokens}")
    paths: list[Path] = []
    for number in range(num_answers):
        path = folder / f"{kind}-{number}.answer"
        path.write_bytes(_answer(random_numbers, num_tokens, RIGHT_ANSWER if number % 2 else WRONG_ANSWER))
        paths.append(path)
    return paths


def _answer(random_numbers: random.Random, num_tokens: int, final: str) -> bytes:
    tokens = [_word(random_numbers) for _ in range(num_tokens - 4)] + [" \\boxed", "{", final, "}"]
    choice = {
        "message": {"role": "assistant", "content": "".join(tokens), "refusal": None, "tool_calls": []},
        "logprobs": {"content": [_logprob(random_numbers, token) for token in tokens]},
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": [random_numbers.randrange(150_000) for _ in tokens],
    }
    usage = {"prompt_tokens": 32, "total_tokens": 32 + num_tokens, "completion_tokens": num_tokens}
    rest = {"usage": usage, "prompt_token_ids": [random_numbers.randrange(150_000) for _ in range(32)]}
    identity = f'{{"id":"chatcmpl-{random_numbers.getrandbits(64):016x}","object":"chat.completion","model":"{MODEL}",'
    # What the stub puts before a choice is its index, so a choice goes on from there with a comma.
    parts = (f'{identity}"choices":[', f",{_compact(choice)[1:]}", f"],{_compact(rest)[1:]}")
    return SEPARATOR.join(part.encode() for part in parts)


def _logprob(random_numbers: random.Random, token: str) -> dict[str, object]:
    logprob = -random_numbers.expovariate(2)
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}


def _word(random_numbers: random.Random) -> str:
    return " " + "".join(random_numbers.choices("etaoinshrdlu", k=random_numbers.randint(2, 4)))


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
