import pytest

from rollouts.records import Prompt
from rollouts.selection.split import split_of


def prompt(text: object, prompt_id: str = "p", **columns: object) -> Prompt:
    return Prompt(prompt_id=prompt_id, messages=[{"role": "user", "content": text}], verifier="math", **columns)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 1 + 1?", "  What is\n1 +\t1? "),
        ("ﬁve １", "five 1"),
        ("caf\u00e9", "cafe\u0301"),
        ([{"type": "text", "text": "a  b"}], [{"type": "text", "text": "a b"}]),
    ],
)
def test_prompts_that_read_the_same_lie_on_one_side_whatever_their_ids(one, other):
    for seed in range(40):
        side = split_of(prompt(one, "a", ground_truth="1"), 0.5, seed)
        assert split_of(prompt(other, "b", ground_truth="2", category="x", line=7), 0.5, seed) == side


def test_prompts_that_differ_are_drawn_apart():
    sides = [(split_of(prompt("10²"), 0.5, seed), split_of(prompt("102"), 0.5, seed)) for seed in range(60)]
    assert any(one != other for one, other in sides)


def test_the_share_is_about_the_fraction_and_zero_puts_everything_into_train():
    sides = [split_of(prompt(f"question {i}"), 0.2, seed=3) for i in range(4000)]
    assert 0.17 < sides.count("validation") / len(sides) < 0.23
    assert {split_of(prompt(f"question {i}"), 0.0, seed=3) for i in range(500)} == {"train"}


def test_a_larger_fraction_only_moves_prompts_to_validation():
    for i in range(300):
        if split_of(prompt(f"question {i}"), 0.1, seed=0) == "validation":
            assert split_of(prompt(f"question {i}"), 0.3, seed=0) == "validation"
