import math
import random

import pytest

from rollouts.policy.throughput import Throughput
from rollouts.policy.trial import Trial


def throughput(latency_s: float, in_flight: int, num_answers: int, spread: float = 0.0, seed: int = 1) -> Throughput:
    """Answers of 100 tokens a second of latency, which varies by `spread` (log-normal); tokens vary by a tenth beside it."""
    rng = random.Random(seed)
    seen = Throughput()
    for _ in range(num_answers):
        busy_s = latency_s * rng.lognormvariate(-(spread**2) / 2, spread)
        seen.add(100 * busy_s / latency_s * rng.uniform(0.9, 1.1), busy_s, in_flight)
    return seen


def test_work_in_a_second_follows_from_latency_and_the_number_in_flight() -> None:
    assert throughput(2.0, 64, 1000).per_second == pytest.approx(64 * 100 / 2.0, rel=0.01)
    assert Throughput().per_second == 0.0
    assert math.isinf(Throughput().error)


def test_long_answers_with_many_tokens_are_no_noise() -> None:
    assert throughput(1.0, 64, 1000, spread=1.0).error < 0.01


def test_the_error_covers_what_varies() -> None:
    true = 64 * 100 / 1.0
    inside = 0
    for seed in range(200):
        seen = throughput(1.0, 64, 200, spread=1.0, seed=seed)
        inside += abs(seen.per_second - true) < 2 * seen.error * true
    assert inside >= 180


def test_a_gain_is_a_logarithm_and_knows_how_sure_it_is() -> None:
    gain = throughput(1.0, 128, 500).gain_over(throughput(1.0, 64, 500))
    assert gain.mean == pytest.approx(math.log(2), abs=0.02)
    assert gain.is_above(0.5, 3)
    assert not gain.is_below(0.5, 3)
    assert math.isinf(Throughput().gain_over(throughput(1.0, 64, 500)).error)


def test_twice_as_much_is_better_even_in_haste() -> None:
    trial = Trial(throughput(1.0, 64, 64), 64, is_rough=True)
    assert trial.judge(throughput(1.0, 128, 128), 128, is_rough=True) == "better"


def test_what_is_measured_in_haste_tells_nothing_small() -> None:
    seen = throughput(1.9, 128, 4000)
    assert Trial(throughput(1.0, 64, 64), 64, is_rough=True).judge(seen, 128, is_rough=False) == "measure again"
    assert Trial(throughput(1.0, 64, 4000), 64, is_rough=False).judge(seen, 128, is_rough=True) == "too early"


def test_more_in_flight_has_to_do_more() -> None:
    trial = Trial(throughput(1.0, 64, 4000), 64, is_rough=False)
    assert trial.judge(throughput(2.0, 128, 4000), 128, is_rough=False) == "no better"
    assert trial.judge(throughput(1.95, 128, 4000), 128, is_rough=False) == "slightly better"
    assert trial.judge(throughput(1.7, 128, 4000), 128, is_rough=False) == "better"
    assert trial.judge(throughput(2.0, 128, 2), 128, is_rough=False) == "too early"


def test_less_in_flight_has_to_do_about_as_much() -> None:
    trial = Trial(throughput(2.0, 128, 4000), 128, is_rough=False)
    assert trial.judge(throughput(85 / 64, 85, 4000), 85, is_rough=False) == "better"
    assert trial.judge(throughput(1.5, 85, 4000), 85, is_rough=False) == "no better"
    assert trial.judge(throughput(2.0, 85, 50), 85, is_rough=True) == "no better"
