import json
import math
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.simulator import BUNDLED_PROMPTS
from rollouts.simulator.candidates import candidates
from rollouts.simulator.language_model import Completion, complete
from rollouts.simulator.tokens import IM_END, encode

BUNDLED = [json.loads(line) for line in BUNDLED_PROMPTS.read_text(encoding="utf-8").splitlines()]
PROMPTS = st.sampled_from([row["messages"][0]["content"] for row in BUNDLED] + ["Write a poem.", ""])
BOX = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")


def ask(prompt: str, **sampling: object) -> Completion:
    return complete([{"role": "user", "content": prompt}], **sampling)


def weights(prompt: str, temperature: float) -> dict[tuple[int, ...], float]:
    """Unnormalised weight of every completion, straight from the definition."""
    options = candidates(prompt)
    best = max(option.score for option in options)
    return {(*encode(o.text), IM_END): math.exp((o.score - best) / temperature) for o in options}


def is_right(text: str, truth: str) -> bool:
    boxed = BOX.findall(text)
    return bool(boxed) and re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", boxed[-1]) == truth


def pass_rates(temperature: float, rows: list[dict], repeats: int = 8) -> list[float]:
    return [
        sum(
            is_right(ask(row["messages"][0]["content"], temperature=temperature, seed=seed).text, row["ground_truth"])
            for seed in range(repeats)
        )
        / repeats
        for row in rows
    ]


@given(prompt=PROMPTS, temperature=st.sampled_from([0.2, 0.8, 1.0, 2.0]), seed=st.integers(0, 2**53))
def test_log_probabilities_sum_to_the_log_probability_of_the_text(prompt: str, temperature: float, seed: int) -> None:
    completion = ask(prompt, temperature=temperature, seed=seed)
    everything = weights(prompt, temperature)
    expected = math.log(everything[tuple(completion.token_ids)] / math.fsum(everything.values()))
    assert math.fsum(completion.log_probs) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40)
@given(prompt=PROMPTS, top_p=st.sampled_from([0.3, 0.8, 0.95, 1.0]), seed=st.integers(0, 2**32))
def test_every_token_has_its_conditional_probability_after_top_p(prompt: str, top_p: float, seed: int) -> None:
    completion = ask(prompt, temperature=0.9, top_p=top_p, seed=seed)
    remaining = weights(prompt, 0.9)
    for position, token in enumerate(completion.token_ids):
        following: Counter[int] = Counter()
        for tokens, weight in remaining.items():
            following[tokens[position]] += weight
        total = math.fsum(following.values())
        nucleus: dict[int, float] = {}
        for candidate, mass in sorted(following.items(), key=lambda item: (-item[1], item[0])):
            nucleus[candidate] = mass
            if math.fsum(nucleus.values()) >= top_p * total * (1 - 1e-12):
                break
        assert token in nucleus
        expected = math.log(nucleus[token] / math.fsum(nucleus.values()))
        assert completion.log_probs[position] == pytest.approx(expected, abs=1e-9)
        assert {option.token_id for option in completion.alternatives[position]} == set(nucleus)
        remaining = {tokens: weight for tokens, weight in remaining.items() if tokens[position] == token}


def test_completions_occur_as_often_as_their_probability_says() -> None:
    prompt, draws = "What is 19 + 27?", 4000
    everything = weights(prompt, 1.0)
    total = math.fsum(everything.values())
    seen = Counter(tuple(ask(prompt, seed=seed).token_ids) for seed in range(draws))
    for tokens, weight in everything.items():
        share = weight / total
        assert abs(seen[tokens] / draws - share) < 5 * math.sqrt(share * (1 - share) / draws) + 1e-3


@given(prompt=PROMPTS)
def test_temperature_zero_always_gives_the_best_completion_with_certainty(prompt: str) -> None:
    completion = ask(prompt, temperature=0, seed=None)
    assert completion.text == max(candidates(prompt), key=lambda option: option.score).text
    assert set(completion.log_probs) == {0.0}


def test_a_tiny_temperature_is_the_limit_of_small_ones() -> None:
    assert ask("What is 7 + 22?", temperature=1e-6).text == ask("What is 7 + 22?", temperature=0).text


def test_the_same_seed_gives_the_same_completion_and_other_seeds_give_others() -> None:
    prompt = "What is 347 times 83?"
    assert ask(prompt, seed=5) == ask(prompt, seed=5)
    assert len({ask(prompt, seed=seed).text for seed in range(40)}) > 10
    assert len({ask(prompt).text for _ in range(40)}) > 5


def test_ids_log_probabilities_and_alternatives_have_one_length_and_end_with_the_end_token() -> None:
    completion = ask("What is 7 + 22?", seed=1)
    assert completion.finish_reason == "stop"
    assert completion.token_ids[-1] == IM_END
    assert len(completion.token_ids) == len(completion.log_probs) == len(completion.alternatives)
    assert max(completion.log_probs) <= 0
    assert completion.text.encode() == bytes(completion.token_ids[:-1])


@given(st.integers(1, 200))
def test_the_token_limit_cuts_the_same_completion_short(max_tokens: int) -> None:
    whole = ask("What is 7 + 22?", seed=3)
    cut = ask("What is 7 + 22?", seed=3, max_tokens=max_tokens)
    assert cut.token_ids == whole.token_ids[:max_tokens]
    assert cut.log_probs == whole.log_probs[:max_tokens]
    assert len(cut.alternatives) == len(cut.token_ids)
    assert cut.finish_reason == ("stop" if max_tokens >= len(whole.token_ids) else "length")


def test_an_unknown_prompt_gets_an_admission_or_a_guess() -> None:
    texts = {ask("Write a poem about rain.", seed=seed).text for seed in range(60)}
    assert any("cannot solve" in text for text in texts)
    assert len({box for text in texts for box in BOX.findall(text)}) >= 3


def test_the_answer_goes_to_the_last_user_message() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": "What is 2 + 2?"}]
    assert complete(messages, seed=1) == ask("What is 2 + 2?", seed=1)
    assert complete([{"role": "system", "content": "What is 2 + 2?"}], seed=1) == ask("What is 2 + 2?", seed=1)


def test_pass_rates_spread_from_never_to_always_with_many_in_between() -> None:
    rates = pass_rates(0.8, BUNDLED)
    assert 0.55 <= sum(rates) / len(rates) <= 0.65
    assert sum(rate == 0 for rate in rates) >= 20
    assert sum(rate == 1 for rate in rates) >= 50
    assert sum(0 < rate < 1 for rate in rates) >= 100


def test_skill_falls_with_temperature() -> None:
    cold, warm, hot = (sum(pass_rates(temperature, BUNDLED[:150])) for temperature in (0.2, 1.0, 2.0))
    assert cold > warm > hot
