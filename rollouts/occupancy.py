"""Occupancy: how full the slots were, and what kept them from being fuller.

A pure accumulator with an injected clock. Areas (samples times seconds) are added up at every change, so the figures are
exact however irregular the changes come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Literal, TypeAlias

HeldBy: TypeAlias = Literal["requests_per_minute", "tokens_per_minute", "no_prompts", "out_of_service"]
"""What kept free slots empty."""


class Occupancy:
    """Adds up in-flight samples and allowed samples over time.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._in_flight = 0
        self._allowed = 0
        self._busy = self._room = 0.0
        self._held_by: HeldBy | None = None
        self._held_s: defaultdict[str, float] = defaultdict(float)
        self._busy_until = self._room_until = 0.0
        self.peak_allowed = 0

    def changed(self, in_flight: int, allowed: int, held_by: HeldBy | None = None) -> None:
        """Note how things are from now on.

        Args:
            in_flight: Samples in flight.
            allowed: Samples that may be.
            held_by: What keeps free slots empty; `None` when nothing but the limit does.
        """
        now = self._clock()
        elapsed = now - self._since
        self._since = now
        self._busy += elapsed * self._in_flight
        self._room += elapsed * self._allowed
        if self._held_by is not None:
            self._held_s[self._held_by] += elapsed
        self._in_flight = in_flight
        self._allowed = allowed
        self._held_by = held_by
        self.peak_allowed = max(self.peak_allowed, allowed)

    def first_sent(self) -> None:
        """Note that a sample was sent for the first time: the share counts until the last such moment."""
        elapsed = self._clock() - self._since
        self._busy_until = self._busy + elapsed * self._in_flight
        self._room_until = self._room + elapsed * self._allowed

    @property
    def busy_share(self) -> float | None:
        """Share of the allowed slots that were in flight until the last first sending, 0..1; `None` before it."""
        # A limit may be cut below what is in flight already, so the share is of the larger of the two.
        room = max(self._room_until, self._busy_until)
        return self._busy_until / room if room else None

    @property
    def held_s(self) -> dict[str, float]:
        """Seconds in which something held free slots empty, by what."""
        return {name: seconds for name, seconds in sorted(self._held_s.items()) if seconds > 0}
