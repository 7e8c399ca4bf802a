"""Shards: Parquet files of prompts, rollouts and verdicts, each with one explicit Arrow schema.

Free-form parts (messages, tools, extra columns) are JSON strings, because Arrow would give all rows of a column one
struct type and fill what a row lacks with nulls. Numbers that training needs (token ids, log-probabilities, rewards)
are typed columns that pandas, DuckDB and `datasets` read without this project. Rows keep the order they are given in,
the same rows give the same bytes, and reading back gives the same records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rollouts.errors import DataError
from rollouts.records import Prompt, Rollout, Verdict
from rollouts.storage import Store

T = TypeVar("T", Prompt, Rollout, Verdict)

PROMPT_ROW_GROUP = 256
"""Prompts in a row group: the least that is read to get at one batch."""

_error = pa.struct([("type", pa.string()), ("message", pa.string()), ("retryable", pa.bool_()), ("status", pa.int32())])
_usage = pa.struct([("prompt_tokens", pa.int64()), ("completion_tokens", pa.int64())])
_call = pa.struct(
    [
        ("message_index", pa.int32()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("generation_token_ids", pa.list_(pa.int32())),
        ("generation_log_probs", pa.list_(pa.float64())),
        ("finish_reason", pa.string()),
        ("response_id", pa.string()),
        ("model", pa.string()),
        ("usage", _usage),
        ("started_at", pa.float64()),
        ("latency_s", pa.float64()),
        ("attempts", pa.int32()),
    ]
)

PROMPT_SCHEMA = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        ("tools", pa.string()),
        ("ground_truth", pa.string()),
        pa.field("verifier", pa.string(), nullable=False),
        ("sampling", pa.string()),
        ("category", pa.string()),
        ("source", pa.string()),
        ("line", pa.int64()),
        ("extra", pa.string()),
    ]
)
"""Schema of a prompt snapshot. `messages`, `tools`, `ground_truth`, `sampling` and `extra` are JSON."""

ROLLOUT_SCHEMA = pa.schema(
    [
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("repeat_index", pa.int32(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("num_prompt_messages", pa.int32(), nullable=False),
        pa.field("stop_reason", pa.string(), nullable=False),
        ("calls", pa.list_(_call)),
        ("usage", _usage),
        ("seed", pa.int64()),
        ("sampling", pa.string()),
        ("latency_s", pa.float64()),
        ("attempts", pa.int32()),
        ("model_asked", pa.string()),
        ("model_answered", pa.string()),
        ("endpoint", pa.string()),
        ("policy_version", pa.string()),
        ("started_at", pa.float64()),
        ("ended_at", pa.float64()),
        ("flags", pa.list_(pa.string())),
        ("error", _error),
    ]
)
"""Schema of a rollout shard. `messages` and `sampling` are JSON; log-probabilities keep all their bits."""

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("rollout_id", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("repeat_index", pa.int32(), nullable=False),
        ("reward", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        ("verifier", pa.string()),
        ("verifier_version", pa.string()),
        ("components", pa.string()),
        ("answer", pa.string()),
        ("duration_s", pa.float64()),
        ("error", _error),
    ]
)
"""Schema of a verdict shard, a sidecar of a rollout shard with the same rows in the same order."""

_SCHEMAS: dict[type, pa.Schema] = {Prompt: PROMPT_SCHEMA, Rollout: ROLLOUT_SCHEMA, Verdict: VERDICT_SCHEMA}
_JSON_COLUMNS: dict[type, tuple[str, ...]] = {
    Prompt: ("messages", "tools", "ground_truth", "sampling", "extra"),
    Rollout: ("messages", "sampling"),
    Verdict: ("components",),
}


def to_table(kind: type[T], records: Sequence[T]) -> pa.Table:
    """Put records into an Arrow table of their schema, in order."""
    json_columns = _JSON_COLUMNS[kind]
    rows: list[dict[str, Any]] = []
    for record in records:
        row = msgspec.to_builtins(record)
        for column in json_columns:
            row[column] = None if row[column] is None else msgspec.json.encode(row[column]).decode()
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=_SCHEMAS[kind])


def from_table(kind: type[T], table: pa.Table) -> list[T]:
    """Read records back from a table of their schema.

    Raises:
        DataError: A column is missing or holds something else.
    """
    json_columns = _JSON_COLUMNS[kind]
    rows = table.to_pylist()
    try:
        for row in rows:
            for column in json_columns:
                row[column] = None if row[column] is None else msgspec.json.decode(row[column])
        return msgspec.convert(rows, list[kind])
    except (KeyError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(f"not a table of {kind.__name__.lower()}s: {error}") from error


def write_shard(store: Store, key: str, kind: type[T], records: Sequence[T]) -> None:
    """Commit records as one Parquet file, in order."""
    write_table(store, key, to_table(kind, records))


def write_table(store: Store, key: str, table: pa.Table) -> None:
    """Commit a table as one Parquet file, compressed with zstd."""
    with store.create(key) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=PROMPT_ROW_GROUP)


def read_shard(store: Store, key: str, kind: type[T]) -> list[T]:
    """Read a whole shard.

    Raises:
        StoreError: It does not exist.
        DataError: It is not a shard of this kind.
    """
    with store.open(key) as file:
        try:
            table = pq.read_table(file, schema=_SCHEMAS[kind])
        except pa.ArrowInvalid as error:
            raise DataError(f"{store.locate(key)} is not a shard of {kind.__name__.lower()}s: {error}") from error
    return from_table(kind, table)


def read_columns(store: Store, key: str, columns: list[str]) -> pa.Table:
    """Read some columns of a shard, whole."""
    with store.open(key) as file:
        return pq.read_table(file, columns=columns)


def read_prompts(store: Store, key: str, start: int, stop: int) -> list[Prompt]:
    """Read prompts `start` to `stop` (exclusive) of a snapshot, touching only the row groups they lie in."""
    with store.open(key) as file:
        parquet = pq.ParquetFile(file)
        first, last = start // PROMPT_ROW_GROUP, max(start, stop - 1) // PROMPT_ROW_GROUP
        groups = [g for g in range(first, last + 1) if g < parquet.num_row_groups]
        table = parquet.read_row_groups(groups)
    offset = start - first * PROMPT_ROW_GROUP
    return from_table(Prompt, table.slice(offset, stop - start))


def write_prompts(store: Store, key: str, prompts: Iterator[Prompt]) -> None:
    """Commit a snapshot of prompts, streaming: never more than one row group in memory."""
    with store.create(key) as file, pq.ParquetWriter(file, PROMPT_SCHEMA, compression="zstd") as writer:
        buffer: list[Prompt] = []
        for prompt in prompts:
            buffer.append(prompt)
            if len(buffer) == PROMPT_ROW_GROUP:
                writer.write_table(to_table(Prompt, buffer))
                buffer = []
        if buffer:
            writer.write_table(to_table(Prompt, buffer))
