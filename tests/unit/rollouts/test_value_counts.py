import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.value_counts import Series, ValueCounts, total_counts

parts_of_values = st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5, -2.25, float("nan")]), max_size=20), max_size=6)


@settings(deadline=None)
@given(parts_of_values)
def test_values_are_counted_the_same_however_they_are_cut(parts: list[list[float]]):
    counts = ValueCounts()
    for part in parts:
        counts.add(np.array(part))
    values = counts.values()
    everything = np.array([value for part in parts for value in part])
    known = everything[~np.isnan(everything)]
    assert values.counts is not None
    assert np.repeat(values.known, values.counts).tolist() == sorted(known)
    assert values.num_unknown == len(everything) - len(known)


def test_as_many_distinct_values_as_there_are_numbers_are_all_kept():
    numbers = np.random.default_rng(0).random(300_000)
    counts = ValueCounts()
    for start in range(0, len(numbers), 2_000):
        counts.add(numbers[start : start + 2_000])
    counts.add(numbers[:10])
    values = counts.values()
    assert values.known.tolist() == sorted(numbers)
    assert values.counts is not None
    assert values.counts.sum() == 300_010


def test_counts_of_several_series_are_put_together():
    few, more = ValueCounts(), ValueCounts()
    few.add(np.array([1.0, 2.0, np.nan]))
    more.add(np.array([2.0, 3.0]))
    together = total_counts([few, more])
    assert (together.known.tolist(), together.num_unknown) == ([1.0, 2.0, 3.0], 1)
    assert together.counts is not None
    assert together.counts.tolist() == [1, 2, 1]
    assert few.values().num_known == 2


def test_a_series_is_joined_in_the_order_it_came():
    series = Series()
    assert series.joined().tolist() == []
    series.add(np.array([1.5, 2.5]))
    series.add(np.array([0.5]))
    assert series.joined().tolist() == [1.5, 2.5, 0.5]
    assert [part.tolist() for part in series] == [[1.5, 2.5, 0.5]]
