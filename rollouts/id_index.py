"""Where each of many ids stands: twenty bytes an id, because a million of them as strings would be a hundred megabytes.

Ids are content ids, 128 bits in hexadecimal, and are kept as those bits; whatever else stands for an id is kept as a
digest of as many. Lookups are made for many ids at once.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_BYTES = 16
_PACKED = f"S{_BYTES}"
_content_id = re.compile(r"[0-9a-f]{32}").fullmatch


class IdIndex:
    """Positions of ids in a sequence.

    Args:
        ids: All ids in order, in as many arrays of strings as they come in.
    """

    def __init__(self, ids: Iterable[pa.Array]) -> None:
        gathered = bytearray()
        for some in ids:
            gathered += pack_ids(some).tobytes()
        packed = np.frombuffer(gathered, dtype=_PACKED)
        order = np.argsort(packed, kind="stable")
        self._position = order.astype(np.int32)
        self._packed = packed[order]

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def holds_one_twice(self) -> bool:
        """Whether an id stands at two positions."""
        return bool((self._packed[1:] == self._packed[:-1]).any())

    def positions(self, ids: pa.Array) -> npt.NDArray[np.int32]:
        """First position of each id given, -1 for those that are in none.

        Args:
            ids: Strings, without nulls; repetitions cost little.
        """
        if not len(self._packed) or not len(ids):
            return np.full(len(ids), -1, dtype=np.int32)
        distinct = ids.dictionary_encode()
        wanted = pack_ids(distinct.dictionary)
        place = np.searchsorted(self._packed, wanted).clip(max=len(self._packed) - 1)
        found = np.where(self._packed[place] == wanted, self._position[place], np.int32(-1))
        return found[distinct.indices.to_numpy(zero_copy_only=False)]


def pack_ids(ids: pa.Array) -> npt.NDArray[np.bytes_]:
    """Pack ids into 16 bytes each, the same bytes wherever an id comes from. Pure.

    Args:
        ids: Strings, without nulls.
    """
    if not len(ids):
        return np.empty(0, dtype=_PACKED)
    _, ends, text = ids.buffers()
    ends = np.frombuffer(ends, dtype=np.int32)[ids.offset : ids.offset + len(ids) + 1]
    if text is not None and bool((np.diff(ends) == 2 * _BYTES).all()):
        digits = memoryview(text)[ends[0] : ends[-1]]
        try:
            return np.frombuffer(binascii.unhexlify(digits), dtype=_PACKED)
        except binascii.Error:
            pass  # ids of that length that are no hexadecimal numbers
    return np.array([_packed(text) for text in ids.to_pylist()], dtype=_PACKED)


def _packed(text: str) -> bytes:
    if _content_id(text):
        return bytes.fromhex(text)
    return hashlib.blake2b(text.encode(), digest_size=_BYTES).digest()
