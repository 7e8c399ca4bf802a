"""Who may try again, and when."""

import pytest

from rollouts.errors import PolicyBusy, PolicyError, PolicyUnavailable, RequestRefused
from rollouts.policy.backoff import LONGEST_WAIT_S, may_try_again, wait_s


@pytest.mark.parametrize(
    ("error", "requests", "refusals", "expected"),
    [
        (PolicyUnavailable(), 4, 0, True),
        (PolicyUnavailable(), 5, 0, False),
        (RequestRefused(), 1, 0, False),
        (PolicyBusy(), 19, 19, True),
        (PolicyBusy(), 20, 20, False),
        (PolicyUnavailable(), 14, 10, True),
        (PolicyUnavailable(), 15, 10, False),
    ],
)
def test_attempts_are_bounded_and_refusals_weigh_less(
    error: PolicyError, requests: int, refusals: int, expected: bool
) -> None:
    assert may_try_again(error, requests, refusals, max_attempts=5) is expected


def test_waits_grow_are_spread_and_stay_below_a_minute() -> None:
    early = [wait_s(PolicyUnavailable(), 1) for _ in range(200)]
    late = [wait_s(PolicyUnavailable(), 40) for _ in range(200)]
    assert 0.1 <= min(early) < max(early) <= 0.5
    assert max(early) < max(late) <= LONGEST_WAIT_S
    assert len(set(late)) > 100


def test_a_server_that_asks_for_time_gets_it() -> None:
    waits = [wait_s(PolicyBusy(retry_after_s=7.0), 3) for _ in range(100)]
    assert 7.0 < min(waits) <= max(waits) <= 8.0
