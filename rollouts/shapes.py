"""What a JSON loader will make of a file: which rows must come early in it, and whether texts come back as dates.

Loaders infer the types of a whole file from its beginning; `datasets` looks at the first 10 MB of a JSONL file. A field
whose objects have different keys there becomes free-form and takes anything later; a key, or a type of value, that first
appears after them makes the file unreadable. So a row is worth moving to the front when it shows a shape that no row
before it had. There are few such rows in any file: a path has a handful of scalar types, and objects that were seen with
two sets of keys are free-form from then on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import pyarrow as pa

_Path: TypeAlias = tuple[str, ...]
_Kind: TypeAlias = str | frozenset[str]

_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""Texts that Arrow's JSON reader takes for timestamps when a field holds nothing else (measured with pyarrow 26)."""

_SCALARS = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


class Shapes:
    """Shapes of the rows so far: for each path, the types of value it had, and for objects their keys."""

    def __init__(self) -> None:
        self._seen: dict[_Path, set[_Kind]] = {}
        self._num_seen = 0

    def add(self, rows: Iterable[dict[str, Any]]) -> bool:
        """Take note of rows; return whether one of them shows a shape that no row before it had.

        The keys of a row itself count one by one: a column that is missing in some rows is no harm, but a column that
        appears late is.
        """
        num_seen = self._num_seen
        for row in rows:
            for name, value in row.items():
                self._observe((name,), value)
        return self._num_seen > num_seen

    @property
    def read_as_dates(self) -> bool:
        """Whether a text field held dates only, so that loaders give it back as timestamps, in another spelling."""
        return any(
            kinds == {"date"} and not any(self._is_free_form(path[:length]) for length in range(1, len(path)))
            for path, kinds in self._seen.items()
        )

    def schema(self) -> pa.Schema | None:
        """Arrow schema under which the rows come back as they are, texts as texts.

        `None` when there is none: a field with several types of value, or objects of one field with different keys or
        with none at all. A column that some rows lack is no harm.
        """
        columns = [path[0] for path in self._seen if len(path) == 1]
        try:
            return pa.schema([(name, self._arrow_type((name,))) for name in columns])
        except _NoArrowTypeError:
            return None

    def _arrow_type(self, path: _Path) -> pa.DataType:
        kinds = self._seen.get(path, set[_Kind]())
        if not kinds:
            return pa.null()
        if kinds <= {"date", "text"}:
            return pa.string()
        kind, *others = kinds
        if others or not kind:
            raise _NoArrowTypeError
        if isinstance(kind, frozenset):
            return pa.struct([(name, self._arrow_type((*path, name))) for name in sorted(kind)])
        return pa.list_(self._arrow_type((*path, "[]"))) if kind == "array" else _SCALARS[kind]

    def _observe(self, path: _Path, value: Any) -> None:
        match value:
            case None:
                return
            case dict():
                self._observe_object(path, cast("dict[str, Any]", value))
            case list():
                self._observe_array(path, cast("list[Any]", value))
            case str():
                self._note(path, "date" if _DATE.fullmatch(value) else "text")
            case _:
                self._note(path, type(value).__name__)

    def _observe_object(self, path: _Path, value: dict[str, Any]) -> None:
        if not self._is_free_form(path):
            self._note(path, frozenset(value))
        if not self._is_free_form(path):
            for name, item in value.items():
                self._observe((*path, name), item)

    def _observe_array(self, path: _Path, value: list[Any]) -> None:
        self._note(path, "array")
        items = (*path, "[]")
        kinds = {type(item) for item in value}
        if kinds <= {int, float, bool}:
            for kind in kinds:
                self._note(items, kind.__name__)
        else:
            for item in value:
                self._observe(items, item)

    def _is_free_form(self, path: _Path) -> bool:
        return sum(isinstance(kind, frozenset) for kind in self._seen.get(path, ())) > 1

    def _note(self, path: _Path, kind: _Kind) -> None:
        kinds = self._seen.setdefault(path, set())
        if kind not in kinds:
            kinds.add(kind)
            self._num_seen += 1


class _NoArrowTypeError(Exception):
    """A field has values that no single Arrow type holds."""
