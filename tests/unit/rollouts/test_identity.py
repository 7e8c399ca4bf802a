import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from rollouts.identity import RolloutIds, content_id, derived_seed, rollout_id, unit_interval

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, min_size=1))
def test_an_id_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    assert content_id("x", value) == content_id("x", dict(reversed(value.items())))


def test_an_id_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from rollouts.identity import content_id; print(content_id('prompt', {'b': 1, 'a': ['é', 0.1]}))"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("0", "1")
    }
    assert seen == {content_id("prompt", {"b": 1, "a": ["é", 0.1]})}


def test_kinds_keep_equal_contents_apart() -> None:
    assert content_id("prompt", "a") != content_id("batch", "a")


def test_repeats_have_ids_and_seeds_of_their_own() -> None:
    assert len({rollout_id("s", "p", repeat) for repeat in range(64)}) == 64
    seeds = {derived_seed(0, "p", repeat) for repeat in range(64)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_the_unit_interval_is_filled_evenly() -> None:
    draws = [unit_interval(3, str(index)) for index in range(4000)]
    assert 0.0 <= min(draws) < max(draws) < 1.0
    assert 0.45 < sum(draw < 0.5 for draw in draws) / len(draws) < 0.55


@given(st.text(), st.text(), st.integers(0, 10_000))
def test_ids_of_a_prompt_are_the_ids_of_its_rollouts(sampling_id: str, prompt_id: str, repeat: int) -> None:
    assert RolloutIds(sampling_id, prompt_id).of(repeat) == rollout_id(sampling_id, prompt_id, repeat)
