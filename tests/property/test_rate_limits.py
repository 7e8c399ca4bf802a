"""Rate limits: whatever arrives and however late the timers are, no minute passes the limit, and load uses it up."""

import heapq
import random
from itertools import accumulate
from typing import NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.policy.rate_limits import RateLimits, Spending


class Sent(NamedTuple):
    at: float
    tokens: int


class Load(NamedTuple):
    """Requests that come, and what the machine does to them."""

    gaps: list[float]
    """Seconds between arrivals, repeated; [] for always enough."""
    tokens: tuple[int, int]
    """Least and most tokens of a request."""
    estimate: float
    """Estimated tokens, as a multiple of the true ones."""
    latency_s: float
    late_s: float
    """Most that a timer is late."""
    refused: float
    """Share of the requests that the server refuses."""


def run(limits: RateLimits, clock: list[float], load: Load, seconds: float, seed: int) -> list[Sent]:
    """Send a load one after the other; return what the server counted, in order."""
    rng = random.Random(seed)
    sent: list[Sent] = []
    answers: list[tuple[float, int, Spending, int]] = []
    arrival, end, index = clock[0], clock[0] + seconds, 0

    def wait_until(at: float) -> None:
        while answers and answers[0][0] <= at:
            clock[0], _, spending, tokens = heapq.heappop(answers)
            limits.settle(spending, tokens)
        clock[0] = max(clock[0], at)

    while clock[0] < end:
        if load.gaps:
            arrival += load.gaps[index % len(load.gaps)]
            wait_until(max(arrival, clock[0]))
        index += 1
        true = rng.randint(*load.tokens)
        estimate = max(true, round(true * load.estimate))
        while (wait_s := limits.wait_s(estimate)) > 0:
            target = clock[0] + wait_s + rng.uniform(0, load.late_s)
            wait_until(min(target, answers[0][0]) if answers else target)
        if clock[0] >= end:
            break
        refused = rng.random() < load.refused
        spending = limits.spend(estimate)
        sent.append(Sent(clock[0], 0 if refused else true))
        heapq.heappush(
            answers, (clock[0] + rng.expovariate(1) * load.latency_s, index, spending, 0 if refused else true)
        )
    return sent


def most_in_a_minute(sent: list[Sent]) -> Sent:
    """Return the most requests and tokens in any 60 s, both ends included."""
    sums = [0, *accumulate(one.tokens for one in sent)]
    first, requests, tokens = 0, 0, 0
    for last, one in enumerate(sent):
        while one.at - sent[first].at > 60:
            first += 1
        requests = max(requests, last + 1 - first)
        tokens = max(tokens, sums[last + 1] - sums[first])
    return Sent(requests, tokens)


LIMITS = st.integers(1, 50) | st.integers(50, 2000)
GAPS = st.lists(st.floats(0, 0.2) | st.floats(0, 30) | st.just(0.0), max_size=8)
LOADS = st.builds(
    Load,
    gaps=GAPS.map(lambda gaps: gaps if sum(gaps) > 0.05 else []),
    tokens=st.tuples(st.integers(0, 400), st.integers(0, 400)).map(lambda pair: (min(pair), max(pair))),
    estimate=st.floats(1, 5),
    latency_s=st.floats(0, 100),
    late_s=st.sampled_from([0.0, 0.02, 0.5, 5.0]),
    refused=st.sampled_from([0.0, 0.1, 1.0]),
)


@settings(max_examples=60, deadline=None)
@given(limit=LIMITS, shared_by=st.integers(1, 4), load=LOADS, seed=st.integers(0, 9))
def test_no_minute_holds_more_requests_than_allowed(limit: int, shared_by: int, load: Load, seed: int) -> None:
    clock = [50.0]
    limits = RateLimits(limit, None, shared_by=shared_by, clock=lambda: clock[0])
    assert most_in_a_minute(run(limits, clock, load, 240, seed)).at <= max(1, limit // shared_by)


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(400, 20_000), load=LOADS, requests=st.none() | st.integers(20, 2000), seed=st.integers(0, 9))
def test_no_minute_holds_more_tokens_than_allowed(limit: int, load: Load, requests: int | None, seed: int) -> None:
    clock = [0.0]
    load = load._replace(tokens=(max(1, load.tokens[0]), max(1, load.tokens[1])), estimate=min(load.estimate, 1.0))
    limits = RateLimits(requests or 3000, limit, clock=lambda: clock[0])
    most = most_in_a_minute(run(limits, clock, load, 240, seed))
    assert most.tokens <= limit
    assert most.at <= (requests or 3000)


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(400, 20_000), load=LOADS, seed=st.integers(0, 9))
def test_estimates_that_are_too_high_pass_no_limit_either(limit: int, load: Load, seed: int) -> None:
    clock = [0.0]
    load = load._replace(tokens=(max(1, load.tokens[0] // 5), max(1, load.tokens[1] // 5)))
    limits = RateLimits(3000, limit, clock=lambda: clock[0])
    assert most_in_a_minute(run(limits, clock, load, 240, seed)).tokens <= limit


@settings(max_examples=40, deadline=None)
@given(limit=LIMITS, late_s=st.floats(0, 0.5), seed=st.integers(0, 9))
def test_load_uses_up_the_requests(limit: int, late_s: float, seed: int) -> None:
    clock = [0.0]
    limits = RateLimits(limit, None, clock=lambda: clock[0])
    sent = run(limits, clock, Load([], (0, 0), 1, 0, late_s, 0), 1200, seed)
    assert len(sent) >= 0.98 * 20 * limit - 1


@settings(max_examples=40, deadline=None)
@given(limit=st.integers(10_000, 100_000), late_s=st.floats(0, 0.5), latency_s=st.floats(0, 20), seed=st.integers(0, 9))
def test_load_uses_up_the_tokens(limit: int, late_s: float, latency_s: float, seed: int) -> None:
    clock = [0.0]
    limits = RateLimits(None, limit, clock=lambda: clock[0])
    sent = run(limits, clock, Load([], (10, 100), 1, latency_s, late_s, 0), 1200, seed)
    assert sum(one.tokens for one in sent) >= 0.98 * 20 * limit
