import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.estimates import (
    Estimate,
    Histogram,
    Values,
    clustered_means,
    distribution,
    mean_of_prompts,
    mean_pass_at_k,
    nice_step,
    pass_at_k,
    positive_histogram,
    reward_histogram,
    values_of,
)

groups_of_rewards = st.lists(
    st.lists(st.floats(-10, 10, allow_nan=False), min_size=1, max_size=5), min_size=2, max_size=8
)


def means_of(groups: list[list[float]], keys: list[int]) -> list[Estimate]:
    """Clustered means of groups of rewards, one for each key."""
    num_scored_P = np.array([len(group) for group in groups])
    total_P = np.array([math.fsum(group) for group in groups])
    return clustered_means(num_scored_P, total_P, np.array(keys), max(keys) + 1)


def histogram_of(array: npt.NDArray[np.float64]) -> Histogram:
    return positive_histogram({"all": values_of(array)}, values_of(array))


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_pass(case: tuple[int, int, int]):
    n, c, k = case
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_exact_for_the_largest_groups():
    assert pass_at_k(1024, 1, 512) == 0.5
    assert pass_at_k(1024, 512, 512) == pytest.approx(1.0)


def test_mean_pass_at_k_leaves_out_prompts_with_too_few_rewards():
    num_scored, num_passed = np.array([4, 4, 1]), np.array([1, 4, 1])
    at_2 = mean_pass_at_k(num_scored, num_passed, 2)
    assert at_2.num_prompts == 2
    assert at_2.mean == pytest.approx((0.5 + 1) / 2)
    at_8 = mean_pass_at_k(num_scored, num_passed, 8)
    assert (at_8.mean, at_8.low, at_8.num_prompts) == (None, None, 0)


@given(groups_of_rewards)
def test_the_clustered_error_equals_a_slow_double_sum_over_pairs_of_a_prompt(groups: list[list[float]]):
    values = [r for group in groups for r in group]
    mean = math.fsum(values) / len(values)
    pairs = math.fsum((a - mean) * (b - mean) for group in groups for a in group for b in group)
    count = len(groups)
    slow = math.sqrt(max(0.0, pairs)) / len(values) * math.sqrt(count / (count - 1))
    found = means_of(groups, [0] * count)[0]
    assert found.mean == pytest.approx(mean, abs=1e-9)
    assert found.standard_error == pytest.approx(slow, abs=1e-6)


def test_the_clustered_error_of_single_rollouts_is_the_ordinary_one():
    rewards = [0.0, 1.0, 1.0, 0.5]
    found = means_of([[r] for r in rewards], [0] * 4)[0]
    assert found.standard_error == pytest.approx(np.std(rewards, ddof=1) / 2)


def test_repeating_every_rollout_does_not_narrow_the_interval():
    once = means_of([[0.0], [1.0], [1.0]], [0] * 3)[0]
    often = means_of([[0.0] * 9, [1.0] * 9, [1.0] * 9], [0] * 3)[0]
    assert once.standard_error == pytest.approx(often.standard_error)


def test_each_key_gets_the_estimate_that_it_would_get_alone():
    groups = [[0.0, 1.0], [1.0, 1.0], [0.5], [0.25, 0.0, 1.0]]
    together = means_of(groups, [0, 0, 1, 1])
    assert together[0] == means_of(groups[:2], [0, 0])[0]
    assert together[1] == means_of(groups[2:], [1, 1])[1]


def test_one_prompt_has_a_mean_and_no_interval():
    found = means_of([[0.0, 1.0]], [0])[0]
    assert (found.mean, found.standard_error, found.low, found.high) == (0.5, None, None, None)
    assert not found.has_interval


def test_no_values_give_no_mean():
    assert mean_of_prompts(np.array([np.nan, np.nan])).mean is None
    assert means_of([[]], [0])[0].mean is None


def test_an_interval_of_shares_stays_between_0_and_1():
    found = mean_of_prompts(np.array([0.0, 1.0, 1.0]), bounds=(0.0, 1.0))
    assert found.low is not None
    assert 0 < found.low < 1
    assert found.high == 1


def test_rewards_that_are_equal_up_to_rounding_have_no_interval():
    assert not means_of([[0.1] * 3, [0.1] * 7], [0, 0])[0].has_interval


def test_a_distribution_counts_what_it_does_not_know():
    found = distribution(values_of(np.array([1.0, np.nan, 3.0, 2.0])))
    assert (found.num_known, found.num_unknown, found.total, found.mean, found.p50, found.max) == (3, 1, 6, 2, 2, 3)
    nothing = distribution(values_of(np.array([np.nan])))
    assert (nothing.num_unknown, nothing.total, nothing.p95) == (1, None, None)


@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=50))
def test_a_reward_histogram_holds_every_reward_once(rewards: list[float]):
    found = reward_histogram(values_of(np.array([*rewards, np.nan])))
    assert sum(found.counts["rollouts"]) == len(rewards)
    assert len(found.edges) == len(found.counts["rollouts"]) + 1
    assert found.edges == sorted(set(found.edges))


@given(st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=50))
def test_a_histogram_counts_outliers_beside_its_bins(values: list[float]):
    found = histogram_of(np.array(values))
    assert sum(found.counts["all"]) + found.num_above == len(values)
    assert len(found.counts["all"]) <= 41


def test_one_extreme_value_does_not_squeeze_the_others_into_one_bin():
    found = histogram_of(np.array([*np.linspace(0, 10, 1000), 1e6]))
    assert found.num_above == 1
    assert found.edges[-1] < 20


@given(st.floats(1e-9, 1e12), st.integers(1, 50))
def test_nice_steps_cover_the_span_and_begin_with_1_2_or_5(span: float, num_steps: int):
    step = nice_step(span, num_steps)
    assert step * num_steps >= span * (1 - 1e-6)
    assert f"{step:.6e}"[0] in "125"


values_with_counts = st.dictionaries(st.floats(-1e6, 1e6, allow_nan=False), st.integers(1, 30), min_size=1, max_size=20)


@settings(deadline=None)
@given(values_with_counts, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_values_with_counts_say_the_same_as_the_values_written_out(counts: dict[float, int], shares: list[float]):
    distinct = np.array(sorted(counts))
    counted = Values(distinct, np.array([counts[value] for value in distinct]))
    written_out = np.repeat(distinct, counted.counts)
    assert counted.num_known == len(written_out)
    assert counted.total == pytest.approx(written_out.sum(), rel=1e-9, abs=1e-6)
    assert counted.quantiles(*shares) == pytest.approx(np.percentile(written_out, [s * 100 for s in shares]), abs=1e-6)
    edges = [-1e6, -10.0, 0.0, 0.5, 10.0, 1e6]
    assert counted.in_bins(edges) == np.histogram(written_out, edges)[0].tolist()
    assert values_of(written_out).in_bins(edges) == counted.in_bins(edges)


def test_more_values_than_one_block_are_binned_like_a_few():
    values = np.random.default_rng(0).lognormal(size=200_001).astype(np.float32)
    edges = [0.0, 0.1, 0.7, 1.0, 3.0, 1000.0]
    assert values_of(values).in_bins(edges) == np.histogram(values.astype(np.float64), edges)[0].tolist()
    counts = np.full(len(values), 3)
    tripled = Values(np.sort(values), counts).in_bins(edges)
    assert tripled == [3 * count for count in values_of(values).in_bins(edges)]
