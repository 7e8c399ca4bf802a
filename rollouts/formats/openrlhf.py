"""OpenRLHF: JSONL of plain messages; its data sets never pass tool schemas on, so tools and tool calls are refused.

Every file wants `--data.apply_chat_template`: without it the loaders take messages for strings. Read from the data
sets of openrlhf 0.11.2.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from rollouts.formats import Format, Unrepresentable
from rollouts.formats.messages import completion_message, refuse_tools, required_truth, text_messages
from rollouts.selection import Demonstration, Example, PreferencePair, TrainingGroup


class OpenRlhfPrompts(Format):
    """Prompts for `PromptDataset`; the reward function or agent gets `label` and `datasource`."""

    name = "openrlhf"
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    schema: pa.Schema | None = None

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `input` (messages), `label` (text), `datasource`.

        A text with `<image>` in it is refused: the data set would cut it into image placeholders.
        """
        assert isinstance(example, TrainingGroup)
        refuse_tools(example.prompt)
        messages = text_messages(example.prompt.messages)
        if any("<image>" in message["content"] for message in messages):
            raise Unrepresentable("image_mark_in_text")
        return [
            {
                "input": messages,
                "label": required_truth(example.prompt),
                "datasource": dataset,
                "prompt_id": example.prompt.prompt_id,
            }
        ]


class OpenRlhfDemonstrations(Format):
    """Conversations for `SFTDataset`, whole in `input`.

    Without `--data.output_key` and without `--data.multiturn`, which are the defaults, the last message is the answer
    and the only thing trained. With prompt and answer in two columns, the same defaults would train the last message
    of the prompt, and `--data.multiturn` is for users who want earlier assistant turns trained too.
    """

    name = "openrlhf"
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    schema: pa.Schema | None = None

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `input`: the prompt's messages and the one message of the completion."""
        assert isinstance(example, Demonstration)
        refuse_tools(example.prompt)
        completion = completion_message(example.attempt.rollout)
        return [
            {
                "input": text_messages([*example.prompt.messages, completion]),
                "prompt_id": example.prompt.prompt_id,
                "rollout_id": example.attempt.rollout.rollout_id,
            }
        ]


class OpenRlhfPreferences(Format):
    """Pairs for `RewardDataset`, for DPO and reward models. They want `--data.prompt_key prompt`."""

    name = "openrlhf"
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    schema: pa.Schema | None = None

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `prompt`, `chosen` and `rejected` as messages."""
        assert isinstance(example, PreferencePair)
        refuse_tools(example.prompt)
        return [
            {
                "prompt": text_messages(example.prompt.messages),
                "chosen": text_messages([completion_message(example.chosen.rollout)]),
                "rejected": text_messages([completion_message(example.rejected.rollout)]),
                "prompt_id": example.prompt.prompt_id,
            }
        ]
