"""A circuit breaker: whether an endpoint is fit for requests, judged by how its last ones ended.

    closed ── failures ──▶ open ── probe answered ──▶ trial ── answer, or no failure for a while ──▶ closed
                            ▲  └─ probe failed: later again      │
                            └──────────── failure ◀──────────────┘

Closed and trial are in service. While it is open, nothing is sent but probes, after a back-off that doubles as long as no
request is answered, up to a cap, with jitter from a seed. Two rules open it: as many failures in a row as requests were in
flight (a server that is gone fails them all at once), and half of the last 64 when another endpoint can do the work; a
lone endpoint that answers every other request is still better than none.

A pure state machine: the moment of each event is passed in, nothing is scheduled here. Kept libraries (purgatory,
pybreaker, aiobreaker, circuitbreaker) read the clock of the machine themselves, wrap calls instead of taking outcomes,
and count neither shares nor trials, so none of them fits.
"""

from __future__ import annotations

import random
from enum import Enum

LEAST_IN_A_ROW = 3
MOST_IN_A_ROW = 20
"""Failures in a row that open it: as many as were in flight, between these two (guess). With one request in flight a few
must do, because each costs an attempt; with hundreds in flight a few may be chance."""
WINDOW = 64
"""Outcomes that are remembered; half of them failures opens it (guess)."""
FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 30.0
"""Seconds until the first probe and, at most, between two of them: a probe is cheap, an idle server is not."""
TRIAL_REQUESTS = 8
TRIAL_S = 10.0
"""Requests that may be sent in a trial until one is answered, and seconds without a failure that end it as well: long
completions must not keep a healthy server waiting."""

_MASK = (1 << WINDOW) - 1


class _State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    TRIAL = "trial"


class CircuitBreaker:
    """State of one endpoint. Moments (`now`) are seconds on one monotonic clock.

    Args:
        seed: Seeds the jitter; the endpoint's URL, so that endpoints are not probed in step.
    """

    __slots__ = (
        "_failures_seen",
        "_level",
        "_random",
        "_state",
        "_trial_requests",
        "_until",
        "closed",
        "epoch",
        "out_since",
        "times_opened",
    )

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._state = _State.CLOSED
        self._failures_seen = 0
        """Last outcomes, one bit each, the newest lowest: 1 is a failure."""
        self._level = 0
        self._until = 0.0
        """While open, when to probe; in a trial, when it ends."""
        self._trial_requests = 0
        self.closed = True
        """Whether everything may be sent: the fast path of `admits`."""
        self.epoch = 0
        """Counts openings. An outcome of a request that was sent in an earlier epoch says nothing about this one."""
        self.times_opened = 0
        """How often it was taken out of service; trials that failed are part of the same outage."""
        self.out_since: float | None = None
        """Since when nothing has been answered because it was opened; `None` when it is well."""

    @property
    def in_service(self) -> bool:
        """Whether requests may be sent, if only a few."""
        return self._state is not _State.OPEN

    def admits(self, now: float) -> bool:
        """Whether a request may be sent now."""
        if self._state is _State.TRIAL and now >= self._until:
            self._set(_State.CLOSED)
        return self.closed or (self._state is _State.TRIAL and self._trial_requests > 0)

    def wait_s(self, now: float) -> float | None:
        """Seconds until a probe is due or a trial ends, >= 0; `None` when it is closed."""
        return None if self.closed else max(0.0, self._until - now)

    def sent(self) -> None:
        """Note a request."""
        if not self.closed:
            self._trial_requests -= 1

    def answered(self) -> None:
        """Note an answer that shows the server at work."""
        self._failures_seen = (self._failures_seen << 1) & _MASK
        self._level = 0
        self.out_since = None
        if self._state is _State.TRIAL:
            self._set(_State.CLOSED)

    def failed(self, now: float, in_flight: int, *, alone: bool) -> bool:
        """Note a failure that is the server's.

        Args:
            now: When.
            in_flight: Samples in flight at the endpoint, those that failed now included.
            alone: Whether no other endpoint is in service.

        Returns:
            Whether that has taken the endpoint out of service.
        """
        self._failures_seen = (self._failures_seen << 1 | 1) & _MASK
        in_a_row = (1 << min(max(in_flight, LEAST_IN_A_ROW), MOST_IN_A_ROW)) - 1
        broken = (
            self._state is _State.TRIAL
            or self._failures_seen & in_a_row == in_a_row
            or (not alone and self._failures_seen.bit_count() * 2 >= WINDOW)
        )
        return broken and self.open(now)

    def open(self, now: float) -> bool:
        """Take the endpoint out of service; returns whether it was in service before."""
        if self._state is _State.OPEN:
            return False
        if self.out_since is None:
            self.out_since = now
            self.times_opened += 1
        self.epoch += 1
        self._set(_State.OPEN)
        self._back_off(now)
        return True

    def probed(self, now: float, alive: bool) -> None:
        """Note what a probe found while it was open: it is tried, or left alone for longer."""
        if self._state is not _State.OPEN:
            return
        if not alive:
            self._back_off(now)
            return
        self._set(_State.TRIAL)
        self._until = now + TRIAL_S
        self._trial_requests = TRIAL_REQUESTS

    def _back_off(self, now: float) -> None:
        longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._level, 16))
        self._until = now + longest * self._random.uniform(0.5, 1.0)
        self._level += 1

    def _set(self, state: _State) -> None:
        self._state = state
        self.closed = state is _State.CLOSED
        self._failures_seen = 0
