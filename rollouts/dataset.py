"""Dataset files: examples go in one by one, a file for every format and split comes out, committed at the end.

Rows are spooled to a local folder, so memory does not grow with the dataset, and uploaded whole by `close`. The same
examples in the same order give the same bytes. What a format refuses is counted by its reason, never dropped silently.

Two habits of loaders shape the files. JSON loaders infer the types of a whole file from its beginning, so examples
whose rows show a new shape (the first tool call, the first tool schemas) are put first, each with all its rows, in
their own order; all others keep theirs. Parquet files have an explicit schema and hold no free-form objects.

JSONL whose texts would come back as timestamps is written as Parquet with explicit types, which is known at the end only.
Of a format that wants groups of one size the largest groups of the run are published, in whatever order they come: when
a larger one comes, what was spooled of the smaller ones is thrown away.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from rollouts.formats import Format, Unrepresentable
from rollouts.references import Reference
from rollouts.selection import Example
from rollouts.shapes import Shapes
from rollouts.spools import JsonLines, ParquetRows
from rollouts.storage import Store

_Spool: TypeAlias = JsonLines | ParquetRows


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
        self._spools: dict[tuple[str, str], _Spool] = {}
        self._largest: Counter[str] = Counter()
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
            if rows and self._is_large_enough(form, len(rows)):
                self._spool(form, split).write(rows)

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
            spools = {split: spool for (name, split), spool in self._spools.items() if name == form.name}
            spools = self._typed(form, spools)
            files += [self._publish(spools[split], form.name, split) for split in sorted(spools)]
        return files

    def _spool(self, form: Format, split: str) -> _Spool:
        spool = self._spools.get((form.name, split))
        if spool is None:
            path = Path(self._folder.name) / f"{form.name}-{split}-{self._largest[form.name]}.{form.suffix}"
            spool = JsonLines(path) if form.schema is None else ParquetRows(path, form.schema)
            self._spools[form.name, split] = spool
        return spool

    def _is_large_enough(self, form: Format, num_rows: int) -> bool:
        """Whether no larger group came before, where groups have to be equal; smaller ones count as refused."""
        largest = self._largest[form.name]
        if not form.equal_groups or num_rows == largest:
            return True
        if num_rows < largest:
            self.refused[form.name]["incomplete_group"] += 1
            return False
        self._largest[form.name] = num_rows
        for name, split in [key for key in self._spools if key[0] == form.name]:
            smaller = self._spools.pop((name, split))
            smaller.discard()
            self.refused[name]["incomplete_group"] += smaller.num_examples
        return True

    def _typed(self, form: Format, spools: dict[str, _Spool]) -> Mapping[str, _Spool]:
        """The same spools, or Parquet in their place where a loader would take texts for timestamps."""
        lines = {split: spool for split, spool in spools.items() if isinstance(spool, JsonLines)}
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
        typed = {
            split: ParquetRows(Path(self._folder.name) / f"{form.name}-{split}.parquet", schema) for split in lines
        }
        for split, spool in lines.items():
            for row in spool.rows():
                typed[split].write([row])
        return typed

    def _publish(self, spool: _Spool, form: str, split: str) -> DatasetFile:
        key = f"{self._prefix}/dataset/{form}/{split}.{spool.suffix}"
        digest, size_bytes = hashlib.sha256(), 0
        with self._store.create(key) as file:
            for block in spool.finish():
                digest.update(block)
                file.write(block)
                size_bytes += len(block)
        return DatasetFile(
            format=form, split=split, key=key, rows=spool.num_rows, size_bytes=size_bytes, sha256=digest.hexdigest()
        )
