"""The timeline: how many rollouts ended when, in buckets whose width follows from how long the run took."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rollouts.estimates import Statistic
from rollouts.rollout_columns import Column, Frame

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


def count_over_time(frame: Frame, completed: Column, started_at: float, wall_time_s: float) -> Timeline:
    """Count what ended in each bucket.

    Args:
        frame: One row a rollout, with `ended_at` and `completion_tokens`; rollouts without an end are left out.
        completed: Whether each rollout has a completion.
        started_at: First start, UNIX seconds.
        wall_time_s: Seconds from there to the last end, >= 0.
    """
    bucket_s = bucket_width_s(wall_time_s)
    num_buckets = math.floor(wall_time_s / bucket_s) + 1
    timed = frame["ended_at"].notna()
    # A clock that was set back may put an end before the first start: the first bucket takes it.
    index = ((frame["ended_at"].where(timed, started_at) - started_at) / bucket_s).to_numpy()
    bucket: npt.NDArray[np.int64] = index.astype(np.int64).clip(0, num_buckets - 1)
    done, failed = (timed & completed).to_numpy(), (timed & ~completed).to_numpy()
    tokens: npt.NDArray[np.float64] = frame["completion_tokens"].to_numpy()[done]
    sums = np.bincount(bucket[done], weights=np.nan_to_num(tokens), minlength=num_buckets)
    return Timeline(
        started_at=started_at,
        bucket_s=bucket_s,
        completed=np.bincount(bucket[done], minlength=num_buckets).tolist(),
        failed=np.bincount(bucket[failed], minlength=num_buckets).tolist(),
        output_tokens=None if np.isnan(tokens).all() else sums.tolist(),
    )


def bucket_width_s(wall_time_s: float) -> float:
    """Return the shortest customary duration of which `MAX_BUCKETS` suffice; whole days beyond two months."""
    for width in _BUCKETS_S:
        if wall_time_s < width * MAX_BUCKETS:
            return float(width)
    return float(_DAY_S * (math.floor(wall_time_s / _DAY_S / MAX_BUCKETS) + 1))
