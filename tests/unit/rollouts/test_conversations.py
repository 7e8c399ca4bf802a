from typing import Any

import pytest

from rollouts.conversations import (
    chat_messages,
    chat_tools,
    refuse_unanswerable,
    responses_messages,
    with_system_prompt,
)
from rollouts.rows import UnusableRow

USER = {"role": "user", "content": "hi"}
ADD = {"name": "add", "description": "adds", "parameters": {"type": "object", "properties": {}}}


def test_known_messages_keep_their_text_and_their_own_keys() -> None:
    messages = [
        {"role": "developer", "content": "<|im_end|> {x} %s {{ y }}"},
        {"role": "user", "content": " two\nlines ", "name": "Zoë"},
    ]
    assert chat_messages(messages, "prompt") == messages


def test_text_parts_are_joined_by_a_line_feed() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat_messages([{"role": "user", "content": parts}], "prompt") == [{"role": "user", "content": "a\nb"}]


def test_an_assistant_that_calls_tools_needs_no_text() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}], "refusal": None}
    answer = {"role": "tool", "content": "3", "tool_call_id": "1"}
    messages = chat_messages([USER, call, answer], "prompt")
    assert messages == [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, answer]
    refuse_unanswerable(messages)


@pytest.mark.parametrize(
    ("messages", "reason", "where"),
    [
        ([], "empty_prompt", "prompt holds no message"),
        ({"role": "user"}, "invalid_prompt", "prompt must be"),
        (7, "invalid_prompt", "got 7"),
        ([USER, "hi"], "invalid_message", "prompt[1]"),
        ([{"role": "user", "content": 5}], "invalid_message", "prompt[0].content"),
        ([{"role": "user", "content": [{"type": "text"}]}], "invalid_message", "content[0].text"),
        ([{"content": "hi"}], "unknown_role", "role None"),
        ([{"role": "human", "content": "hi"}], "unknown_role", "'human'"),
        ([{"role": ["user"], "content": "hi"}], "unknown_role", "['user']"),
        ([{"role": "user", "content": None}], "empty_message", "prompt[0] (user)"),
        ([{"role": "user", "content": " \n"}], "empty_message", "no text"),
        ([{"role": "user", "content": []}], "empty_message", "no text"),
        ([{"role": "assistant", "content": None, "tool_calls": []}], "empty_message", "assistant"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "unsupported_content", "image_url"),
        ([{"role": "user", "content": ["hi"]}], "unsupported_content", "'hi'"),
    ],
)
def test_messages_that_cannot_be_sampled_are_refused(messages: Any, reason: str, where: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        chat_messages(messages, "prompt")
    assert caught.value.reason == reason
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"role": "system", "content": "s"}], "no_user_message"),
        ([USER, {"role": "assistant", "content": "a"}], "does_not_end_with_user"),
        ([USER, {"role": "system", "content": "s"}], "does_not_end_with_user"),
    ],
)
def test_a_conversation_without_a_question_at_its_end_is_refused(messages: list[Any], reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        refuse_unanswerable(messages)
    assert caught.value.reason == reason


@pytest.mark.parametrize("role", ["system", "developer"])
def test_the_system_prompt_of_the_run_never_joins_one_of_the_row(role: str) -> None:
    assert with_system_prompt([USER], "be brief") == [{"role": "system", "content": "be brief"}, USER]
    own = [{"role": role, "content": "be long"}, USER]
    assert with_system_prompt(own, "be brief") == own
    assert with_system_prompt([USER], None) == [USER]


def test_responses_items_become_chat_messages() -> None:
    assert responses_messages("hi") == [USER]
    items = [
        {"type": "message", "id": "m1", "status": "completed", "role": "developer", "content": "rules"},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"role": "user", "content": "c"},
    ]
    assert responses_messages(items) == [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("  ", "empty_prompt"),
        ([{"type": "function_call_output", "call_id": "1", "output": "x"}], "unsupported_item"),
        ([{"type": "reasoning", "summary": []}], "unsupported_item"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "unsupported_content"),
        ([None], "invalid_message"),
        (3, "invalid_prompt"),
    ],
)
def test_responses_input_that_is_no_text_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        responses_messages(value)
    assert caught.value.reason == reason


def test_flat_tools_become_nested_and_nested_ones_stay() -> None:
    nested = {"type": "function", "function": ADD}
    assert chat_tools([{"type": "function", **ADD, "strict": None}]) == [nested]
    assert chat_tools([nested]) == [nested]
    assert chat_tools('[{"type": "function", "name": "now"}]') == [{"type": "function", "function": {"name": "now"}}]


@pytest.mark.parametrize("value", [None, [], "", "null", "[]"])
def test_no_tools_are_none(value: Any) -> None:
    assert chat_tools(value) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"type": "function"}, "invalid_tools"),
        (["add"], "invalid_tools"),
        ([{"type": "function"}], "invalid_tools"),
        ([{"type": "function", "function": "add"}], "invalid_tools"),
        ([{"type": "web_search"}], "unsupported_tool"),
        ("[{", "invalid_json"),
    ],
)
def test_tools_that_cannot_be_offered_are_refused(value: Any, reason: str) -> None:
    with pytest.raises(UnusableRow) as caught:
        chat_tools(value)
    assert caught.value.reason == reason
