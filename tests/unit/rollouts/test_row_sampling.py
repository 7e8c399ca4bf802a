from typing import Any

import pytest

from rollouts.row_sampling import split_parameters
from rollouts.rows import UnusableRow


def test_sampling_settings_keep_their_names_and_nulls_go() -> None:
    given = {"temperature": 0, "top_p": 0.9, "max_output_tokens": 64, "parallel_tool_calls": False, "stop": None}
    sampling, kept = split_parameters(given)
    assert sampling == {"temperature": 0, "top_p": 0.9, "max_output_tokens": 64, "parallel_tool_calls": False}
    assert kept == {}


def test_what_the_run_decides_is_kept_and_never_sent() -> None:
    given = {"model": "other", "stream": True, "metadata": {"a": "b"}, "seed": 7, "n": 4, "messages": [], "top_k": 5}
    sampling, kept = split_parameters(given)
    assert sampling == {"top_k": 5}
    assert kept == {"messages": [], "metadata": {"a": "b"}, "model": "other", "n": 4, "seed": 7, "stream": True}


def test_settings_that_chat_completions_know_by_another_shape_are_translated() -> None:
    sampling, kept = split_parameters(
        {
            "tool_choice": {"type": "function", "name": "add"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": None}},
        }
    )
    assert sampling == {
        "tool_choice": {"type": "function", "function": {"name": "add"}},
        "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    }
    assert kept == {"reasoning": {"effort": "low", "summary": "auto"}}
    assert split_parameters({"tool_choice": "auto", "text": {"format": {"type": "text"}}}) == (
        {"tool_choice": "auto"},
        {},
    )
    assert split_parameters({"text": {"format": {"type": "json_object"}}})[0] == {
        "response_format": {"type": "json_object"}
    }


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"temperature": "hot"}, "invalid_sampling"),
        ({"temperature": True}, "invalid_sampling"),
        ({"temperature": -0.1}, "invalid_sampling"),
        ({"temperature": 2.1}, "invalid_sampling"),
        ({"top_p": 0}, "invalid_sampling"),
        ({"top_p": 1.5}, "invalid_sampling"),
        ({"max_output_tokens": 0}, "invalid_sampling"),
        ({"max_output_tokens": 1.5}, "invalid_sampling"),
        ({"reasoning": "low"}, "invalid_sampling"),
        ({"previous_response_id": "r1"}, "unsupported_parameter"),
        ({"prompt": {"id": "p1"}}, "unsupported_parameter"),
    ],
)
def test_settings_that_the_server_would_refuse_are_refused_first(params: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        split_parameters(params)
    assert caught.value.reason == reason
