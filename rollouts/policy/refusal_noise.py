"""Refusals as noise: some servers refuse a share of the requests whatever the number in flight, and cutting does not help.

A server that is full refuses what is beyond its number, and nothing once there are fewer. So what tells is whether about the
same share is refused at half the level. A limit on requests a minute is no noise: with fewer in flight, fewer are refused.
Refused probes say nothing here and are always heeded. Pure: moments are passed in.
"""

from __future__ import annotations

import math

LEAST_SHARE = 0.005
MOST_SHARE = 0.4
"""Shares of refused requests below which nothing is told, and above which refusals are always heeded."""
LEAST_REFUSALS = 5
LEAST_ENDED = 24
"""Refusals on each side, and requests that ended on the lower one, that are needed to tell."""
MOST_REMEMBERED = 1024
"""Requests that are remembered for each level; beyond, the counts are halved."""
EPISODE_S = 60.0
"""Seconds without refusals after which all is forgotten that was counted."""
MEMORY_S = 600.0
"""Seconds for which noise is expected after the last of it."""


class _Level:
    """What ended at a level, which stands for all up to twice as high."""

    __slots__ = ("ended", "highest", "refused", "surprising")

    def __init__(self) -> None:
        self.ended = 0
        self.refused = 0
        self.surprising = 0
        self.highest = 0


class RefusalNoise:
    """Tells refusals that come whatever the number in flight from those that say how many are served."""

    __slots__ = ("_expected_until", "_last_at", "_levels", "_share")

    def __init__(self) -> None:
        self._share = 0.0
        """Share of the last requests that were refused, some 64 of them weighing most."""
        self._levels: dict[int, _Level] = {}
        """By the number of bits of the level."""
        self._last_at = self._expected_until = -math.inf

    def answered(self, level: int) -> None:
        """Note an answer."""
        self._share -= self._share / 64
        self._levels.setdefault(level.bit_length(), _Level()).ended += 1

    def refused(self, now: float, level: int, *, surprising: bool) -> int | None:
        """Note a refusal that was not provoked by a probe.

        Args:
            now: Monotonic seconds.
            level: Samples that may be in flight.
            surprising: Whether requests had been accepted since the last cut, and no more was asked for since. Only such
                refusals tell something: those that follow each other are how a server says that it takes far fewer.

        Returns:
            The level to go on with, as if nothing had been refused; `None` when the refusal has to be heeded.
        """
        self._share += (1 - self._share) / 64
        if now - self._last_at > EPISODE_S:
            self._levels.clear()
        self._last_at = now
        self._count(level, surprising=surprising)
        if now < self._expected_until and self._share <= MOST_SHARE:
            self._expected_until = now + MEMORY_S
            return level
        return self._tell(now, level.bit_length()) if surprising else None

    def _count(self, level: int, *, surprising: bool) -> None:
        here = self._levels.setdefault(level.bit_length(), _Level())
        here.ended += 1
        here.refused += 1
        here.surprising += surprising
        here.highest = max(here.highest, level)
        if here.ended > MOST_REMEMBERED:
            here.ended //= 2
            here.refused //= 2
            here.surprising //= 2

    def _tell(self, now: float, bits: int) -> int | None:
        """Compare this level and those below it with those above."""
        above = [seen for key, seen in self._levels.items() if key > bits]
        below = [seen for key, seen in self._levels.items() if key <= bits]
        refused_above, refused_below = sum(seen.refused for seen in above), sum(seen.surprising for seen in below)
        ended_below = sum(seen.ended for seen in below)
        if min(refused_above, refused_below) < LEAST_REFUSALS or ended_below < LEAST_ENDED:
            return None
        share_above, share_below = refused_above / sum(seen.ended for seen in above), refused_below / ended_below
        if not LEAST_SHARE <= share_below <= MOST_SHARE or not 0.5 < share_below / share_above < 2.0:
            return None
        self._expected_until = now + MEMORY_S
        self._share = share_below
        return max(seen.highest for seen in above)
