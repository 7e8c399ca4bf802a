"""First places: where each of many keys was seen first, in some forty to sixty bytes a key.

A hash table with open addressing in typed arrays: a dict of bytes and numbers takes some two hundred. It only grows.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

KEY_BYTES = 12
"""A false duplicate among ten million prompts has a chance of 1 to 10**15."""
_LEAST_SLOTS = 1 << 10
_MOST_FULL = 0.7
"""Share of used slots from which looking takes more steps than a larger table is worth."""


class Place(NamedTuple):
    """Where a key was seen, and what was seen there."""

    place: int
    """0..2**64-1."""
    checksum: int
    """0..2**32-1."""


class FirstPlaces:
    """First places by key. Keys are twelve bytes that are as good as random, such as the beginning of a content id."""

    def __init__(self) -> None:
        self._num_keys = 0
        self._make_room(_LEAST_SLOTS)

    def __len__(self) -> int:
        return self._num_keys

    def setdefault(self, key: bytes, place: Place) -> Place:
        """Return where `key` was seen first; when it never was, that is `place`, from now on."""
        if self._num_keys >= _MOST_FULL * len(self._heads):
            self._grow()
        head, tail = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:KEY_BYTES], "little")
        slot = self._slot(head, tail)
        if self._used[slot]:
            return Place(self._places[slot], self._checksums[slot])
        self._put(slot, head, tail, place)
        self._num_keys += 1
        return place

    def _slot(self, head: int, tail: int) -> int:
        """Slot of a key, or the free one it belongs into."""
        used, heads, tails = self._used, self._heads, self._tails
        slot = head % len(heads)
        while used[slot] and (heads[slot] != head or tails[slot] != tail):
            slot += 1
            if slot == len(heads):
                slot = 0
        return slot

    def _put(self, slot: int, head: int, tail: int, place: Place) -> None:
        self._used[slot] = 1
        self._heads[slot], self._tails[slot] = head, tail
        self._places[slot], self._checksums[slot] = place

    def _make_room(self, num_slots: int) -> None:
        self._used = bytearray(num_slots)
        self._heads, self._places = array("Q", bytes(8 * num_slots)), array("Q", bytes(8 * num_slots))
        self._tails, self._checksums = array("I", bytes(4 * num_slots)), array("I", bytes(4 * num_slots))

    def _grow(self) -> None:
        """Move everything into a table half as large again."""
        used, rows = self._used, zip(self._heads, self._tails, self._places, self._checksums, strict=True)
        self._make_room(len(used) * 3 // 2)
        for is_used, (head, tail, place, checksum) in zip(used, rows, strict=True):
            if is_used:
                self._put(self._slot(head, tail), head, tail, Place(place, checksum))
