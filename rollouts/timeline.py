"""The timeline: how many rollouts ended when, in buckets whose width follows from how long the run took."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rollouts.estimates import Statistic
from rollouts.run_sums import Times

MAX_BUCKETS = 60
"""Buckets of a timeline, at most: as many as a chart shows apart."""
_DAY_S = 86400
_BUCKETS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, _DAY_S)


class Timeline(Statistic):
    """What ended when, in buckets of equal duration from the first start on."""

    started_at: float
    bucket_s: float
    completed: list[int]
    failed: list[int]
    output_tokens: list[float] | None
    """Completion tokens as far as they are known; `None` when no rollout tells."""


def count_over_time(times: Times, wall_time_s: float) -> Timeline:
    """Count what ended in each bucket.

    Args:
        times: When rollouts began and ended; at least one start is known.
        wall_time_s: Seconds from the first start to the last end, >= 0.
    """
    bucket_s = bucket_width_s(wall_time_s)
    num_buckets = math.floor(wall_time_s / bucket_s) + 1
    before_s = times.base - times.started_at

    def buckets(ended_s: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        # A clock that was set back may put an end before the first start: the first bucket takes it.
        return ((ended_s.astype(np.float64) + before_s) / bucket_s).astype(np.int64).clip(0, num_buckets - 1)

    completed, failed, output_tokens = np.zeros((3, num_buckets))
    any_known = False
    for ended_s, tokens in zip(times.completed_s, times.tokens, strict=True):
        completed += np.bincount(buckets(ended_s), minlength=num_buckets)
        output_tokens += np.bincount(buckets(ended_s), np.nan_to_num(tokens), num_buckets)
        any_known = any_known or not np.isnan(tokens).all()
    for ended_s in times.failed_s:
        failed += np.bincount(buckets(ended_s), minlength=num_buckets)
    return Timeline(
        started_at=times.started_at,
        bucket_s=bucket_s,
        completed=completed.astype(np.int64).tolist(),
        failed=failed.astype(np.int64).tolist(),
        output_tokens=output_tokens.tolist() if any_known else None,
    )


def bucket_width_s(wall_time_s: float) -> float:
    """Return the shortest customary duration of which `MAX_BUCKETS` suffice; whole days beyond two months."""
    for width in _BUCKETS_S:
        if wall_time_s < width * MAX_BUCKETS:
            return float(width)
    return float(_DAY_S * (math.floor(wall_time_s / _DAY_S / MAX_BUCKETS) + 1))
