"""Estimates: a mean with its uncertainty, pass@k, a distribution, a histogram; plain numbers in, small records out.

NaN in an input means "not known": it is left out and counted, never taken for a zero. `None` in a record means that
there is nothing to say; no record holds a NaN. Rollouts of one prompt resemble each other, so every interval treats
prompts, not rollouts, as the independent units. All functions are pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import BaseModel, ConfigDict

_LEAST, _MOST = 1e-290, 1e290
"""Spans and rewards beyond these are taken for these: their bins could not be computed."""
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


def clustered_means(groups: Any, by: Any) -> dict[Any, Estimate]:
    """Average over rollouts (micro), with standard errors clustered by prompt.

    With residuals e_gi = r_gi - mean, G prompts and N values, the standard error is
    sqrt(sum_g (sum_i e_gi)^2) / N * sqrt(G / (G - 1)): the cluster-robust error of an intercept.

    Args:
        groups: A DataFrame, one row a prompt: `num_scored` known rewards and their sum `total`.
        by: Key of each row; one estimate for each key.

    Returns:
        An estimate for each key, keys in ascending order.
    """
    rows = groups.assign(key=by)
    sums = rows.assign(known=rows["num_scored"] > 0).groupby("key")[["num_scored", "total", "known"]].sum()
    means = sums["total"] / sums["num_scored"].where(sums["num_scored"] > 0)
    residual = rows["total"] - rows["num_scored"] * rows["key"].map(means)
    squares = (residual**2).groupby(rows["key"]).sum()
    num_prompts = sums["known"].where(sums["known"] > 1)
    errors = np.sqrt(squares) / sums["num_scored"] * np.sqrt(num_prompts / (num_prompts - 1))
    columns = zip(sums.index, means, errors, sums["known"], sums["num_scored"], strict=True)
    return {key: estimate(mean, error, int(prompts), int(n)) for key, mean, error, prompts, n in columns}


def mean_of_prompts(values_P: npt.NDArray[np.float64], bounds: tuple[float, float] | None = None) -> Estimate:
    """Average one value for each prompt (macro); NaN where a prompt has none."""
    values = values_P[~np.isnan(values_P)]
    count = len(values)
    mean = float(values.mean()) if count else math.nan
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.nan
    return estimate(mean, error, count, count, bounds)


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


def mean_pass_at_k(num_scored_P: npt.NDArray[np.int64], num_passed_P: npt.NDArray[np.int64], k: int) -> Estimate:
    """Average pass@k over the prompts that have at least `k` known rewards."""
    enough = num_scored_P >= k
    pairs = pd.DataFrame({"n": num_scored_P[enough], "c": num_passed_P[enough]})
    distinct = pairs.drop_duplicates()
    values = [pass_at_k(int(n), int(c), k) for n, c in zip(distinct["n"], distinct["c"], strict=True)]
    merged = pairs.merge(distinct.assign(value=values), on=["n", "c"], how="left")
    return mean_of_prompts(merged["value"].to_numpy(dtype=np.float64), bounds=(0.0, 1.0))


def distribution(values: npt.NDArray[np.float64]) -> Distribution:
    """Describe `values`; percentiles are interpolated linearly."""
    finite = values[np.isfinite(values)]
    p50, p95, p99 = np.percentile(finite, [50, 95, 99]) if len(finite) else (math.nan,) * 3
    return Distribution(
        num_known=len(finite),
        num_unknown=len(values) - len(finite),
        total=known(finite.sum()) if len(finite) else None,
        mean=known(finite.mean()) if len(finite) else None,
        p50=known(p50),
        p95=known(p95),
        p99=known(p99),
        max=known(finite.max()) if len(finite) else None,
    )


def reward_histogram(rewards: npt.NDArray[np.float64]) -> Histogram:
    """Count rewards in twenty bins from 0 to 1, or over the range they have when they leave it."""
    finite = np.clip(rewards[np.isfinite(rewards)], -_MOST, _MOST)
    if not len(finite):
        return Histogram(edges=[], counts={})
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    differ = high - low > 1e-6 * max(abs(low), abs(high))
    step = nice_step(high - low, 20) if differ else nice_step(max(abs(low), abs(high)), 1)
    first = math.floor(low / step + 1e-9)
    last = max(first + 1, math.ceil(high / step - 1e-9))
    edges = _edges(first, last, step)
    counts, _ = np.histogram(np.clip(finite, edges[0], edges[-1]), bins=edges)
    return Histogram(edges=edges, counts={"rollouts": counts.tolist()})


def positive_histogram(series: Mapping[str, npt.NDArray[np.float64]], least_step: float = 0.0) -> Histogram:
    """Count values >= 0 of several series in the same bins, at most 40, from 0 up to the outliers.

    The bins end at the largest value, or at the 99th percentile when the largest is more than twice as far out.

    Args:
        series: Values by name; NaN is left out.
        least_step: Smallest width of a bin: 1 for whole numbers.
    """
    finite = {name: values[np.isfinite(values)] for name, values in series.items()}
    together = np.concatenate([*finite.values(), np.empty(0)])
    if not len(together):
        return Histogram(edges=[], counts={})
    largest, p99 = float(together.max()), float(np.percentile(together, 99))
    end = p99 if largest > 2 * p99 > 0 else largest
    step = max(nice_step(end, 40) if end > 0 else 1.0, least_step)
    edges = _edges(0, math.floor(end / step) + 1, step)
    counts = {name: np.histogram(values, bins=edges)[0].tolist() for name, values in finite.items()}
    return Histogram(edges=edges, counts=counts, num_above=int((together > edges[-1]).sum()))


def _edges(first: int, last: int, step: float) -> list[float]:
    """Multiples of `step`, without the last digits that multiplying leaves."""
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
