"""Throughput: how much a server does at one number of samples in flight, and how sure that is.

By Little's law the work done in a second is the number in flight times the work of a request per second of its latency.
So the work of few requests tells much: tokens are known for each, and a long answer takes as much longer as it has more
of them. Where a server counts no tokens, a sample is the unit, and it takes many answers to tell noise from a gain.
Pure: no clock.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Gain(NamedTuple):
    """How much more one throughput is than another, as a natural logarithm: 0 for the same, 0.69 for twice as much."""

    mean: float
    error: float
    """Standard error of `mean`, as if answers were independent of each other."""

    def is_above(self, least: float, num_errors: float) -> bool:
        """Whether it is more than `least`, by so many standard errors."""
        return self.mean - num_errors * self.error > least

    def is_below(self, most: float, num_errors: float) -> bool:
        """Whether it is less than `most`, by so many standard errors."""
        return self.mean + num_errors * self.error < most


class Throughput:
    """Sums over the answers that ended while about the same number of samples was in flight."""

    __slots__ = ("_both", "_busy", "_busy_squares", "_in_flight", "_work", "_work_squares", "num_answers")

    def __init__(self) -> None:
        self.num_answers = 0
        self._work = 0.0
        self._busy = 0.0
        self._in_flight = 0
        self._work_squares = 0.0
        self._busy_squares = 0.0
        self._both = 0.0

    def add(self, work: float, busy_s: float, in_flight: int) -> None:
        """Take in an answer.

        Args:
            work: Tokens, or samples where tokens are not known.
            busy_s: Seconds for which it held slots: its latency, times its samples.
            in_flight: Samples in flight when it ended.
        """
        self.num_answers += 1
        self._work += work
        self._busy += busy_s
        self._in_flight += in_flight
        self._work_squares += work * work
        self._busy_squares += busy_s * busy_s
        self._both += work * busy_s

    @property
    def per_second(self) -> float:
        """Work in a second; 0.0 when nothing is known."""
        if not self._busy or not self.num_answers:
            return 0.0
        return self._in_flight / self.num_answers * self._work / self._busy

    @property
    def error(self) -> float:
        """Relative standard error of `per_second`, that of a ratio of sums; infinite when nothing is known."""
        if self.num_answers < 2 or not self._work or not self._busy:
            return math.inf
        ratio = self._work / self._busy
        squares = self._work_squares - 2 * ratio * self._both + ratio * ratio * self._busy_squares
        return math.sqrt(max(0.0, squares)) / self._work

    def gain_over(self, other: Throughput) -> Gain:
        """Compare with another throughput; both must hold answers with work in them, or the error is infinite."""
        error = math.hypot(self.error, other.error)
        if math.isinf(error):
            return Gain(0.0, math.inf)
        return Gain(math.log(self.per_second / other.per_second), error)
