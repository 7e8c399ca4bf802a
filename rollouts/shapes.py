"""What a JSON loader will make of a file: which rows must come early in it, and whether texts come back as dates.

Loaders infer the types of a whole file from its beginning; `datasets` looks at the first 10 MB of a JSONL file. A field
whose objects have different keys there becomes free-form and takes anything later; a key, or a type of value, that first
appears after them makes the file unreadable. So a row is worth moving to the front when it shows a shape that no row
before it had. There are few such rows in any file: a field has a handful of scalar types, and objects that were seen
with two sets of keys are free-form from then on.

Hardly any row shows something new, so many rows are asked at once first, field by field (`has_news`); only when one of
them does are they looked at one by one (`add`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, TypeAlias, cast

import pyarrow as pa

_Kind: TypeAlias = str | frozenset[str]

_DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d)?)?(Z|[+-]\d\d(:?\d\d)?)?)?")
"""Texts that Arrow's JSON reader takes for timestamps when a field holds nothing else (measured with pyarrow 26)."""
_fifth = itemgetter(slice(4, 5))
"""Where a date has its first hyphen, and hardly any other text has one: the pattern costs several times as much."""

_SCALARS = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


class Shapes:
    """Shapes of the rows so far: for each field, the types of value it had, and for objects their keys."""

    def __init__(self) -> None:
        self._columns: dict[str, _Field] = {}

    def has_news(self, rows: Sequence[dict[str, Any]]) -> bool:
        """Whether one of the rows shows a shape that no row before had; exactly what `add` would return. Pure."""
        layouts = set(map(tuple, rows))
        for name in {name for layout in layouts for name in layout}:
            column = self._columns.get(name)
            values = [row[name] for row in rows if name in row] if len(layouts) > 1 else [row[name] for row in rows]
            if (column or _NOTHING).has_news(values):
                return True
        return False

    def add(self, rows: Iterable[dict[str, Any]]) -> bool:
        """Take note of rows; return whether one of them shows a shape that no row before it had.

        The keys of a row itself count one by one: a column that is missing in some rows is no harm, but a column that
        appears late is.
        """
        new = False
        for row in rows:
            for name, value in row.items():
                new |= self._columns.setdefault(name, _Field()).look(value)
        return new

    @property
    def read_as_dates(self) -> bool:
        """Whether a text field held dates only, so that loaders give it back as timestamps, in another spelling."""
        return any(column.reads_as_dates() for column in self._columns.values())

    def schema(self) -> pa.Schema | None:
        """Arrow schema under which the rows come back as they are, texts as texts.

        `None` when there is none: a field with several types of value, or objects of one field with different keys or
        with none at all. A column that some rows lack is no harm.
        """
        columns = {name: column for name, column in self._columns.items() if column.kinds}
        try:
            return pa.schema([(name, column.arrow_type()) for name, column in columns.items()])
        except _NoArrowTypeError:
            return None


class _Field:
    """What one field held in all rows so far: a column, a key of an object, or the items of an array."""

    __slots__ = ("_fields", "_items", "_known", "kinds")

    def __init__(self) -> None:
        self.kinds: set[_Kind] = set()
        """Types of value by name; a text is `text` or `date`, an object is the set of its keys."""
        self._known: set[type] = {type(None)}
        """Types of which no value can show anything new; with `dict` among them the field is free-form."""
        self._fields: dict[str, _Field] | None = None
        """Fields of objects, by key; `None` before the first one."""
        self._items: _Field | None = None

    def look(self, value: Any) -> bool:
        """Take note of a value; return whether it shows a shape that this field never had."""
        if type(value) in self._known:
            return False
        match value:
            case str():
                return self._look_at_text(value)
            case dict():
                return self._look_at_object(cast("dict[str, Any]", value))
            case list():
                return self._look_at_array(cast("list[Any]", value))
            case _:
                self._known.add(type(value))
                return self._note(type(value).__name__)

    def has_news(self, values: Sequence[Any]) -> bool:
        """Whether `look` would say of one of the values that it is new. Pure."""
        kinds = set(map(type, values))
        return any(
            self._has_news(kind, values if len(kinds) == 1 else [value for value in values if type(value) is kind])
            for kind in kinds - self._known
        )

    def reads_as_dates(self) -> bool:
        """Whether this field held dates only, or one inside it did; what is free-form has no fields to a loader."""
        if dict in self._known:
            return False
        inside = [*(self._fields or {}).values(), *([self._items] if self._items else [])]
        return self.kinds == {"date"} or any(field.reads_as_dates() for field in inside)

    def arrow_type(self) -> pa.DataType:
        """Return the type that holds all values, null when there were none.

        Raises:
            _NoArrowTypeError: There is none.
        """
        if not self.kinds:
            return pa.null()
        if self.kinds <= {"date", "text"}:
            return pa.string()
        kind, *others = self.kinds
        if others or not kind:
            raise _NoArrowTypeError
        if self._fields is not None:
            return pa.struct([(name, field.arrow_type()) for name, field in sorted(self._fields.items())])
        return _SCALARS[cast("str", kind)] if self._items is None else pa.list_(self._items.arrow_type())

    def _look_at_text(self, value: str) -> bool:
        new = self._note("date" if _DATE.fullmatch(value) else "text")
        if {"date", "text"} <= self.kinds:
            self._known.add(str)
        return new

    def _look_at_object(self, value: dict[str, Any]) -> bool:
        new = self._note(frozenset(value))
        if self._fields is None:
            self._fields = {name: _Field() for name in value}
        elif new:
            self._known.add(dict)
            self._fields = {}
            return True
        news = [self._fields[name].look(item) for name, item in value.items()]
        return new or any(news)

    def _look_at_array(self, value: list[Any]) -> bool:
        self._items = self._items or _Field()
        news = [self._items.look(item) for item in value]
        return self._note("array") or any(news)

    def _has_news(self, kind: type, values: Sequence[Any]) -> bool:
        """Whether values of one type, which is not among the known, show something new."""
        if kind is str and "text" in self.kinds:
            return "-" in map(_fifth, values) and any(map(_DATE.fullmatch, values))
        if kind is str and "date" in self.kinds:
            return not all(map(_DATE.fullmatch, values))
        if kind is dict and self._fields is not None:
            return self._objects_have_news(self._fields, _distinct(values))
        if kind is list and self._items is not None:
            # Arrays of numbers, which may be very long, are dealt with as they are.
            known = self._items._known
            unknown = [array for array in _distinct(values) if not known.issuperset(map(type, array))]
            return bool(unknown) and self._items.has_news(list(chain.from_iterable(unknown)))
        return True

    @staticmethod
    def _objects_have_news(fields: dict[str, _Field], objects: list[dict[str, Any]]) -> bool:
        if set(map(len, objects)) != {len(fields)}:
            return True
        try:
            return any(field.has_news(list(map(itemgetter(name), objects))) for name, field in fields.items())
        except KeyError:  # as many keys, but others
            return True

    def _note(self, kind: _Kind) -> bool:
        if kind in self.kinds:
            return False
        self.kinds.add(kind)
        return True


_NOTHING = _Field()


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Return each object once: rows of one example share the parts of their prompt."""
    return list(dict(zip(map(id, values), values, strict=True)).values())


class _NoArrowTypeError(Exception):
    """A field has values that no single Arrow type holds."""
