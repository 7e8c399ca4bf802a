"""What the simulated server counts, so that tests can ask how it was used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import msgspec

CHAT_PATH = "/v1/chat/completions"
NO_ANSWER = 0
"""Stands for the status of a request that got no answer: the connection was broken, or the client left."""


class Requests(msgspec.Struct, frozen=True):
    """Counts since the server started, at one moment."""

    received: dict[str, int]
    """Requests by path; all unknown paths count as "other"."""
    answered: dict[str, dict[int, int]]
    """Requests that are over, by path and status; 0 stands for no answer."""
    faults: dict[str, int]
    """Scripted faults that happened, by kind."""
    generated: int
    """Completions sampled; a request for n choices counts n times."""
    in_flight: int
    """Chat completion requests that are being worked on."""
    peak_in_flight: int
    """The most there ever were at the same time."""


class Tally:
    """Counts requests. Safe to read from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._received: Counter[str] = Counter()
        self._answered: Counter[tuple[str, int]] = Counter()
        self._faults: Counter[str] = Counter()
        self._generated = 0
        self._in_flight = 0
        self._peak = 0

    @property
    def in_flight(self) -> int:
        """Chat completion requests that are being worked on."""
        return self._in_flight

    def received(self, path: str) -> None:
        """Count a request that came in."""
        with self._lock:
            self._received[path] += 1

    def answered(self, path: str, status: int) -> None:
        """Count a request that is over."""
        with self._lock:
            self._answered[path, status] += 1

    def fault(self, kind: str) -> None:
        """Count a scripted fault."""
        with self._lock:
            self._faults[kind] += 1

    def generated(self, completions: int) -> None:
        """Count sampled completions."""
        with self._lock:
            self._generated += completions

    @contextmanager
    def flight(self) -> Iterator[None]:
        """Count a request as in flight inside the block."""
        with self._lock:
            self._in_flight += 1
            self._peak = max(self._peak, self._in_flight)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight -= 1

    def snapshot(self) -> Requests:
        """Return all counts of this moment."""
        with self._lock:
            answered: dict[str, dict[int, int]] = {}
            for (path, status), count in sorted(self._answered.items()):
                answered.setdefault(path, {})[status] = count
            return Requests(
                received=dict(self._received),
                answered=answered,
                faults=dict(self._faults),
                generated=self._generated,
                in_flight=self._in_flight,
                peak_in_flight=self._peak,
            )
