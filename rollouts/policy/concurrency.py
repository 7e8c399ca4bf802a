"""Concurrency: how many samples may be in flight at one endpoint, chosen and obeyed, or found while sampling.

Both kinds are told the same and asked the same. Pure state machines: no tasks, no clients; the clock is given and never goes
back. Not thread-safe, but `limit` and `reason` may be read from anywhere.
"""

from __future__ import annotations

from typing import Protocol

from rollouts.policy.adaptive_limit import FIRST_LIMIT, HIGHEST_LIMIT, AdaptiveLimit
from rollouts.policy.server_load import ServerGauges
from rollouts.session import LimitChange

__all__ = ["FIRST_LIMIT", "HIGHEST_LIMIT", "AdaptiveLimit", "FixedLimit", "Limit", "ServerGauges"]


class Limit(Protocol):
    """How many samples may be in flight at one endpoint. Told of every request that ended.

    `in_flight` is always the number of samples in flight there, those that just ended included. Failures that say nothing
    about load (other 5xx, connections) are not told.
    """

    @property
    def limit(self) -> int:
        """Samples that may be in flight now, >= 1."""
        ...

    @property
    def reason(self) -> str:
        """What binds it now, such as "growing", "refused (429)", "server queue", "latency"."""
        ...

    @property
    def changes(self) -> list[LimitChange]:
        """Its changes so far, in order, a few hundred at most."""
        ...

    def answered(self, latency_s: float, in_flight: int, num_samples: int = 1, num_tokens: int | None = None) -> None:
        """Note an answer.

        Args:
            latency_s: From sending to the last byte.
            in_flight: Samples in flight, these included.
            num_samples: Samples of the request.
            num_tokens: Tokens of all its samples as the server counted them; `None` when it did not.
        """
        ...

    def refused(self, in_flight: int, retry_after_s: float | None) -> None:
        """Note that the server put a request off (429, 503), and for how long if it said so."""
        ...

    def timed_out(self, in_flight: int) -> None:
        """Note a request that was not answered in time."""
        ...

    def gauges(self, seen: ServerGauges) -> None:
        """Note what the server says of its load."""
        ...


class FixedLimit:
    """A limit that somebody chose, >= 1: obeyed exactly, whatever happens."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reason = "fixed"
        self.changes: list[LimitChange] = []

    def answered(self, latency_s: float, in_flight: int, num_samples: int = 1, num_tokens: int | None = None) -> None:
        """Change nothing."""

    def refused(self, in_flight: int, retry_after_s: float | None) -> None:
        """Change nothing."""

    def timed_out(self, in_flight: int) -> None:
        """Change nothing."""

    def gauges(self, seen: ServerGauges) -> None:
        """Change nothing."""
