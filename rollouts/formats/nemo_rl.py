"""NeMo-RL: JSONL for its response, OpenAI-format and preference data sets.

Rollouts for NeMo-RL are NeMo Gym results and have a file of their own, `rollouts.formats.nemo_gym`. Written after the
data sets of NeMo-RL of August 2026.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from rollouts.formats import Format, Unrepresentable
from rollouts.formats.messages import (
    chat_messages,
    completion_message,
    refuse_earlier_turns,
    refuse_tools,
    required_truth,
    text_messages,
)
from rollouts.selection import Demonstration, Example, PreferencePair, TrainingGroup


class NemoRlPrompts(Format):
    """Prompts for `ResponseDataset` with the math processor: a user message and its answer, both text."""

    name = "nemo_rl"
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    schema: pa.Schema | None = None

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `input` and `output`; a prompt that is not exactly one user message has no place in them."""
        assert isinstance(example, TrainingGroup)
        refuse_tools(example.prompt)
        match text_messages(example.prompt.messages):
            case [{"role": "user", "content": text}]:
                truth = required_truth(example.prompt)
                return [{"input": text, "output": truth, "prompt_id": example.prompt.prompt_id}]
            case _:
                raise Unrepresentable("prompt_not_one_user_message")


class NemoRlDemonstrations(Format):
    """Conversations for `openai_format`; `use_preserving_dataset: true` keeps different tools apart.

    NeMo-RL trains every assistant message, so a prompt with assistant turns in it is refused.
    """

    name = "nemo_rl"
    read_with_json = True
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    schema: pa.Schema | None = None

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `messages`, ending with the assistant's, and `tools` (a list of schemas) where there are any."""
        assert isinstance(example, Demonstration)
        refuse_earlier_turns(example.prompt)
        completion = completion_message(example.attempt.rollout)
        row: dict[str, Any] = {"messages": chat_messages([*example.prompt.messages, completion])}
        if example.prompt.tools:
            row["tools"] = example.prompt.tools
        return [{**row, "prompt_id": example.prompt.prompt_id, "rollout_id": example.attempt.rollout.rollout_id}]


class NemoRlPreferences(Format):
    """Pairs for `PreferenceDataset`: two ranked completions, the lower rank is the better one."""

    name = "nemo_rl"
    suffix: Literal["jsonl", "parquet"] = "jsonl"
    schema: pa.Schema | None = None

    def rows(self, example: Example, index: int, split: str, dataset: str) -> list[dict[str, Any]]:
        """Return `context` and `completions`. The data set renders no tools, so they are refused."""
        assert isinstance(example, PreferencePair)
        refuse_tools(example.prompt)
        ranked = [completion_message(attempt.rollout) for attempt in (example.chosen, example.rejected)]
        return [
            {
                "context": text_messages(example.prompt.messages),
                "completions": [
                    {"rank": rank, "completion": text_messages([message])} for rank, message in enumerate(ranked)
                ],
                "prompt_id": example.prompt.prompt_id,
            }
        ]
