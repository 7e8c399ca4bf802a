"""From verdicts to a dataset: deciding about every attempt once, then writing what was kept and what was dropped.

The decisions are a table of their own, one row an attempt in the order of the batches, one row group a batch. Writing
reads it back beside the shards, so nothing is decided twice and memory holds one batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from rollouts.dataset import DatasetFile, DatasetWriter
from rollouts.formats.registry import formats_for
from rollouts.groups import read_groups
from rollouts.identity import content_id
from rollouts.layout import selection_key
from rollouts.records import Attempt, Group
from rollouts.references import PromptSet, Reference, Selection, VerdictShard
from rollouts.selection import Demonstration, Example, PreferencePair, TrainingGroup
from rollouts.selection.registry import selector
from rollouts.selection.split import split_of
from rollouts.settings import CollectSettings
from rollouts.storage import Store

DECISION_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("repeat_index", pa.int32(), nullable=False),
        ("split", pa.string()),
        ("example", pa.int64()),
        ("role", pa.string()),
        ("pass_rate", pa.float64()),
        ("reason", pa.string()),
    ]
)
"""One row an attempt: either `example` (index in the run) and `role`, or the `reason` it was dropped for."""

DROPPED_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("repeat_index", pa.int32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        ("reward", pa.float64()),
        ("stop_reason", pa.string()),
        ("error", pa.string()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
    ]
)
"""Dropped attempts as people read them."""


class Dataset(Reference):
    """All files of a run's dataset, written but not yet published."""

    files: list[DatasetFile]
    num_examples: dict[str, int]
    """Examples by split."""
    dropped_key: str
    """Key of the table of dropped attempts."""
    num_unrepresentable: dict[str, dict[str, int]]
    """Examples that a trainer's schema cannot hold, by format and reason."""


def selection_id(settings: CollectSettings, shards: Sequence[VerdictShard]) -> str:
    """Identity of a selection: the settings that decide, and the verdicts that are decided about."""
    return content_id("selection", settings.selection(), settings.split_seed, [shard.sha256 for shard in shards])


def select(
    store: Store, settings: CollectSettings, prompt_set: PromptSet, shards: Sequence[VerdictShard], sampling_id: str
) -> Selection:
    """Decide about every attempt. That nothing was kept is a decision too: `publish` says what it means."""
    num_rollouts = sum(shard.rollouts.num_rollouts for shard in shards)
    num_unknown = num_rollouts - sum(shard.num_scored for shard in shards)
    decide = selector(settings)
    key = selection_key(sampling_id, selection_id(settings, shards))
    dropped: Counter[str] = Counter()
    num_examples = 0
    with store.create(key) as file, pq.ParquetWriter(file, DECISION_SCHEMA, compression="zstd") as writer:
        for shard in shards:
            rows: list[dict[str, Any]] = []
            for group in read_groups(store, prompt_set, shard):
                selected = decide(group)
                split = split_of(group.prompt, settings.validation_fraction, settings.split_seed)
                for example in selected.examples:
                    rows += _kept_rows(example, num_examples, split)
                    num_examples += 1
                for drop in selected.drops:
                    dropped[drop.reason] += 1
                    rows.append(
                        {
                            "prompt_id": drop.prompt_id,
                            "rollout_id": drop.rollout_id,
                            "repeat_index": drop.repeat_index,
                            "split": split,
                            "reason": drop.reason,
                        }
                    )
            writer.write_table(pa.Table.from_pylist(rows, schema=DECISION_SCHEMA))
    return Selection(
        key=key,
        sha256=store.sha256(key),
        num_rollouts=num_rollouts,
        num_kept=num_rollouts - dropped.total(),
        num_examples=num_examples,
        num_dropped=dict(sorted(dropped.items())),
        num_unknown=num_unknown,
    )


def write_dataset(
    store: Store,
    settings: CollectSettings,
    prompt_set: PromptSet,
    shards: Sequence[VerdictShard],
    selection: Selection,
    prefix: str,
) -> Dataset:
    """Write what was kept in every trainer's format, and what was dropped in one table that can be read.

    Args:
        store: Holds everything.
        settings: Names the formats.
        prompt_set: Snapshot of the prompts.
        shards: Verdicts of all batches, in order.
        selection: Decisions about them.
        prefix: Folder of the run.
    """
    formats = formats_for(settings.objective, list(settings.formats))
    dropped_key = f"{prefix}/dropped.parquet"
    with (
        DatasetWriter(store, prefix, formats, settings.dataset_name) as writer,
        store.open(selection.key) as file,
        store.create(dropped_key) as dropped_file,
        pq.ParquetWriter(dropped_file, DROPPED_SCHEMA, compression="zstd") as dropped,
    ):
        decisions = pq.ParquetFile(file)
        for index, shard in enumerate(shards):
            batch = _Decided(read_groups(store, prompt_set, shard), decisions.read_row_group(index).to_pylist())
            for split, example in batch.examples():
                writer.add(example, split)
            dropped.write_table(pa.Table.from_pylist(batch.dropped(), schema=DROPPED_SCHEMA))
        files = writer.close()
    refused = {name: dict(sorted(reasons.items())) for name, reasons in writer.refused.items() if reasons}
    return Dataset(
        files=files,
        num_examples=dict(sorted(writer.num_examples.items())),
        dropped_key=dropped_key,
        num_unrepresentable=refused,
    )


class _Decided:
    """One batch, with the decisions about it."""

    def __init__(self, groups: Iterator[Group], decisions: list[dict[str, Any]]) -> None:
        self._decisions = decisions
        self._found: dict[str, _Found] = {
            attempt.rollout.rollout_id: _Found(group, attempt) for group in groups for attempt in group.attempts
        }

    def examples(self) -> Iterator[tuple[str, Example]]:
        """Examples with their split, in order."""
        members: dict[int, list[dict[str, Any]]] = {}
        for row in self._decisions:
            if row["reason"] is None:
                members.setdefault(row["example"], []).append(row)
        for rows in members.values():
            yield rows[0]["split"], self._example(rows)

    def dropped(self) -> list[dict[str, Any]]:
        """Dropped attempts as people read them."""
        return [self._dropped_row(row) for row in self._decisions if row["reason"] is not None]

    def _example(self, rows: list[dict[str, Any]]) -> Example:
        prompt = self._found[rows[0]["rollout_id"]].group.prompt
        attempts = {row["role"]: self._found[row["rollout_id"]].attempt for row in rows}
        match rows[0]["role"]:
            case "demonstration":
                return Demonstration(prompt, attempts["demonstration"])
            case "chosen" | "rejected":
                return PreferencePair(prompt, attempts["chosen"], attempts["rejected"])
            case _:
                return TrainingGroup(
                    prompt, [self._found[row["rollout_id"]].attempt for row in rows], rows[0]["pass_rate"]
                )

    def _dropped_row(self, row: dict[str, Any]) -> dict[str, Any]:
        group, attempt = self._found[row["rollout_id"]]
        error = attempt.rollout.error or attempt.verdict.error
        return {
            "prompt_id": row["prompt_id"],
            "rollout_id": row["rollout_id"],
            "repeat_index": row["repeat_index"],
            "reason": row["reason"],
            "reward": attempt.verdict.reward,
            "stop_reason": attempt.rollout.stop_reason.value,
            "error": f"{error.type}: {error.message}" if error else None,
            "prompt": str(group.prompt.messages[-1].get("content") or ""),
            "completion": attempt.rollout.text,
        }


class _Found(NamedTuple):
    group: Group
    attempt: Attempt


def _kept_rows(example: Example, index: int, split: str) -> list[dict[str, Any]]:
    match example:
        case TrainingGroup():
            members = [("rollout", attempt) for attempt in example.attempts]
        case Demonstration():
            members = [("demonstration", example.attempt)]
        case PreferencePair():
            members = [("chosen", example.chosen), ("rejected", example.rejected)]
    return [
        {
            "prompt_id": attempt.rollout.prompt_id,
            "rollout_id": attempt.rollout.rollout_id,
            "repeat_index": attempt.rollout.repeat_index,
            "split": split,
            "example": index,
            "role": role,
            "pass_rate": example.pass_rate if isinstance(example, TrainingGroup) else None,
        }
        for role, attempt in members
    ]
