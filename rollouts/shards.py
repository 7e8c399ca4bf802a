"""Shards: Parquet files of prompts, rollouts and verdicts, each with one explicit Arrow schema.

Free-form parts (messages, tools, extra columns) are JSON strings, because Arrow would give all rows of a column one
struct type and fill what a row lacks with nulls. Numbers that training needs (token ids, log-probabilities, rewards)
are typed columns that pandas, DuckDB and `datasets` read without this project. Rows keep the order they are given in,
the same rows give the same bytes, and reading back gives the same records. Whoever needs no tokens does not read them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rollouts.errors import DataError
from rollouts.hashed_file import create_hashed
from rollouts.packed_rollout import PackedRollout, pack
from rollouts.record_tables import (
    PROMPT_SCHEMA,
    VERDICT_ENCODING,
    VERDICT_SCHEMA,
    prompt_batch,
    prompts_of,
    verdict_batch,
    verdicts_of,
)
from rollouts.records import Prompt, Rollout, Verdict
from rollouts.rollout_table import ENCODING, ROLLOUT_SCHEMA, rollout_batch, rollouts_of, row_groups
from rollouts.storage import Store

T = TypeVar("T", Prompt, Rollout, Verdict)

PROMPT_ROW_GROUP = 256
"""Prompts in a row group: the least that is read to get at one batch."""
READ_ROWS = 1024
"""Records that are made at once while a shard is read."""


class _Kind(NamedTuple):
    """How records of one kind lie in a table."""

    schema: pa.Schema
    to_batch: Callable[[Any], pa.RecordBatch]
    from_batch: Callable[[pa.RecordBatch], list[Any]]


_KINDS: dict[type, _Kind] = {
    Prompt: _Kind(PROMPT_SCHEMA, prompt_batch, prompts_of),
    Rollout: _Kind(
        ROLLOUT_SCHEMA, lambda rollouts: rollout_batch([pack(rollout) for rollout in rollouts]), rollouts_of
    ),
    Verdict: _Kind(VERDICT_SCHEMA, verdict_batch, verdicts_of),
}


def to_table(kind: type[T], records: Sequence[T]) -> pa.Table:
    """Put records into an Arrow table of their schema, in order.

    Raises:
        DataError: A token id does not fit 32 bits.
    """
    return pa.Table.from_batches([_KINDS[kind].to_batch(records)])


def from_table(kind: type[T], table: pa.Table) -> list[T]:
    """Read records back from a table of their schema. Columns of a rollout that have a default may be left out.

    Raises:
        DataError: A column is missing or holds something else.
    """
    return [record for batch in table.to_batches() for record in _records(kind, batch)]


def write_shard(store: Store, key: str, kind: type[T], records: Sequence[T]) -> str:
    """Commit records as one Parquet file, in order.

    Returns:
        Hexadecimal SHA-256 of its bytes.
    """
    if kind is Rollout:
        return write_rollouts(store, key, (pack(rollout) for rollout in records))  # pyright: ignore[reportArgumentType]
    return write_table(store, key, to_table(kind, records), **(VERDICT_ENCODING if kind is Verdict else {}))


def write_rollouts(store: Store, key: str, rows: Iterable[PackedRollout]) -> str:
    """Commit packed rollouts as one Parquet file, in order; never more than one row group in memory.

    Returns:
        Hexadecimal SHA-256 of its bytes.
    """
    with create_hashed(store, key) as file:
        with pq.ParquetWriter(file, ROLLOUT_SCHEMA, compression="zstd", **ENCODING) as writer:
            for group in row_groups(rows):
                writer.write_batch(rollout_batch(group))
        return file.sha256


def write_table(store: Store, key: str, table: pa.Table, **encoding: Any) -> str:
    """Commit a table as one Parquet file, compressed with zstd.

    Returns:
        Hexadecimal SHA-256 of its bytes.
    """
    with create_hashed(store, key) as file:
        pq.write_table(table, file, compression="zstd", **encoding)
        return file.sha256


def read_shard(store: Store, key: str, kind: type[T], columns: Sequence[str] | None = None) -> list[T]:
    """Read a whole shard. Arguments and errors as `iter_shard`."""
    return list(chain.from_iterable(iter_shard(store, key, kind, columns)))


def iter_shard(store: Store, key: str, kind: type[T], columns: Sequence[str] | None = None) -> Iterator[list[T]]:
    """Read a shard some rows at a time, in order.

    Args:
        store: Holds the shard.
        key: Names it.
        kind: What it holds.
        columns: Parquet columns to read, `None` for all: those that are left out are not known in the records
            (`rollout_table.WITHOUT_TOKENS` leaves the lists of the calls `None`).

    Raises:
        StoreError: It does not exist.
        DataError: It is not a shard of this kind.
    """
    for batch in iter_batches(store, key, kind, columns):
        try:
            yield _records(kind, batch)
        except DataError as error:
            raise _not_a_shard(store, key, kind, error) from error


def iter_batches(
    store: Store, key: str, kind: type[T], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read a shard as Arrow, some rows at a time, in order. Arguments and errors as `iter_shard`."""
    with store.open(key) as file:
        try:
            parquet = pq.ParquetFile(file, pre_buffer=not store.is_local)
            lacking = set(_KINDS[kind].schema.names) - set(parquet.schema_arrow.names)
            if lacking:
                raise _not_a_shard(store, key, kind, f"it lacks {', '.join(sorted(lacking))}")
            batches = parquet.iter_batches(READ_ROWS, columns=columns, use_threads=False)
            while (batch := next(batches, None)) is not None:
                yield batch
        except pa.ArrowInvalid as error:
            raise _not_a_shard(store, key, kind, error) from error


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


def _records(kind: type[T], batch: pa.RecordBatch) -> list[T]:
    try:
        return _KINDS[kind].from_batch(batch)
    except (DataError, msgspec.DecodeError) as error:
        raise DataError(f"not a table of {kind.__name__.lower()}s: {error}") from error


def _not_a_shard(store: Store, key: str, kind: type, why: object) -> DataError:
    return DataError(f"{store.locate(key)} is not a shard of {kind.__name__.lower()}s: {why}")
