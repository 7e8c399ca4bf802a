"""A server's load, as its own gauges tell it: whether it has room, has a queue that stays, or is full.

A short queue is welcome, because it fills gaps at once, and one that has just come may go as fast: a batch of prompts is
read in before it runs. Gauges that are not read again soon count for nothing. Pure: moments are passed in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

WELCOME_QUEUE = 0.1
"""A queue of less than this share of what runs is no queue."""
CACHE_FULL = 0.95
CACHE_ROOM = 0.9
"""Use of the KV cache at which growing stops, and below which it may go on: vLLM preempts sequences when it is full."""
LASTS_S = 30.0
"""Seconds for which gauges count."""
STAYS_S = (3.0, 10.0)
"""A queue that is there for a mean latency stays; bounds of that."""


class ServerGauges(NamedTuple):
    """What a server says of its own load; `None` for what it does not say."""

    running: int | None
    """Requests it works on."""
    waiting: int | None
    """Requests in its queue."""
    kv_cache_use: float | None
    """Share of its KV cache that is used, 0..1."""


class ServerLoad:
    """What the last gauges say."""

    __slots__ = ("_queued_since", "_read_at", "has_room", "is_full", "queues")

    def __init__(self) -> None:
        self.has_room = False
        """Whether nothing queues and the cache has room."""
        self.queues = False
        self.is_full = False
        """Whether the KV cache is full."""
        self._read_at = -math.inf
        self._queued_since: float | None = None

    def is_known(self, now: float) -> bool:
        """Whether there are gauges, and not from long ago."""
        return now - self._read_at < LASTS_S

    def read(self, now: float, seen: ServerGauges, latency_s: float) -> float | None:
        """Take in gauges.

        Args:
            now: Monotonic seconds.
            seen: The gauges.
            latency_s: Mean latency of an answer.

        Returns:
            The share of what is in flight that is run, 0..1, when a queue has stayed; `None` otherwise.
        """
        running, waiting, cache = seen.running, seen.waiting, seen.kv_cache_use
        if waiting is None and cache is None:
            return None
        self._read_at = now
        self.has_room = waiting == 0 and (cache is None or cache < CACHE_ROOM)
        self.is_full = cache is not None and cache >= CACHE_FULL
        self.queues = waiting is not None and running is not None and waiting > max(1, WELCOME_QUEUE * running)
        if not self.queues or not running or not waiting:
            self._queued_since = None
            return None
        if self._queued_since is None:
            self._queued_since = now
        if now - self._queued_since < min(STAYS_S[1], max(STAYS_S[0], latency_s)):
            return None
        self._queued_since = now
        return running / (running + waiting)
