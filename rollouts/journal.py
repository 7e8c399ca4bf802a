"""The journal of an unfinished batch: every finished rollout, on disk within half a second, in order of arrival.

One line a rollout: eight hexadecimal digits of CRC-32, a space, JSON. Lines are written in groups by a thread of the
journal's own, each group forced to disk once. A process that dies leaves at most one torn line at the end; it is cut
off when the journal is opened again, and counted. The file is locked while it is open, and the lock dies with its
process.
"""

from __future__ import annotations

import fcntl
import os
import queue
import threading
import time
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from rollouts.errors import StoreError
from rollouts.records import Rollout

GROUP_COMMIT_S = 0.5
"""Longest time a finished rollout waits for its group to be forced to disk."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Rollout)


class Contents(NamedTuple):
    """What a journal holds."""

    rollouts: list[Rollout]
    """In order of arrival; the last one of a rollout id counts."""
    num_torn: int
    """Lines that were cut short or damaged, and are not in `rollouts`."""


def read_journal(path: Path) -> Contents:
    """Read a journal that may still be written, or may have been left by a process that died."""
    if not path.exists():
        return Contents([], 0)
    with path.open("rb") as file:
        decoded = [_decode(line) for line in file]
    rollouts = [rollout for rollout in decoded if rollout is not None]
    return Contents(rollouts, len(decoded) - len(rollouts))


class Journal:
    """An open journal. `append` may be called from any thread and returns at once.

    Args:
        path: File to append to; made, with its folders, when it is not there.

    Raises:
        StoreError: Another process is writing it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._error: OSError | None = None
        self._queue: queue.SimpleQueue[Rollout | None] = queue.SimpleQueue()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = path.open("ab")
        except OSError as error:
            raise StoreError(f"cannot write the journal {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise StoreError(
                f"another run is collecting this batch now (it holds {path}); wait for it to end"
            ) from error
        self.recovered = read_journal(path)
        """What an earlier process left."""
        self._cut_torn_line()
        self._thread = threading.Thread(target=self._write_groups, name="journal", daemon=True)
        self._thread.start()

    def append(self, rollout: Rollout) -> None:
        """Hand over a finished rollout.

        Raises:
            StoreError: An earlier one could not be written.
        """
        self._raise_if_broken()
        self._queue.put(rollout)

    def remove(self) -> None:
        """Remove the file while it is still locked, so that nobody can be writing to it; it must be closed after."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Force everything to disk and let go of the file.

        Raises:
            StoreError: Something could not be written.
        """
        self._queue.put(None)
        self._thread.join()
        self._file.close()
        self._raise_if_broken()

    def _raise_if_broken(self) -> None:
        if self._error is not None:
            raise StoreError(f"cannot write the journal {self.path}: {self._error.strerror}") from self._error

    def _cut_torn_line(self) -> None:
        """Cut off what follows the last newline, so that the next line does not grow onto it."""
        with self.path.open("rb") as file:
            whole_bytes = sum(len(line) for line in file if line.endswith(b"\n"))
        self._file.truncate(whole_bytes)

    def _write_groups(self) -> None:
        """Write what is queued in groups until the journal is closed."""
        item: Rollout | None = None
        while True:
            item = self._queue.get()
            group: list[Rollout] = []
            deadline = time.monotonic() + GROUP_COMMIT_S
            while item is not None:
                group.append(item)
                try:
                    item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    break
            self._commit(group)
            if item is None:
                return

    def _commit(self, group: list[Rollout]) -> None:
        """Write a group and force it to disk; the first error is kept for whoever appends next."""
        try:
            self._file.writelines(_encode(rollout) for rollout in group)
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._error = self._error or error


def _encode(rollout: Rollout) -> bytes:
    data = _encoder.encode(rollout)
    return b"%08x %b\n" % (zlib.crc32(data), data)


def _decode(line: bytes) -> Rollout | None:
    """The rollout of a line, `None` when the line is torn or damaged."""
    digits, _, data = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(digits, 16) != zlib.crc32(data):
            return None
        return _decoder.decode(data)
    except (ValueError, msgspec.DecodeError):
        return None
