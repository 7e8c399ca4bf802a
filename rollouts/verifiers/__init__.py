"""Verifiers judge completions. One file a kind; adding one is a file here and a line in `VERIFIERS`.

A verifier is a plain class without state, importable by name, because it runs in worker processes that can be killed:

    class StartsWithYes:
        kind = "starts_with_yes"
        version = "1"
        reward_range = (0.0, 1.0)

        def check(self, ground_truth: object) -> None:
            return None

        def score(self, text: str, ground_truth: object) -> Score:
            return Score(reward=float(text.startswith("yes")), answer=text[:3])

It raises plain Python errors; only `rollouts.verification` classifies them.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec


class Score(msgspec.Struct, frozen=True):
    """What a verifier found in one completion."""

    reward: float
    """In the verifier's `reward_range`, higher is better."""
    answer: str | None = None
    """The final answer it read out of the text; `None` when there was none (the model failed, the verifier did not)."""
    components: dict[str, float] = {}
    """Named parts of the reward, when there are several."""


class Verifier(Protocol):
    """Judges one completion against one reference answer. Pure: the same arguments give the same score."""

    kind: str
    """Name in settings and verdicts."""
    version: str
    """Changes whenever a score could change; part of the identity of verdicts."""
    reward_range: tuple[float, float]
    """Smallest and largest reward it returns."""

    def check(self, ground_truth: Any) -> None:
        """Refuse a reference answer that cannot be used.

        Raises:
            InvalidGroundTruth: It is missing, of the wrong type, or cannot be parsed.
        """
        ...

    def score(self, text: str, ground_truth: Any) -> Score:
        """Judge `text`, the whole text of the last assistant message (thinking included)."""
        ...
