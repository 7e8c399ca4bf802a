"""Estimates: a mean with its uncertainty, pass@k, a distribution, a histogram; plain numbers in, small records out.

NaN in an input means "not known": it is left out and counted, never taken for a zero. `None` in a record means that
there is nothing to say; no record holds a NaN. Rollouts of one prompt resemble each other, so every interval treats
prompts, not rollouts, as the independent units. All functions are pure, and none copies its input more than once: a
million values stay a few megabytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

_LEAST, _MOST = 1e-290, 1e290
"""Spans and rewards beyond these are taken for these: their bins could not be computed."""
_BLOCK = 1 << 16
"""Values that are widened to double precision at a time."""
Z_95 = NormalDist().inv_cdf(0.975)
"""Half-width of a 95 % interval in standard errors, normal approximation."""


class Statistic(BaseModel):
    """Base of all numbers of a run: JSON in and out, no NaN, no infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Estimate(Statistic):
    """A mean with a 95 % confidence interval whose independent units are prompts.

    The interval is a normal approximation: too narrow below some thirty prompts, and of no width when all are equal.
    """

    mean: float | None
    """`None` when no value is known."""
    standard_error: float | None
    """`None` under two prompts."""
    low: float | None
    """Lower end of the interval; `None` under two prompts."""
    high: float | None
    """Upper end of the interval; `None` under two prompts."""
    num_prompts: int
    """Prompts with at least one known value."""
    num_values: int
    """Known values."""

    @property
    def has_interval(self) -> bool:
        """Whether there is an interval to show, of more width than rounding gives."""
        if self.low is None or self.high is None:
            return False
        return self.high - self.low > 1e-9 * max(abs(self.low), abs(self.high))


class Values(NamedTuple):
    """Known values of one quantity, ascending, and how many are not known."""

    known: npt.NDArray[Any]
    """Finite floats of any width."""
    counts: npt.NDArray[np.int64] | None = None
    """How often each value occurs, at least once; `None`: once each."""
    num_unknown: int = 0

    @property
    def num_known(self) -> int:
        """Number of known values, repetitions counted."""
        return len(self.known) if self.counts is None else int(self.counts.sum())

    @property
    def total(self) -> float:
        """Sum of the known values, added up in double precision."""
        return float(self.known.sum(dtype=np.float64) if self.counts is None else (self.known * self.counts).sum())

    def quantiles(self, *shares: float) -> list[float]:
        """Percentiles at `shares` 0..1, interpolated linearly between neighbours; NaN when no value is known."""
        if not len(self.known):
            return [math.nan] * len(shares)
        upto = None if self.counts is None else np.cumsum(self.counts)

        def at(rank: int) -> float:
            return float(self.known[rank if upto is None else np.searchsorted(upto, rank, side="right")])

        last = self.num_known - 1
        places = [(math.floor(share * last), share * last % 1) for share in shares]
        return [(1 - part) * at(rank) + part * at(min(rank + 1, last)) for rank, part in places]

    def in_bins(self, edges: list[float]) -> list[int]:
        """Count the values in each bin; a bin holds its lower edge, the last one also its upper edge."""
        upto = np.zeros(len(edges), dtype=np.int64)
        for start in range(0, len(self.known), _BLOCK):
            block = self.known[start : start + _BLOCK].astype(np.float64)
            places = np.append(np.searchsorted(block, edges[:-1]), np.searchsorted(block, edges[-1], side="right"))
            counts = self.counts
            upto += places if counts is None else np.append(0, np.cumsum(counts[start : start + _BLOCK]))[places]
        return np.diff(upto).tolist()


def values_of(array: npt.NDArray[Any]) -> Values:
    """Take an array for its values; what is not finite is not known. It is sorted in place: a copy could be large."""
    array.sort()
    infinite = array.dtype.type(np.inf)  # of the array's own type, or the array would be converted to the other's
    first, stop = np.searchsorted(array, -infinite, side="right"), np.searchsorted(array, infinite, side="left")
    return Values(array[first:stop], num_unknown=len(array) - int(stop - first))


class Distribution(Statistic):
    """Where the values of one quantity lie. All numbers but the counts are `None` when no value is known."""

    num_known: int
    num_unknown: int
    total: float | None
    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    max: float | None


class Histogram(Statistic):
    """Values counted in bins of equal width; a bin holds its lower edge, the last one also its upper edge."""

    edges: list[float]
    """Ascending, one more than there are bins; [] when no value is known."""
    counts: dict[str, list[int]]
    """For each series, the values in each bin."""
    num_above: int = 0
    """Values beyond the last edge: outliers, left out of the bins so that the others can be told apart."""


def known(value: float) -> float | None:
    """Return `value` as a plain float, or `None` when it is NaN or infinite."""
    return float(value) if math.isfinite(value) else None


def nice_step(span: float, num_steps: int) -> float:
    """Return the smallest of 1, 2, 5, 10, ... (times a power of ten) that covers `span` > 0 in `num_steps` steps."""
    exact = max(span, _LEAST) / num_steps
    power = 10.0 ** math.floor(math.log10(exact))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * num_steps >= span * (1 - 1e-9))


def estimate(
    mean: float, standard_error: float, num_prompts: int, num_values: int, bounds: tuple[float, float] | None = None
) -> Estimate:
    """Make an estimate; its interval is cut to `bounds`, the range that the mean cannot leave."""
    low, high = mean - Z_95 * standard_error, mean + Z_95 * standard_error
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    has_error = num_prompts >= 2
    return Estimate(
        mean=known(mean),
        standard_error=known(standard_error) if has_error else None,
        low=known(low) if has_error else None,
        high=known(high) if has_error else None,
        num_prompts=num_prompts,
        num_values=num_values,
    )


def clustered_means(
    num_scored_P: npt.NDArray[Any], total_P: npt.NDArray[np.float64], key_P: npt.NDArray[Any], num_keys: int
) -> list[Estimate]:
    """Average over rollouts (micro), with standard errors clustered by prompt, for each key apart.

    With residuals e_gi = r_gi - mean, G prompts and N values, the standard error is
    sqrt(sum_g (sum_i e_gi)^2) / N * sqrt(G / (G - 1)): the cluster-robust error of an intercept.

    Args:
        num_scored_P: Known rewards of each prompt.
        total_P: Their sum.
        key_P: Key of each prompt, 0..num_keys-1.
        num_keys: Number of keys.

    Returns:
        An estimate for each key, in order.
    """
    num_values = np.bincount(key_P, num_scored_P, num_keys)
    num_prompts = np.bincount(key_P, num_scored_P > 0, num_keys)
    with np.errstate(all="ignore"):  # a key without values has no mean, one prompt no error
        means = np.bincount(key_P, total_P, num_keys) / num_values
        residual_P = np.where(num_scored_P > 0, total_P - num_scored_P * means[key_P], 0.0)
        squares = np.bincount(key_P, residual_P**2, num_keys)
        errors = np.sqrt(squares) / num_values * np.sqrt(num_prompts / (num_prompts - 1))
    rows = zip(means, errors, num_prompts, num_values, strict=True)
    return [estimate(float(mean), float(error), int(prompts), int(n)) for mean, error, prompts, n in rows]


def means_of_prompts(
    values_P: npt.NDArray[np.float64],
    key_P: npt.NDArray[Any],
    num_keys: int,
    bounds: tuple[float, float] | None = None,
) -> list[Estimate]:
    """Average one value for each prompt (macro), for each key apart; NaN where a prompt has none."""
    known_P = ~np.isnan(values_P)
    values, key = values_P[known_P], key_P[known_P]
    count = np.bincount(key, minlength=num_keys)
    with np.errstate(all="ignore"):  # as above
        means = np.bincount(key, values, num_keys) / count
        variances = np.bincount(key, (values - means[key]) ** 2, num_keys) / (count - 1)
        errors = np.sqrt(variances / count)
    rows = zip(means, errors, count, strict=True)
    return [estimate(float(mean), float(error), int(n), int(n), bounds) for mean, error, n in rows]


def mean_of_prompts(values_P: npt.NDArray[np.float64], bounds: tuple[float, float] | None = None) -> Estimate:
    """Average one value for each prompt (macro); NaN where a prompt has none."""
    return means_of_prompts(values_P, np.zeros(len(values_P), dtype=np.int8), 1, bounds)[0]


def pass_at_k(num_scored: int, num_passed: int, k: int) -> float:
    """Estimate the chance that at least one of `k` rollouts passes, without bias: 1 - C(n-c, k) / C(n, k).

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", section 2.1. Whole numbers of any
    size are exact here, so no product form is needed.

    Args:
        num_scored: n, rollouts with a known reward, at least `k`.
        num_passed: c, those among them that pass.
        k: At least 1.
    """
    return 1 - math.comb(num_scored - num_passed, k) / math.comb(num_scored, k)


def mean_pass_at_k(num_scored_P: npt.NDArray[Any], num_passed_P: npt.NDArray[Any], k: int) -> Estimate:
    """Average pass@k over the prompts that have at least `k` known rewards."""
    enough = num_scored_P >= k
    num_scored, num_passed = num_scored_P[enough].astype(np.int64), num_passed_P[enough]
    base = int(num_scored.max(initial=0)) + 1
    pairs, counts = np.unique(num_scored * base + num_passed, return_counts=True)
    values = np.array([pass_at_k(*divmod(int(pair), base), k) for pair in pairs], dtype=np.float64)
    count = int(counts.sum())
    mean = float((values * counts).sum()) / count if count else math.nan
    variance = float(((values - mean) ** 2 * counts).sum()) / (count - 1) if count > 1 else math.nan
    return estimate(mean, math.sqrt(variance / count) if count > 1 else math.nan, count, count, bounds=(0.0, 1.0))


def distribution(values: Values) -> Distribution:
    """Describe values; percentiles are interpolated linearly."""
    num_known = values.num_known
    p50, p95, p99 = values.quantiles(0.50, 0.95, 0.99)
    return Distribution(
        num_known=num_known,
        num_unknown=values.num_unknown,
        total=known(values.total) if num_known else None,
        mean=known(values.total / num_known) if num_known else None,
        p50=known(p50),
        p95=known(p95),
        p99=known(p99),
        max=known(values.known[-1]) if num_known else None,
    )


def reward_histogram(rewards: Values) -> Histogram:
    """Count rewards in twenty bins from 0 to 1, or over the range they have when they leave it."""
    if not len(rewards.known):
        return Histogram(edges=[], counts={})
    finite = np.clip(rewards.known, -_MOST, _MOST)
    low, high = float(finite[0]), float(finite[-1])
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    differ = high - low > 1e-6 * max(abs(low), abs(high))
    step = nice_step(high - low, 20) if differ else nice_step(max(abs(low), abs(high)), 1)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    edges = _edges(first, last, step)
    inside = rewards._replace(known=np.clip(finite, edges[0], edges[-1]))
    return Histogram(edges=edges, counts={"rollouts": inside.in_bins(edges)})


def positive_histogram(series: Mapping[str, Values], together: Values, least_step: float = 0.0) -> Histogram:
    """Count values >= 0 of several series in the same bins, at most 40, from 0 up to the outliers.

    The bins end at the largest value, or at the 99th percentile when the largest is more than twice as far out.

    Args:
        series: Values by name.
        together: The values of all series.
        least_step: Smallest width of a bin: 1 for whole numbers.
    """
    if not len(together.known):
        return Histogram(edges=[], counts={})
    largest, [p99] = float(together.known[-1]), together.quantiles(0.99)
    end = p99 if largest > 2 * p99 > 0 else largest
    step = max(nice_step(end, 40) if end > 0 else 1.0, least_step)
    edges = _edges(0, math.floor(end / step) + 1, step)
    counts = {name: values.in_bins(edges) for name, values in series.items()}
    [num_above] = together.in_bins([math.nextafter(edges[-1], math.inf), math.inf])
    return Histogram(edges=edges, counts=counts, num_above=num_above)


def _edges(first: int, last: int, step: float) -> list[float]:
    """Multiples of `step`, without the last digits that multiplying leaves."""
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
