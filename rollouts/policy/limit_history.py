"""The history of a limit: its changes with their reasons, few enough to be stored and shown.

Small steps of one direction and one reason are one change; wobbling around a value is none. When there are too many, older
ones are thinned out, so the recent past is always there in detail. Pure: the time of each change is passed in.
"""

from __future__ import annotations

from rollouts.session import LimitChange

MOST_CHANGES = 256
SMALL_STEP = 0.5
"""Steps by less than this share are merged with the one before, when that went the same way for the same reason."""
WOBBLE = 0.05
"""Steps by less than this share since the last change are not told, nor those by a single sample from eight on."""


class LimitHistory:
    """Changes of one limit, in order.

    Args:
        limit: What it is at first; that is no change.
    """

    def __init__(self, limit: int) -> None:
        self._told = limit
        self._rising: bool | None = None
        self.changes: list[LimitChange] = []
        """At most `MOST_CHANGES`."""

    def note(self, at: float, limit: int, reason: str) -> None:
        """Tell what the limit is now, changed or not.

        Args:
            at: UNIX seconds.
            limit: The limit.
            reason: What binds it from now on.
        """
        step = limit - self._told
        if not step or abs(step) < max(WOBBLE * self._told, min(2, self._told / 4)):
            return
        change = LimitChange(at=at, limit=limit, reason=reason)
        is_small = abs(step) < SMALL_STEP * self._told
        last = self.changes[-1] if self.changes else None
        if last is not None and is_small and last.reason == reason and self._rising == (step > 0):
            self.changes[-1] = change
        else:
            self.changes.append(change)
        self._told = limit
        self._rising = step > 0
        if len(self.changes) > MOST_CHANGES:
            half = MOST_CHANGES // 2
            self.changes[:half] = self.changes[:half:2]
