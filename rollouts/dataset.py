"""Dataset files: examples go in one by one, a file for every format and split comes out, committed at the end.

Rows are spooled to a local folder, so memory does not grow with the dataset, and uploaded whole by `close`. The same
examples in the same order give the same bytes. What a format refuses is counted by its reason, never dropped silently.

Two habits of loaders shape the files. JSON loaders infer the types of a whole file from its beginning, so examples
whose rows show a new shape (the first tool call, the first tool schemas) are put first, each with all its rows, in
their own order; all others keep theirs. Parquet files have an explicit schema and hold no free-form objects.

Two files are decided upon at the end only. JSONL whose texts would come back as timestamps is written as Parquet with
explicit types. And of a format that wants groups of one size, a file for each size is spooled, and the largest size is
published: which one that is does not depend on the order of the groups.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from rollouts.formats import Format, Unrepresentable
from rollouts.references import Reference
from rollouts.selection import Example
from rollouts.shapes import Shapes
from rollouts.storage import Store

ROW_GROUP_BYTES = 16 << 20
"""Arrow bytes after which a Parquet row group is written; what one open file holds in memory."""
_COPY_BYTES = 1 << 20


class DatasetFile(Reference):
    """A file of a published dataset."""

    format: str
    """Name of the format, and of the configuration in the dataset card."""
    split: str
    """`train` or `validation`."""
    key: str
    """Key of the file in the store."""
    rows: int
    """Rows in the file, at least 1."""
    size_bytes: int
    """Size of the file."""
    sha256: str
    """Hexadecimal SHA-256 of its bytes."""


class DatasetWriter:
    """Writes examples in every format at once.

        with DatasetWriter(store, "rl/gsm8k/3f2a", formats_for("rl", ["trl", "verl"]), "gsm8k") as writer:
            for example in examples:
                writer.add(example, "train")
            files = writer.close()

    Leaving the block removes the spool; what was not closed is not published.

    Args:
        store: Where the files go.
        prefix: Folder of the run; files are `<prefix>/dataset/<format>/<split>.<suffix>`.
        formats: Formats of one objective, with different names.
        dataset: Name of the dataset, for trainers that ask for a data source.
    """

    def __init__(self, store: Store, prefix: str, formats: Sequence[Format], dataset: str) -> None:
        self._store = store
        self._prefix = prefix
        self._formats = list(formats)
        self._dataset = dataset
        self._folder = tempfile.TemporaryDirectory(prefix="dataset-")
        self._spools: dict[tuple[str, str, int], _JsonLines | _Parquet] = {}
        self.num_examples: Counter[str] = Counter()
        """Examples added, by split."""
        self.refused: dict[str, Counter[str]] = {form.name: Counter() for form in self._formats}
        """Examples that a format could not hold, by format and reason; complete after `close`."""

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._folder.cleanup()

    def add(self, example: Example, split: str) -> None:
        """Write an example to the files of a split; a format takes all of its rows or none."""
        index = self.num_examples[split]
        self.num_examples[split] += 1
        for form in self._formats:
            try:
                rows = list(form.rows(example, index, split, self._dataset))
            except Unrepresentable as refusal:
                self.refused[form.name][str(refusal)] += 1
                continue
            if rows:
                self._spool(form, split, len(rows) if form.equal_groups else 0).write(rows)

    def close(self) -> list[DatasetFile]:
        """Finish and upload the files that have rows, in the order of the formats, then of the splits.

        `datasets` gives a JSONL field that holds nothing but dates back as timestamps, and no option of it prevents
        that. The files of a format with such a field become Parquet, all splits of it, as a folder is loaded by one
        reader. When their rows do not fit into a schema, the file is left out and its examples count as refused for
        `reads_as_dates`. Groups that are smaller than the largest one count as `incomplete_group` where a trainer
        wants them equal.

        Raises:
            StoreError: A file could not be uploaded.
        """
        files: list[DatasetFile] = []
        for form in self._formats:
            spools = self._typed(form, self._equal(form))
            files += [self._publish(spools[split], form.name, split) for split in sorted(spools)]
        return files

    def _spool(self, form: Format, split: str, group_size: int) -> _JsonLines | _Parquet:
        spool = self._spools.get((form.name, split, group_size))
        if spool is None:
            path = Path(self._folder.name) / f"{form.name}-{split}-{group_size}.{form.suffix}"
            spool = _JsonLines(path) if form.schema is None else _Parquet(path, form.schema)
            self._spools[form.name, split, group_size] = spool
        return spool

    def _equal(self, form: Format) -> dict[str, _JsonLines | _Parquet]:
        """Spool of each split, of the largest groups where groups have to be equal; the others count as refused."""
        spools = {key: spool for key, spool in self._spools.items() if key[0] == form.name}
        largest = max((size for _, _, size in spools), default=0)
        smaller = sum(spool.num_examples for (_, _, size), spool in spools.items() if size < largest)
        if smaller:
            self.refused[form.name]["incomplete_group"] += smaller
        return {split: spool for (_, split, size), spool in spools.items() if size == largest}

    def _typed(self, form: Format, spools: dict[str, _JsonLines | _Parquet]) -> Mapping[str, _JsonLines | _Parquet]:
        """The same spools, or Parquet in their place where a loader would take texts for timestamps."""
        lines = {split: spool for split, spool in spools.items() if isinstance(spool, _JsonLines)}
        if form.read_with_json or not any(spool.read_as_dates for spool in lines.values()):
            return spools
        shapes = Shapes()
        for spool in lines.values():
            shapes.add(spool.rows())
        schema = shapes.schema()
        if schema is None:
            self.refused[form.name]["reads_as_dates"] += sum(
                spool.num_examples for spool in lines.values() if spool.read_as_dates
            )
            return {split: spool for split, spool in lines.items() if not spool.read_as_dates}
        typed = {split: _Parquet(Path(self._folder.name) / f"{form.name}-{split}.parquet", schema) for split in lines}
        for split, spool in lines.items():
            for row in spool.rows():
                typed[split].write([row])
        return typed

    def _publish(self, spool: _JsonLines | _Parquet, form: str, split: str) -> DatasetFile:
        key = f"{self._prefix}/dataset/{form}/{split}.{spool.suffix}"
        path = spool.finish()
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._store.upload(path, key)
        size_bytes = path.stat().st_size
        return DatasetFile(format=form, split=split, key=key, rows=spool.num_rows, size_bytes=size_bytes, sha256=sha256)


class _JsonLines:
    """Compact UTF-8 JSON, a line a row, with the examples that show new shapes first."""

    suffix = "jsonl"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("w+b")
        self._shapes = Shapes()
        self._early: list[tuple[int, int]] = []
        self.num_examples = 0
        self.num_rows = 0

    @property
    def read_as_dates(self) -> bool:
        """Whether loaders would give a text field of the file back as timestamps."""
        return self._shapes.read_as_dates

    def rows(self) -> Iterator[dict[str, Any]]:
        """Rows as they were written, in the order of the examples; nothing may be written while they are read."""
        self._file.seek(0)
        for line in self._file:
            yield msgspec.json.decode(line)

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append the rows of one example."""
        start = self._file.tell()
        self._file.write(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
        self.num_examples += 1
        self.num_rows += len(rows)
        if self._shapes.add(rows):
            self._early.append((start, self._file.tell()))

    def finish(self) -> Path:
        """Return the finished file."""
        end = self._file.seek(0, os.SEEK_END)
        late = list(_gaps(self._early, end))
        ordered = self._path.with_suffix(".ordered")
        with self._file as source, ordered.open("wb") as target:
            for start, stop in [*self._early, *late]:
                source.seek(start)
                while start < stop:
                    chunk = source.read(min(_COPY_BYTES, stop - start))
                    target.write(chunk)
                    start += len(chunk)
        return ordered


class _Parquet:
    """Rows under an explicit schema, in row groups of about `ROW_GROUP_BYTES`."""

    suffix = "parquet"

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._batches: list[pa.RecordBatch] = []
        self._size_bytes = 0
        self.num_examples = 0
        self.num_rows = 0

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Append the rows of one example."""
        batch = pa.RecordBatch.from_pylist(rows, schema=self._schema)
        self._batches.append(batch)
        self._size_bytes += batch.nbytes
        self.num_examples += 1
        self.num_rows += len(rows)
        if self._size_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def finish(self) -> Path:
        """Return the finished file."""
        self._flush()
        self._writer.close()
        return self._path

    def _flush(self) -> None:
        if self._batches:
            table = pa.Table.from_batches(self._batches, schema=self._schema).combine_chunks()
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._batches = []
        self._size_bytes = 0


def _gaps(ranges: list[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """What `ranges` (ascending, apart) leave out of 0..end."""
    position = 0
    for start, stop in [*ranges, (end, end)]:
        if position < start:
            yield position, start
        position = stop
