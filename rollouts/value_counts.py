"""Value counts and series: what stays in memory of a quantity when there are a million numbers of it.

A quantity of few distinct values (rewards, token counts) is kept as distinct values with counts, any other one as four
bytes a number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rollouts.estimates import Values

_FEW = 1 << 16
"""Distinct values that are gathered before they are put together."""


class ValueCounts:
    """How often each value of one quantity occurs, exactly."""

    def __init__(self) -> None:
        self._parts: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]] = []
        self._num_gathered = 0
        self._worth_merging = _FEW
        self._num_unknown = 0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Count values; NaN counts as not known."""
        known = values[np.isfinite(values)]
        self._num_unknown += len(values) - len(known)
        distinct, counts = np.unique(known, return_counts=True)
        self._parts.append((distinct, counts))
        self._num_gathered += len(distinct)
        if self._num_gathered > self._worth_merging:
            self._merge()

    def take_in(self, other: ValueCounts) -> None:
        """Add what another one counted."""
        self._parts += other._parts
        self._num_unknown += other._num_unknown

    def values(self) -> Values:
        """Distinct values with their counts."""
        self._merge()
        [(distinct, counts)] = self._parts
        return Values(distinct, counts, self._num_unknown)

    def _merge(self) -> None:
        values = np.concatenate([np.empty(0), *(part for part, _ in self._parts)])
        counts = np.concatenate([np.empty(0, np.int64), *(part for _, part in self._parts)])
        self._parts.clear()
        order = np.argsort(values, kind="stable")
        values, counts = values[order], counts[order]
        first = np.flatnonzero(np.diff(values, prepend=-np.inf))
        self._parts.append((values[first], np.add.reduceat(counts, first) if len(first) else counts))
        # Many distinct values are merged when as many have come on top, so that all merges together cost n log n.
        self._num_gathered = len(first)
        self._worth_merging = _FEW + 2 * len(first)


class Series:
    """Numbers of rollouts in the order they come, four bytes each."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.float32]] = []

    def add(self, numbers: npt.NDArray[Any]) -> None:
        """Append numbers."""
        self._parts.append(numbers.astype(np.float32))

    def __iter__(self) -> Iterator[npt.NDArray[np.float32]]:
        """Go through the numbers, some at a time."""
        return iter(self._parts)

    def joined(self) -> npt.NDArray[np.float32]:
        """All numbers as one array, kept in place of its parts."""
        self._parts = [np.concatenate([np.empty(0, np.float32), *self._parts])]
        return self._parts[0]


def total_counts(parts: Iterable[ValueCounts]) -> Values:
    """Put the counts of several series together."""
    together = ValueCounts()
    for part in parts:
        together.take_in(part)
    return together.values()
