"""Occupancy is exact, whatever the moments of change."""

import pytest

from rollouts.occupancy import Occupancy


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_share_is_of_time_and_counts_until_the_last_first_sending() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    occupancy.changed(4, 4)
    clock.now += 3
    occupancy.changed(2, 4)
    clock.now += 0.5
    occupancy.first_sent()
    clock.now += 0.5
    occupancy.first_sent()
    clock.now += 1000  # the tail
    occupancy.changed(0, 4)
    assert occupancy.busy_share == pytest.approx((3 * 4 + 1 * 2) / (4 * 4))


def test_without_anything_sent_there_is_no_share() -> None:
    assert Occupancy(Clock()).busy_share is None


def test_a_limit_that_was_cut_below_what_flies_is_no_more_than_full() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    occupancy.changed(10, 2)
    clock.now += 1
    occupancy.changed(10, 2)
    occupancy.first_sent()
    assert occupancy.busy_share == 1.0


def test_what_held_slots_empty_is_timed_by_its_name() -> None:
    clock = Clock()
    occupancy = Occupancy(clock)
    occupancy.changed(1, 4, "requests_per_minute")
    clock.now += 2
    occupancy.changed(4, 4)
    clock.now += 5
    occupancy.changed(0, 4, "no_prompts")
    clock.now += 1
    occupancy.changed(4, 4)
    assert occupancy.held_s == {"no_prompts": 1.0, "requests_per_minute": 2.0}


def test_the_peak_is_the_largest_number_that_was_ever_allowed() -> None:
    occupancy = Occupancy(Clock())
    for allowed in (64, 80, 16):
        occupancy.changed(1, allowed)
    assert occupancy.peak_allowed == 80
