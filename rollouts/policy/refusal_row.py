"""Refusals in a row: how deep to cut when a server refuses, and goes on refusing what was sent after the cut.

One refusal says how many are served. Those that were sent before the cut tell the same, later. One that was sent after it,
while nothing was accepted, says that the server takes far fewer: each of them cuts deeper, so that a server that falls from
64 to 16 refuses seven requests rather than 48. Pure: moments are passed in.
"""

from __future__ import annotations

import math

CUTS = (1.0, 0.95, 0.85, 0.75)
"""What is left after the first refusal in a row, the second, and so on (guess): one may be bad luck, four are not."""
ACCEPTED_ANSWERS = 4
"""Answers after a cut, each of which let a request in, that show that the server accepts again."""


class RefusalRow:
    """Refusals since the server last accepted something."""

    __slots__ = ("_num_answers", "_room_at", "cut_at", "length", "refusal_s")

    def __init__(self) -> None:
        self.length = 0
        """Cuts in the row; 0 when the server has accepted since."""
        self.cut_at = -math.inf
        self.refusal_s = 0.05
        """How long a refusal takes, from sending on."""
        self._room_at: float | None = None
        """Since when requests can have been sent after the last cut; `None` when not yet."""
        self._num_answers = 0

    def answered(self, now: float, latency_s: float, *, has_room: bool) -> None:
        """Note an answer; `has_room` when it lets another request in."""
        if now - latency_s > self.cut_at:
            self.length = 0  # it was sent after the cut
        elif has_room:
            self._num_answers += 1
            if self._room_at is None:
                self._room_at = now

    def look(self, now: float) -> None:
        """End the row when several requests were sent after the cut and would have been refused by now."""
        if self._room_at is None or self._num_answers < ACCEPTED_ANSWERS:
            return
        if now - self._room_at > 2 * self.refusal_s:
            self.length = 0

    def refused(self, now: float) -> float | None:
        """Note a refusal that is heeded.

        Returns:
            What is left of the level; `None` when the request was sent before the last cut.
        """
        self.cut_at = now
        if self.length and self._room_at is None:
            return None
        share = CUTS[min(self.length, len(CUTS) - 1)]
        self.length += 1
        self._room_at, self._num_answers = None, 0
        return share

    def took(self, seconds: float) -> None:
        """Learn how long a refusal takes."""
        self.refusal_s += (min(seconds, 1.0) - self.refusal_s) / 4
