"""A file that knows the digest of what was written to it, so that nobody reads it back from a far store for that."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from rollouts.storage import Store


class HashedFile(io.RawIOBase):
    """Hashes bytes on their way into a file that is written from beginning to end. Closing it leaves the file open."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Hexadecimal SHA-256 of what was written so far."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """See `io.IOBase`."""
        return True

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        self._file.write(data)
        self._digest.update(data)
        return len(data)


@contextmanager
def create_hashed(store: Store, key: str) -> Iterator[HashedFile]:
    """Open `key` for writing as `Store.create` does; its digest can be asked for afterwards."""
    with store.create(key) as file:
        yield HashedFile(file)
