"""verl: Parquet that its data sets read with pandas or `datasets`, with columns of one type all the way down.

Arrow gives all rows of a column one struct type and fills what a row lacks with nulls, which a chat template then
prints. So messages are `role` and `content` only, and conversations with tool calls are refused. Tried with verl
0.9.1; which of its classes reads which file stands in `docs/formats.md`.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from rollouts.formats import Format, Unrepresentable
from rollouts.formats.messages import (
    completion_message,
    content_text,
    refuse_earlier_turns,
    refuse_tools,
    required_truth,
    text_messages,
)
from rollouts.selection import Demonstration, Example, PreferencePair, TrainingGroup

_messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_USER = "\n\nHuman: "
_ASSISTANT = "\n\nAssistant:"


class VerlPrompts(Format):
    """Prompts for `RLHFDataset`. `data_source` is the name of the dataset, so training needs a reward function."""

    name = "verl"
    suffix: Literal["jsonl", "parquet"] = "parquet"
    schema: pa.Schema | None = pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", _messages),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("split", pa.string()),
                        ("index", pa.int64()),
                        ("prompt_id", pa.string()),
                        ("verifier", pa.string()),
                        ("pass_rate", pa.float64()),
                    ]
                ),
            ),
        ]
    )

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return one row a group; `ability` is the prompt's category, or its verifier when it has none.

        Tools are refused: verl takes them from a file of its own (`tool_config_path`), not from a column.
        """
        assert isinstance(example, TrainingGroup)
        prompt = example.prompt
        refuse_tools(prompt)
        return [
            {
                "data_source": dataset,
                "prompt": text_messages(prompt.messages),
                "ability": prompt.category or prompt.verifier,
                "reward_model": {"style": "rule", "ground_truth": required_truth(prompt)},
                "extra_info": {
                    "split": split,
                    "index": index,
                    "prompt_id": prompt.prompt_id,
                    "verifier": prompt.verifier,
                    "pass_rate": example.pass_rate,
                },
            }
        ]


class VerlDemonstrations(Format):
    """Conversations for `MultiTurnSFTDataset`, which trains every assistant message in them."""

    name = "verl"
    suffix: Literal["jsonl", "parquet"] = "parquet"
    schema: pa.Schema | None = pa.schema(
        [("messages", _messages), ("prompt_id", pa.string()), ("rollout_id", pa.string())]
    )

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return the conversation; one with assistant turns in its prompt is refused, as they would be trained."""
        assert isinstance(example, Demonstration)
        refuse_tools(example.prompt)
        refuse_earlier_turns(example.prompt)
        completion = completion_message(example.attempt.rollout)
        return [
            {
                "messages": text_messages([*example.prompt.messages, completion]),
                "prompt_id": example.prompt.prompt_id,
                "rollout_id": example.attempt.rollout.rollout_id,
            }
        ]


class VerlPreferences(Format):
    r"""Pairs of plain strings for `RMDataset` (reward models): verl's core has no DPO.

    The data set puts prompt and answer together as they stand, without a chat template, so the conversation is written
    as a transcript: `\n\nHuman: ` before each user turn, `\n\nAssistant:` before each assistant turn, a space before
    each answer. System messages have no place in it and are refused, and so is text that holds one of the two marks
    and could pass for a turn.
    """

    name = "verl"
    suffix: Literal["jsonl", "parquet"] = "parquet"
    schema: pa.Schema | None = pa.schema(
        [("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string()), ("prompt_id", pa.string())]
    )

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `prompt`, ending in the mark of the assistant, and `chosen` and `rejected`, each after a space."""
        assert isinstance(example, PreferencePair)
        refuse_tools(example.prompt)
        turns = [_turn(message) for message in text_messages(example.prompt.messages)]
        return [
            {
                "prompt": "".join([*turns, _ASSISTANT]),
                "chosen": _answer(text_messages([completion_message(example.chosen.rollout)])[0]),
                "rejected": _answer(text_messages([completion_message(example.rejected.rollout)])[0]),
                "prompt_id": example.prompt.prompt_id,
            }
        ]


def _turn(message: dict[str, Any]) -> str:
    match message["role"]:
        case "user":
            return _USER + _unmarked(content_text(message))
        case "assistant":
            return _ASSISTANT + _answer(message)
        case _:
            raise Unrepresentable("role_not_in_transcript")


def _answer(message: dict[str, Any]) -> str:
    return " " + _unmarked(content_text(message))


def _unmarked(text: str) -> str:
    if _USER.rstrip() in text or _ASSISTANT in text:
        raise Unrepresentable("turn_mark_in_text")
    return text
