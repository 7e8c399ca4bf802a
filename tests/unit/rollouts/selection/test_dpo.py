import itertools

import pytest

from rollouts.records import Attempt, Group, Prompt, Rollout, StopReason, Usage, Verdict, VerdictStatus
from rollouts.selection import PreferencePair, Selected
from rollouts.selection.registry import selector
from rollouts.settings import CollectDPO


def attempt(
    index: int,
    reward: float | None,
    text: str | None = None,
    stop: StopReason = StopReason.STOP,
    tokens: int | None = None,
    rollout_id: str | None = None,
) -> Attempt:
    content = f"text {index}" if text is None else text
    rollout = Rollout(
        rollout_id=rollout_id or f"r{index:03}",
        prompt_id="p",
        repeat_index=index,
        messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": content}],
        num_prompt_messages=1,
        stop_reason=stop,
        usage=Usage(completion_tokens=tokens),
    )
    verdict = Verdict(
        rollout_id=rollout.rollout_id,
        prompt_id="p",
        repeat_index=index,
        reward=reward,
        status=VerdictStatus.VERIFIER_FAILED if reward is None else VerdictStatus.SCORED,
        verifier="math",
        verifier_version="1",
    )
    return Attempt(rollout, verdict)


def group(*attempts: Attempt) -> Group:
    return Group(Prompt(prompt_id="p", messages=[{"role": "user", "content": "?"}], verifier="math"), list(attempts))


def reasons(selected: Selected) -> dict[int, str]:
    return {drop.repeat_index: drop.reason for drop in selected.drops}


def pairs(selected: Selected) -> list[tuple[int, int]]:
    assert all(isinstance(example, PreferencePair) for example in selected.examples)
    return [
        (example.chosen.rollout.repeat_index, example.rejected.rollout.repeat_index)
        for example in selected.examples
        if isinstance(example, PreferencePair)
    ]


def select(*attempts: Attempt, **settings: object) -> Selected:
    return selector(CollectDPO(**settings))(group(*attempts))


def test_a_pair_needs_a_gap_and_equal_rewards_never_make_one():
    assert pairs(select(attempt(0, 1.0), attempt(1, 0.0))) == [(0, 1)]
    for rewards in [(1.0, 1.0), (0.0, 0.0), (0.5, 0.45)]:
        selected = select(*(attempt(i, reward) for i, reward in enumerate(rewards)))
        assert selected.examples == []
        assert reasons(selected) == {0: "no_reward_gap", 1: "no_reward_gap"}


@pytest.mark.parametrize("rewards", [(0.9, 0.8), (0.8, 0.7), (0.3, 0.2), (1.0, 0.9)])
def test_a_gap_that_is_the_minimum_but_for_binary_noise_counts(rewards):
    assert pairs(select(*(attempt(i, reward) for i, reward in enumerate(rewards)))) == [(0, 1)]


def test_a_tiny_minimum_gap_still_needs_a_strict_difference():
    assert select(attempt(0, 0.5), attempt(1, 0.5), min_reward_gap=1e-12).examples == []


def test_low_rewards_are_paired_because_no_reward_filter_comes_first():
    assert pairs(select(attempt(0, 0.1), attempt(1, 0.3))) == [(1, 0)]


def test_length_matching_takes_the_closest_lengths_then_the_larger_gap_then_the_ids():
    attempts = [attempt(0, 1.0, tokens=100), attempt(1, 0.0, tokens=10), attempt(2, 0.2, tokens=90)]
    assert pairs(select(*attempts)) == [(0, 2)]
    attempts.append(attempt(3, 0.1, tokens=110))
    assert pairs(select(*attempts)) == [(0, 3)]
    attempts.append(attempt(4, 0.1, tokens=110, rollout_id="r0025"))
    assert pairs(select(*attempts)) == [(0, 4)]


def test_best_worst_takes_the_largest_gap_then_the_ids():
    attempts = [attempt(0, 1.0, tokens=5), attempt(1, 0.0, tokens=900), attempt(2, 0.5, tokens=5), attempt(3, 0.0)]
    assert pairs(select(*attempts, pairing="best_worst")) == [(0, 1)]


def test_lengths_are_characters_as_soon_as_one_token_count_is_missing():
    attempts = [attempt(0, 1.0, "aaaa", tokens=1), attempt(1, 0.0, "bbb"), attempt(2, 0.0, "c", tokens=1)]
    assert pairs(select(*attempts)) == [(0, 1)]


def test_the_choice_does_not_depend_on_the_order_of_the_attempts():
    attempts = [attempt(i, reward, tokens=10) for i, reward in enumerate([1.0, 1.0, 0.0, 0.0])]
    assert {tuple(pairs(select(*order))) for order in itertools.permutations(attempts)} == {((0, 2),)}


def test_several_pairs_use_no_rollout_twice():
    attempts = [attempt(i, reward, tokens=10 * i) for i, reward in enumerate([1.0, 0.0, 1.0, 0.0, 0.5, 0.52])]
    selected = select(*attempts, max_pairs_per_prompt=10)
    used = [index for pair in pairs(selected) for index in pair]
    assert len(used) == len(set(used)) == 6 - len(selected.drops)
    assert len(pairs(select(*attempts, max_pairs_per_prompt=2))) == 2


def test_what_cannot_be_shown_is_on_neither_side():
    attempts = [
        attempt(0, 1.0),
        attempt(1, None),
        attempt(2, 0.0, stop=StopReason.CONTENT_FILTER),
        attempt(3, 0.0, text=""),
        attempt(4, 0.0, stop=StopReason.LENGTH),
        attempt(5, 0.0, stop=StopReason.ABORT),
        attempt(6, 1.0, stop=StopReason.LENGTH),
    ]
    selected = select(*attempts)
    assert selected.examples == []
    assert reasons(selected) == {
        0: "no_reward_gap",
        1: "reward_unknown",
        2: "content_filtered",
        3: "empty",
        4: "truncated",
        5: "aborted",
        6: "truncated",
    }


def test_texts_that_differ_in_white_space_only_are_no_pair():
    selected = select(attempt(0, 1.0, "a b"), attempt(1, 0.0, "a  b\n"))
    assert reasons(selected) == {0: "same_text", 1: "same_text"}


def test_pairs_too_different_in_length_are_left_out_when_a_limit_is_set():
    attempts = [attempt(0, 1.0, tokens=10), attempt(1, 0.0, tokens=111)]
    assert reasons(select(*attempts, max_length_difference=100)) == {0: "length_difference", 1: "length_difference"}
    assert pairs(select(*attempts, max_length_difference=101)) == [(0, 1)]


def test_the_reason_tells_how_near_an_attempt_came_to_a_pair():
    attempts = [attempt(0, 1.0, "a"), attempt(1, 0.0, "b"), attempt(2, 0.0, "cc"), attempt(3, 0.95, "b" * 99)]
    selected = select(*attempts, max_length_difference=50)
    assert pairs(selected) == [(0, 1)]
    assert reasons(selected) == {2: "not_paired", 3: "length_difference"}


def test_a_group_of_one_and_an_empty_group_make_no_pair():
    assert reasons(select(attempt(0, 1.0))) == {0: "no_reward_gap"}
    assert select() == Selected()
