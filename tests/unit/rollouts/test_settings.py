import pytest
from pydantic import ValidationError

from rollouts.settings import SETTINGS, CollectDPO, CollectRL, CollectSFT, PolicyAddress


def test_each_objective_has_its_published_defaults() -> None:
    assert CollectRL().sampling_params({}) == {"temperature": 0.8, "top_p": 0.95}
    assert CollectSFT().sampling_params({})["temperature"] == 0.2
    assert CollectDPO().sampling_params({})["temperature"] == 0.7
    assert (CollectRL().num_repeats, CollectSFT().num_repeats, CollectDPO().num_repeats) == (8, 1, 4)
    assert (CollectSFT().min_reward, CollectDPO().min_reward_gap) == (0.8, 0.1)
    assert set(SETTINGS) == {"rl", "sft", "dpo"}


def test_parameters_of_the_run_win_over_the_rows_and_those_over_the_defaults() -> None:
    row = {"temperature": 0.5, "top_p": 0.5, "max_output_tokens": 5}
    assert CollectRL().sampling_params(row) == row
    run = CollectRL(responses_create_params={"top_p": 0.6, "min_p": 0.1}, max_output_tokens=7)
    assert run.sampling_params(row) == {"temperature": 0.5, "top_p": 0.6, "max_output_tokens": 7, "min_p": 0.1}
    assert CollectRL(temperature=0.0).sampling_params(row)["temperature"] == 0.0


@pytest.mark.parametrize("name", ["model", "n", "messages", "stream", "seed"])
def test_what_the_run_decides_cannot_be_smuggled_into_the_request(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be set here"):
        CollectRL(responses_create_params={name: 1})


def test_speed_and_places_are_no_part_of_the_identity_and_sampling_is() -> None:
    def identity(**changes: object) -> str:
        return CollectRL(**changes).sampling_id("m", "v")

    same = {"output": "s3://b/x", "num_samples_in_parallel": 1, "request_timeout_s": 5, "batch_size": 3, "limit": 7}
    assert identity(**same, num_repeats=16, input="x.jsonl") == identity()
    for change in ({"temperature": 0.1}, {"top_p": 0.5}, {"max_output_tokens": 9}, {"seed": 1}):
        assert identity(**change) != identity()
    assert CollectRL().sampling_id("m", "w") != identity()


def test_an_override_and_a_default_of_one_value_differ_because_rows_may_have_their_own() -> None:
    assert CollectRL(temperature=0.8).sampling_params({"temperature": 0.1}) != CollectRL().sampling_params(
        {"temperature": 0.1}
    )
    assert CollectRL(temperature=0.8).sampling_id("m", "v") != CollectRL().sampling_id("m", "v")


@pytest.mark.parametrize("place", ["s3://user:secret@bucket/x", "https://host/p.jsonl?X-Amz-Signature=secret"])
@pytest.mark.parametrize("name", ["input", "output"])
def test_a_secret_in_a_place_is_refused_and_not_repeated(name: str, place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        CollectRL(**{name: place})
    assert "secret" not in str(caught.value)


def test_a_batch_has_at_least_one_prompt() -> None:
    with pytest.raises(ValidationError, match="batch_size"):
        CollectRL(batch_size=0)


def test_a_threshold_changes_the_selection_and_never_the_sampling() -> None:
    assert CollectRL(max_pass_rate=0.5).selection() != CollectRL().selection()
    assert CollectRL(max_pass_rate=0.5).sampling_id("m", "v") == CollectRL().sampling_id("m", "v")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("/data/gsm8k_test.jsonl.gz", "gsm8k_test"),
        ("s3://bucket/a b/*.jsonl", "prompts"),
        ("bundled", "bundled"),
        ("../..", "prompts"),
        ("weird;name$.jsonl", "weird-name"),
    ],
)
def test_the_datasets_name_is_safe_in_a_path(given: str, name: str) -> None:
    assert CollectRL(input=given).dataset_name == name


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "http://host/v1?key=secret"])
def test_a_secret_in_the_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        PolicyAddress(url=url)
    assert "secret" not in str(caught.value)


def test_unknown_parameters_are_errors() -> None:
    with pytest.raises(ValidationError, match="num_repeat"):
        CollectRL(num_repeat=3)
