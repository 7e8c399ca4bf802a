"""A trial of another level: whether a server does more with more in flight, or no less with less.

The gain of throughput decides, once it is known well enough. Levels that were measured in haste can only show a gain that
is beyond doubt: short answers come first, and those that began before a change were faster or slower, so early figures are
off by several per cent. Pure: no clock.
"""

from __future__ import annotations

import math
from typing import Literal

from rollouts.policy.throughput import Throughput

LEAST_GAIN = 0.04
"""Gain of throughput for which the number in flight is doubled. Of a server whose steps take a + b * n, as those of GPUs
do, this finds about 96 % of what it could ever do."""
LEAST_LOSS = 0.02
"""Loss of throughput that is not worth having a third less in flight."""
CLEAR_GAIN = 0.35
"""Gain for a doubling, or half of it as a loss, that is beyond doubt after two round trips."""
ROUNDS_TO_JUDGE = 8.0
"""Mean latencies after a change until smaller gains and losses count. Without tokens it takes twice as long."""
EXPLORING_ANSWERS = 6
"""Answers for each sample in flight after which a first trial ends, decided or not."""

Verdict = Literal["better", "slightly better", "no better", "too early", "measure again"]
"""`slightly better`: worth keeping, but no more than that. `measure again`: the base is not known well enough."""


def rounds_to_judge(by_tokens: bool) -> float:
    """Mean latencies after a change until its throughput is a fair figure."""
    return ROUNDS_TO_JUDGE if by_tokens else 2 * ROUNDS_TO_JUDGE


class Trial:
    """What a server does at one level, to compare others with.

    Args:
        base: Throughput there.
        level: Samples in flight there.
        is_rough: Whether it was measured in less than `rounds_to_judge`.
    """

    __slots__ = ("base", "is_rough", "level")

    def __init__(self, base: Throughput, level: float, *, is_rough: bool) -> None:
        self.base = base
        self.level = level
        self.is_rough = is_rough

    def judge(self, seen: Throughput, level: float, *, is_rough: bool) -> Verdict:
        """Compare another level with the base.

        Args:
            seen: Throughput at the other level.
            level: Samples in flight there; above the base's it has to do more, below it, about as much.
            is_rough: Whether it was measured in less than `rounds_to_judge`.
        """
        gain = seen.gain_over(self.base)
        doublings = math.log2(level / self.level)
        if doublings < 0:
            if gain.mean < 0.5 * CLEAR_GAIN * doublings:
                return "no better"
        elif gain.mean > CLEAR_GAIN * doublings and gain.is_above(LEAST_GAIN * doublings, 2.5):
            return "better"
        if self.is_rough:
            return "measure again"
        if is_rough:
            return "too early"
        most = max(EXPLORING_ANSWERS * max(level, self.level), self.base.num_answers)
        is_over = seen.num_answers >= most
        if doublings < 0:
            if gain.is_above(-LEAST_LOSS, 2):
                return "better"
            return "no better" if is_over or gain.is_below(-LEAST_LOSS, 1) else "too early"
        least = LEAST_GAIN * doublings
        if gain.is_above(least, 2.5) or (is_over and gain.is_above(0.0, 3) and gain.mean > least):
            return "better"
        if not is_over and not gain.is_below(1.5 * least, 2.5):
            return "too early"
        return "slightly better" if gain.is_above(0.0, 3) and gain.mean > 0.5 * least else "no better"
