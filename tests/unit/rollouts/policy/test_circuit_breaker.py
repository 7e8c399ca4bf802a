import random

from rollouts.policy.circuit_breaker import (
    FIRST_BACKOFF_S,
    LONGEST_BACKOFF_S,
    MOST_IN_A_ROW,
    TRIAL_REQUESTS,
    TRIAL_S,
    WINDOW,
    CircuitBreaker,
)


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker("http://a/v1")
    breaker.open(now)
    return breaker


def in_trial(now: float) -> CircuitBreaker:
    breaker = opened()
    breaker.probed(now, alive=True)
    return breaker


def test_a_few_failures_in_a_row_open_it_when_little_is_in_flight() -> None:
    breaker = CircuitBreaker("http://a/v1")
    assert [breaker.failed(0.0, 1, alone=True) for _ in range(3)] == [False, False, True]
    assert not breaker.in_service
    assert not breaker.admits(1000.0)


def test_with_much_in_flight_it_takes_more_failures_in_a_row() -> None:
    breaker = CircuitBreaker("http://a/v1")
    outcomes = [breaker.failed(0.0, 512, alone=True) for _ in range(MOST_IN_A_ROW)]
    assert outcomes == [False] * (MOST_IN_A_ROW - 1) + [True]


def test_an_answer_ends_a_row() -> None:
    breaker = CircuitBreaker("http://a/v1")
    for _ in range(200):
        breaker.failed(0.0, 1, alone=True)
        breaker.failed(0.0, 1, alone=True)
        breaker.answered()
    assert breaker.closed


def test_half_of_the_last_requests_failing_opens_it_only_where_others_can_do_the_work() -> None:
    lone, replaceable = CircuitBreaker("http://a/v1"), CircuitBreaker("http://a/v1")
    for _ in range(WINDOW // 2):
        for breaker, alone in ((lone, True), (replaceable, False)):
            breaker.answered()
            breaker.failed(0.0, 512, alone=alone)
    assert lone.closed
    assert not replaceable.in_service


def test_chance_failures_of_a_busy_server_do_not_open_it() -> None:
    breaker, draw = CircuitBreaker("http://a/v1"), random.Random(0)
    for _ in range(100_000):
        if draw.random() < 0.2:
            assert not breaker.failed(0.0, 256, alone=False)
        else:
            breaker.answered()


def test_the_back_off_doubles_to_a_cap_with_jitter_while_probes_fail() -> None:
    breaker, now, waits = opened(), 0.0, list[float]()
    for _ in range(10):
        wait = breaker.wait_s(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        assert breaker.wait_s(now) == 0.0
        breaker.probed(now, alive=False)
    for level, wait in enumerate(waits):
        longest = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**level)
        assert longest / 2 <= wait <= longest
    assert len({wait / min(LONGEST_BACKOFF_S, 2**level) for level, wait in enumerate(waits)}) == 10


def test_the_jitter_follows_from_the_seed() -> None:
    first, same, other = opened(), opened(), CircuitBreaker("http://b/v1")
    other.open(0.0)
    assert first.wait_s(0.0) == same.wait_s(0.0) != other.wait_s(0.0)


def test_a_trial_lets_a_few_requests_through_until_one_is_answered() -> None:
    breaker = in_trial(5.0)
    for _ in range(TRIAL_REQUESTS):
        assert breaker.admits(5.0)
        breaker.sent()
    assert not breaker.admits(5.0)
    breaker.answered()
    assert breaker.closed
    assert breaker.admits(5.0)


def test_a_trial_without_a_failure_ends_by_itself_because_completions_may_be_long() -> None:
    breaker = in_trial(5.0)
    for _ in range(TRIAL_REQUESTS):
        breaker.sent()
    assert not breaker.admits(5.0 + TRIAL_S - 0.1)
    assert breaker.wait_s(5.0) == TRIAL_S
    assert breaker.admits(5.0 + TRIAL_S)
    assert breaker.closed


def test_a_failure_in_a_trial_opens_it_for_longer_and_is_the_same_outage() -> None:
    breaker = in_trial(5.0)
    assert breaker.failed(6.0, 1, alone=True)
    wait = breaker.wait_s(6.0)
    assert wait is not None
    assert FIRST_BACKOFF_S <= wait <= 2 * FIRST_BACKOFF_S
    assert breaker.times_opened == 1
    assert breaker.out_since == 0.0
    assert breaker.epoch == 2


def test_after_an_answer_the_next_outage_begins_with_the_shortest_back_off() -> None:
    breaker = opened()
    for _ in range(8):
        breaker.probed(0.0, alive=False)
    breaker.probed(0.0, alive=True)
    breaker.answered()
    breaker.open(100.0)
    wait = breaker.wait_s(100.0)
    assert wait is not None
    assert wait <= FIRST_BACKOFF_S
    assert breaker.times_opened == 2
    assert breaker.out_since == 100.0


def test_opening_what_is_open_changes_nothing() -> None:
    breaker = opened()
    wait = breaker.wait_s(0.0)
    assert not breaker.open(0.2)
    assert breaker.wait_s(0.0) == wait
    assert breaker.epoch == 1


def test_a_probe_says_nothing_about_an_endpoint_that_is_in_service() -> None:
    breaker = CircuitBreaker("http://a/v1")
    breaker.probed(0.0, alive=False)
    assert breaker.closed
