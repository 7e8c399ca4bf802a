"""Identity is content: the same things get the same id on every machine, in every order, in every process.

An id is the first 128 bits of a SHA-256 over canonical JSON (keys sorted, no white space, UTF-8, floats as Python
prints them), in hexadecimal. Nothing here depends on hash randomisation, file order or the clock.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(order="sorted")


def canonical_json(value: Any) -> bytes:
    """Encode `value` (JSON types, structs) with sorted keys and no white space. NaN and infinity become null."""
    return _encoder.encode(value)


def content_id(kind: str, *parts: Any) -> str:
    """Return the 32-digit hexadecimal id of `parts`; `kind` keeps equal contents of different nouns apart."""
    return hashlib.sha256(canonical_json([kind, *parts])).hexdigest()[:32]


def rollout_id(sampling_id: str, prompt_id: str, repeat_index: int) -> str:
    """Return the id of the `repeat_index`-th attempt at a prompt under one way of sampling."""
    return content_id("rollout", sampling_id, prompt_id, repeat_index)


class RolloutIds:
    """Ids of all attempts at a prompt under one way of sampling; what they share is hashed once."""

    def __init__(self, sampling_id: str, prompt_id: str) -> None:
        self._shared = hashlib.sha256(canonical_json(["rollout", sampling_id, prompt_id])[:-1])

    def of(self, repeat_index: int) -> str:
        """Return what `rollout_id` returns."""
        digest = self._shared.copy()
        digest.update(b",%d]" % repeat_index)
        return digest.hexdigest()[:32]


def derived_seed(run_seed: int, prompt_id: str, repeat_index: int) -> int:
    """Return the seed sent with one rollout: 0..2**31-1, distinct for the repeats of a prompt, stable for ever."""
    digest = hashlib.sha256(canonical_json(["seed", run_seed, prompt_id, repeat_index])).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def unit_interval(seed: int, key: str) -> float:
    """Map `key` to 0 <= x < 1, evenly and independently of every other key: splits and samples are drawn with it."""
    digest = hashlib.sha256(canonical_json(["unit", seed, key])).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
