"""Metrics: everything that is counted and estimated about a run, from its shards alone, in one record.

`None` means "not known"; shares are 0..1, durations seconds, times UNIX seconds. Rollouts without a reward are counted
and stay out of every mean: they are never a zero. Prompts, not rollouts, are the independent units of all intervals.
Only a few numbers for each rollout are in memory, so a million rollouts fit beside the page that shows them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from rollouts.estimates import (
    Distribution,
    Estimate,
    Histogram,
    Statistic,
    clustered_means,
    distribution,
    known,
    mean_of_prompts,
    mean_pass_at_k,
    positive_histogram,
    reward_histogram,
)
from rollouts.records import StopReason, VerdictStatus
from rollouts.rollout_columns import Column, Frame, RolloutColumns, read_rollout_columns
from rollouts.storage import Store
from rollouts.timeline import Timeline, count_over_time

_MAX_LEVELS = 16
"""Pass rates are counted exactly up to this group size, and in tenths above it."""


class Failure(Statistic):
    """One kind of failure. A failure has no reward."""

    stage: Literal["policy", "verifier"]
    """Who failed: the policy server, or the verifier."""
    type: str
    """Class name of the error."""
    count: int
    message: str
    """First message of this kind, in the order of the shards. Written by others: escape it."""


class PassAt(Statistic):
    """Chance that at least one of `k` rollouts of a prompt passes."""

    k: int
    estimate: Estimate
    """Unbiased, averaged over the prompts that have at least `k` known rewards; its `num_prompts` says how many."""


class GroupSpread(Statistic):
    """How many groups carry no signal for training. Only groups with at least two known rewards are looked at."""

    num_groups: int
    num_equal: int
    """Groups whose known rewards are all equal."""
    num_all_pass: int
    """Groups in which every known reward passes, equal or not."""
    num_all_fail: int
    """Groups in which no known reward passes, equal or not."""
    share_equal: float | None
    """Zero-variance share: `num_equal` / `num_groups`."""


class CategoryMetrics(Statistic):
    """One category of prompts."""

    category: str | None
    """`None` stands for prompts without one."""
    num_prompts: int
    num_rollouts: int
    num_unknown: int
    """Rollouts without a reward."""
    reward: Estimate
    pass_at_1: Estimate
    share_equal: float | None
    """Zero-variance share of its groups."""
    truncation_rate: float | None
    mean_completion_tokens: float | None


class VerifierMetrics(Statistic):
    """One verifier in one version."""

    verifier: str
    version: str | None
    num_verdicts: int
    """Completions it was asked about."""
    num_failed: int
    """Verdicts without a reward, the verifier's own failures and unusable reference answers."""
    mean_duration_s: float | None


class Metrics(Statistic):
    """All numbers of one run."""

    version: Literal[1] = 1
    """Version of this record's layout."""
    pass_threshold: float
    """Reward from which a rollout counts as a pass."""
    num_prompts: int
    """Prompts in the snapshot."""
    num_prompts_sampled: int
    """Prompts with at least one rollout, failed ones included."""
    num_rollouts: int
    num_completed: int
    """Rollouts with a completion."""
    num_failed: int
    """Rollouts without one: the policy server failed."""
    num_scored: int
    """Rollouts with a known reward."""
    failures: list[Failure]
    """Most frequent first."""
    verdicts: dict[str, int]
    """Verdicts by status."""
    reward: Estimate
    """Mean over rollouts (micro), clustered by prompt."""
    reward_of_prompts: Estimate
    """Mean over prompts of the mean of each group (macro)."""
    rewards: Histogram
    pass_at: list[PassAt]
    """For k = 1, 2, 4, ... up to the largest group."""
    pass_rates: list[int]
    """Prompts by share of passes: entry i of n + 1 counts shares nearest to i / n; the first and the last hold only
    the prompts that never or always pass."""
    spread: GroupSpread
    truncation_rate: float | None
    """Share of completed rollouts that the token limit cut."""
    stop_reasons: dict[str, int]
    flags: dict[str, int]
    prompt_tokens: Distribution
    """For each completed rollout, as the server counted them."""
    completion_tokens: Distribution
    completion_lengths: Histogram
    """Completion tokens by stop reason."""
    latency_s: Distribution
    """Completed rollouts, waiting between attempts included."""
    latencies: Histogram
    attempts: dict[int, int]
    """Rollouts by requests sent."""
    num_retries: int
    """Requests sent beyond the first of each rollout."""
    models: dict[str, int]
    """Completed rollouts by the model that answered, in the server's words."""
    num_model_unknown: int
    """Completed rollouts whose server did not name its model."""
    started_at: float | None
    """First start."""
    ended_at: float | None
    """Last end."""
    wall_time_s: float | None
    """From the first start to the last end; rollouts kept from an earlier run make it span the pause."""
    rollouts_per_s: float | None
    """Completed rollouts over the wall time."""
    output_tokens_per_s: float | None
    """Known completion tokens over the wall time."""
    timeline: Timeline | None
    categories: list[CategoryMetrics]
    """By name; prompts without a category last."""
    verifiers: list[VerifierMetrics]
    """By name and version."""


def collect_metrics(
    store: Store, prompts_key: str, shards: Sequence[tuple[str, str]], pass_threshold: float
) -> Metrics:
    """Count and estimate everything about a run.

    Args:
        store: Holds the snapshot and the shards.
        prompts_key: Key of the prompt snapshot.
        shards: Keys of each rollout shard and its verdict shard. May be empty.
        pass_threshold: Reward from which a rollout counts as a pass.

    Raises:
        StoreError: A shard does not exist or cannot be read.
        DataError: Two shards of a pair do not belong together, or a rollout's prompt is not in the snapshot.
    """
    columns = read_rollout_columns(store, prompts_key, shards)
    frame = columns.rollouts
    frame["passed"] = frame["reward"] >= pass_threshold
    completed = frame["error"].isna()
    truncated = completed & (frame["stop_reason"] == StopReason.LENGTH.value)
    groups = _groups(frame)
    num_completed = int(completed.sum())
    return Metrics(
        pass_threshold=pass_threshold,
        num_prompts=len(columns.categories),
        num_prompts_sampled=len(groups),
        num_rollouts=len(frame),
        num_completed=num_completed,
        num_failed=len(frame) - num_completed,
        num_scored=int(frame["reward"].notna().sum()),
        failures=_failures(columns),
        verdicts=_counts(frame["status"]),
        reward=_overall_reward(groups),
        reward_of_prompts=mean_of_prompts((groups["total"] / groups["num_scored"]).to_numpy(dtype=np.float64)),
        rewards=reward_histogram(frame["reward"].to_numpy()),
        pass_at=_pass_at(groups),
        pass_rates=_pass_rates(groups),
        spread=_spread(groups),
        truncation_rate=_ratio(int(truncated.sum()), num_completed),
        stop_reasons=_counts(frame["stop_reason"]),
        flags=_most_frequent(columns.flags),
        prompt_tokens=distribution(frame["prompt_tokens"][completed].to_numpy()),
        completion_tokens=distribution(frame["completion_tokens"][completed].to_numpy()),
        completion_lengths=_lengths_by_stop_reason(frame[completed]),
        latency_s=distribution(frame["latency_s"][completed].to_numpy(dtype=np.float64)),
        latencies=positive_histogram({"rollouts": frame["latency_s"][completed].to_numpy(dtype=np.float64)}),
        attempts={int(n): int(count) for n, count in frame["attempts"].value_counts().sort_index().items()},
        num_retries=int((frame["attempts"] - 1).clip(lower=0).sum()),
        models=_most_frequent(Counter({name: count for name, count in columns.models.items() if name is not None})),
        num_model_unknown=columns.models[None],
        **_times(frame, completed),
        categories=_categories(frame, groups, columns.categories, completed, truncated),
        verifiers=_verifiers(frame),
    )


def _groups(frame: Frame) -> Frame:
    """One row a prompt: its rollouts, its known rewards, and how they spread."""
    return frame.groupby("prompt").agg(
        num_rollouts=("reward", "size"),
        num_scored=("reward", "count"),
        total=("reward", "sum"),
        lowest=("reward", "min"),
        highest=("reward", "max"),
        num_passed=("passed", "sum"),
    )


def _overall_reward(groups: Frame) -> Estimate:
    everything = clustered_means(groups, np.zeros(len(groups), dtype=np.int8))
    return everything.get(0) or mean_of_prompts(np.empty(0))


def _pass_at(groups: Frame) -> list[PassAt]:
    """Estimate pass@k for every power of two up to the largest group."""
    num_scored, num_passed = groups["num_scored"].to_numpy(), groups["num_passed"].to_numpy()
    largest = int(groups["num_rollouts"].max()) if len(groups) else 0
    ks = [1 << exponent for exponent in range(largest.bit_length())]
    return [PassAt(k=k, estimate=mean_pass_at_k(num_scored, num_passed, k)) for k in ks]


def _pass_rates(groups: Frame) -> list[int]:
    """Count prompts by share of passes; a prompt that passes sometimes is never counted at either end."""
    scored = groups[groups["num_scored"] > 0]
    if scored.empty:
        return []
    largest = int(scored["num_scored"].max())
    levels = largest if largest <= _MAX_LEVELS else 10
    rates = (scored["num_passed"] / scored["num_scored"]).to_numpy()
    nearest = np.rint(rates * levels).astype(int)
    inside = (rates > 0) & (rates < 1)
    if levels == 1:
        return np.bincount(nearest, minlength=2).tolist()
    return np.bincount(np.where(inside, nearest.clip(1, levels - 1), nearest), minlength=levels + 1).tolist()


def _spread(groups: Frame) -> GroupSpread:
    several = groups[groups["num_scored"] >= 2]
    num_equal = int((several["lowest"] == several["highest"]).sum())
    return GroupSpread(
        num_groups=len(several),
        num_equal=num_equal,
        num_all_pass=int((several["num_passed"] == several["num_scored"]).sum()),
        num_all_fail=int((several["num_passed"] == 0).sum()),
        share_equal=_ratio(num_equal, len(several)),
    )


def _failures(columns: RolloutColumns) -> list[Failure]:
    stages: list[tuple[Literal["policy", "verifier"], Column]] = [
        ("policy", columns.rollouts["error"]),
        ("verifier", columns.rollouts["verdict_error"][columns.rollouts["error"].isna()]),
    ]
    found = [
        Failure(stage=stage, type=kind, count=count, message=columns.messages[stage, kind])
        for stage, errors in stages
        for kind, count in _counts(errors).items()
    ]
    return sorted(found, key=lambda failure: (-failure.count, failure.stage, failure.type))


def _lengths_by_stop_reason(completed: Frame) -> Histogram:
    present = _counts(completed["stop_reason"])
    lengths = completed["completion_tokens"]
    return positive_histogram(
        {reason: lengths[completed["stop_reason"] == reason].to_numpy() for reason in present}, least_step=1.0
    )


def _times(frame: Frame, completed: Column) -> dict[str, Any]:
    """Name the fields that depend on the clock; all `None` when no rollout has its times."""
    started_at, ended_at = known(frame["started_at"].min()), known(frame["ended_at"].max())
    wall_time_s = None if started_at is None or ended_at is None else max(0.0, ended_at - started_at)
    tokens = frame["completion_tokens"][completed]
    num_tokens = float(tokens.sum()) if tokens.notna().any() else None
    return {
        "started_at": started_at,
        "ended_at": ended_at,
        "wall_time_s": wall_time_s,
        "rollouts_per_s": _ratio(int(completed.sum()), wall_time_s),
        "output_tokens_per_s": None if num_tokens is None else _ratio(num_tokens, wall_time_s),
        "timeline": None
        if started_at is None or wall_time_s is None
        else count_over_time(frame, completed, started_at, wall_time_s),
    }


def _categories(
    frame: Frame, groups: Frame, categories: Any, completed: Column, truncated: pd.Series
) -> list[CategoryMetrics]:
    """Put prompts together by category. -1 stands for prompts without one, until the names are put in."""
    key_P = pd.Series(categories.codes, name="key")
    key = key_P.to_numpy()[frame["prompt"].to_numpy(dtype=np.int64)]
    key_G = key_P.to_numpy()[groups.index.to_numpy(dtype=np.int64)]
    several = groups["num_scored"] >= 2
    equal = (groups["lowest"] == groups["highest"]).where(several).astype(float)
    pass_rate = groups["num_passed"] / groups["num_scored"].where(groups["num_scored"] > 0)
    rewards = clustered_means(groups, key_G)
    passes = {k: mean_of_prompts(rates.to_numpy(dtype=np.float64), (0.0, 1.0)) for k, rates in pass_rate.groupby(key_G)}
    table: Frame = pd.DataFrame({"num_prompts": key_P.value_counts()})
    table["num_rollouts"] = frame.groupby(key).size()
    table["num_unknown"] = frame["reward"].isna().groupby(key).sum()
    table["share_equal"] = equal.groupby(key_G).mean()
    table["truncation_rate"] = truncated.where(completed).astype(float).groupby(key).mean()
    table["mean_completion_tokens"] = frame["completion_tokens"].where(completed).groupby(key).mean()
    nothing = mean_of_prompts(np.empty(0))
    rows = [
        CategoryMetrics(
            category=None if row.Index < 0 else str(categories.categories[row.Index]),
            num_prompts=int(row.num_prompts),
            num_rollouts=int(np.nan_to_num(row.num_rollouts)),
            num_unknown=int(np.nan_to_num(row.num_unknown)),
            reward=rewards.get(row.Index, nothing),
            pass_at_1=passes.get(row.Index, nothing),
            share_equal=known(row.share_equal),
            truncation_rate=known(row.truncation_rate),
            mean_completion_tokens=known(row.mean_completion_tokens),
        )
        for row in table.itertuples()
    ]
    return sorted(rows, key=lambda row: (row.category is None, row.category or ""))


def _verifiers(frame: Frame) -> list[VerifierMetrics]:
    """Put verdicts together by verifier and version; rollouts without a completion were never judged."""
    judged = frame[frame["status"] != VerdictStatus.POLICY_FAILED.value]
    failed = judged["status"].isin([VerdictStatus.VERIFIER_FAILED.value, VerdictStatus.INVALID_GROUND_TRUTH.value])
    table = (
        judged.assign(failed=failed)
        .groupby(["verifier", "verifier_version"], observed=True, dropna=False)
        .agg(count=("failed", "size"), failed=("failed", "sum"), duration=("duration_s", "mean"))
    )
    rows = [
        VerifierMetrics(
            verifier="" if pd.isna(verifier) else str(verifier),
            version=None if pd.isna(version) else str(version),
            num_verdicts=int(count),
            num_failed=int(num_failed),
            mean_duration_s=known(duration),
        )
        for (verifier, version), count, num_failed, duration in table.itertuples(name=None)
    ]
    return sorted(rows, key=lambda row: (row.verifier, row.version or ""))


def _counts(names: Column) -> dict[str, int]:
    """Count names that occur, most frequent first, then by name; missing ones are left out."""
    counts = names.value_counts()
    return _most_frequent(Counter({str(name): int(count) for name, count in counts.items() if count}))


def _most_frequent(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _ratio(part: float, whole: float | None) -> float | None:
    return known(part / whole) if whole else None
