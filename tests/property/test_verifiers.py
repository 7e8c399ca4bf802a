"""Verifiers that run in the calling thread: whatever a policy writes, there is a reward in range and no exception."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.verifiers.answer_extraction import final_answer
from rollouts.verifiers.registry import IN_PROCESS, verifier

PIECES = st.sampled_from(
    ["<think>", "</think>", "\\boxed{", "}", "{", "\\", "$", "Answer:", "the answer is", "####", "\n", " ", "5", "1,000",
     "%", "/", "0", "-", "²", "\u00a0", "and", "or", ".", "**", "\ud800", "e9"]
)  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=3), max_size=20).map("".join)


@given(text=TEXTS)
@settings(max_examples=500, deadline=None)
def test_any_text_has_a_reward_in_range(text: str):
    for kind in IN_PROCESS:
        made = verifier(kind)
        score = made.score(text, "5")
        assert made.reward_range[0] <= score.reward <= made.reward_range[1]
        assert score.reward == 0.0 or "5" in text


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_nothing_after_an_opened_thinking_block_is_an_answer(text: str):
    assert final_answer(f"{text}<think>{text.replace('</think>', '')}") is None


@given(number=st.integers() | st.floats(allow_nan=False, allow_infinity=False))
@settings(deadline=None)
def test_a_number_is_equal_to_itself_however_it_is_shown(number: float):
    made = verifier("numeric")
    for text in (f"{number}", f"\\boxed{{{number}}}", f"The answer is ${number}$."):
        assert made.score(text, number).reward == 1.0
        assert made.score(text, str(number)).reward == 1.0


@given(one=st.integers(), other=st.integers())
@settings(deadline=None)
def test_two_whole_numbers_are_the_same_or_not_and_never_nearly(one: int, other: int):
    assert verifier("numeric").score(f"{other:,}", one).reward == float(one == other)


@given(number=st.floats(min_value=1e-300, max_value=1e300), factor=st.sampled_from([0.99, 0.999998, 1.000002, 2.0]))
@settings(deadline=None)
def test_a_number_outside_the_tolerance_is_another_number(number: float, factor: float):
    assert math.isfinite(number * factor)
    assert verifier("numeric").score(repr(number * factor), repr(number)).reward == 0.0


@given(word=st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20))
@settings(deadline=None)
def test_a_word_matches_itself_in_any_case_and_form(word: str):
    made = verifier("exact_match")
    for text in (word, f" {word} \n", f"Answer: {word}.", f"\\boxed{{{word}}}", word.casefold()):
        assert made.score(text, word).reward == 1.0
