import itertools

from rollouts.records import Attempt, Group, Prompt, Rollout, StopReason, Usage, Verdict, VerdictStatus
from rollouts.selection import Demonstration, Selected
from rollouts.selection.registry import selector
from rollouts.settings import CollectSFT


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


def kept(selected: Selected) -> list[str]:
    assert all(isinstance(example, Demonstration) for example in selected.examples)
    return [example.attempt.rollout.rollout_id for example in selected.examples if isinstance(example, Demonstration)]


def test_the_highest_reward_wins_and_the_smallest_id_breaks_ties_whatever_the_order():
    attempts = [attempt(0, 0.9), attempt(1, 1.0, rollout_id="b"), attempt(2, 1.0, rollout_id="a"), attempt(3, 0.1)]
    for order in itertools.permutations(attempts):
        selected = selector(CollectSFT())(group(*order))
        assert kept(selected) == ["a"]
        assert reasons(selected) == {0: "not_among_best", 1: "not_among_best", 3: "reward_below_minimum"}


def test_the_minimum_reward_is_kept():
    assert kept(selector(CollectSFT())(group(attempt(0, 0.8)))) == ["r000"]
    assert reasons(selector(CollectSFT())(group(attempt(0, 0.7999)))) == {0: "reward_below_minimum"}


def test_several_completions_of_a_prompt_come_best_first_and_equal_texts_count_once():
    attempts = [
        attempt(0, 0.9, "other"),
        attempt(1, 1.0, "same  text"),
        attempt(2, 1.0, " same text\n"),
        attempt(3, 0.95, "third"),
        attempt(4, 0.9, "fourth"),
    ]
    selected = selector(CollectSFT(max_per_prompt=3))(group(*attempts))
    assert kept(selected) == ["r001", "r003", "r000"]
    assert reasons(selected) == {2: "duplicate_text", 4: "not_among_best"}


def test_each_flaw_has_its_name():
    attempts = [
        attempt(0, None),
        attempt(1, 1.0, stop=StopReason.CONTENT_FILTER),
        attempt(2, 1.0, stop=StopReason.ABORT),
        attempt(3, 1.0, text=" \n"),
        attempt(4, 1.0, stop=StopReason.LENGTH),
        attempt(5, 0.2),
    ]
    selected = selector(CollectSFT())(group(*attempts))
    assert selected.examples == []
    assert list(reasons(selected).values()) == [
        "reward_unknown",
        "content_filtered",
        "aborted",
        "empty",
        "truncated",
        "reward_below_minimum",
    ]


def test_truncated_completions_are_kept_on_request():
    cut = attempt(0, 1.0, stop=StopReason.LENGTH)
    assert kept(selector(CollectSFT(keep_truncated=True))(group(cut))) == ["r000"]


def test_an_unclosed_thinking_block_is_the_verifiers_matter():
    assert kept(selector(CollectSFT())(group(attempt(0, 1.0, "<think>so 5")))) == ["r000"]


def test_a_completion_that_only_calls_a_tool_is_not_empty():
    bare = attempt(0, 1.0, stop=StopReason.TOOL_CALLS, text="")
    calling = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}
    rollout = Rollout(
        rollout_id="t",
        prompt_id="p",
        repeat_index=1,
        messages=[{"role": "user", "content": "?"}, calling],
        num_prompt_messages=1,
        stop_reason=StopReason.TOOL_CALLS,
    )
    selected = selector(CollectSFT())(group(bare, Attempt(rollout, attempt(1, 1.0).verdict)))
    assert kept(selected) == ["t"]
    assert reasons(selected) == {0: "empty"}


def test_an_empty_group_gives_nothing():
    assert selector(CollectSFT())(group()) == Selected()
