"""The bytes of a journal: frames that vouch for themselves, so that damage costs what it hit and no more.

A frame is a mark of four bytes, the length and the CRC-32 of its payload (unsigned 32-bit numbers, little-endian), and
the payload: MessagePack of one packed rollout. The mark begins with a byte that occurs in no UTF-8 text and in no
MessagePack type. Behind damage, reading goes on at the next mark whose frame is whole; what lies between is one damaged
stretch, however many frames it was.

Journals of earlier versions are lines: eight hexadecimal digits of CRC-32, a space, JSON. They are read as the beginning
of a file, never written.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import msgspec

from rollouts.errors import DataError
from rollouts.packed_rollout import Head, decode_head, encode
from rollouts.records import Rollout

MARK = b"\xc1RJ1"
HEADER_BYTES = 12
"""Bytes before the payload of a frame."""

_header = struct.Struct("<4sII")
_line_decoder = msgspec.json.Decoder(Rollout)

Data: TypeAlias = bytes | mmap.mmap


class Record(NamedTuple):
    """One rollout in a journal."""

    head: Head
    payload: bytes
    """MessagePack of the packed rollout."""
    stop: int
    """Position in the file behind it; its payload stands right before, unless it is a line."""
    is_line: bool
    """Whether it is a line of an earlier version."""


def frame_header(payload: bytes) -> bytes:
    """What is written before a payload."""
    return _header.pack(MARK, len(payload), zlib.crc32(payload))


def framed_payload(frame: bytes) -> bytes | None:
    """The payload of one whole frame, `None` when it is damaged."""
    header, payload = frame[:HEADER_BYTES], frame[HEADER_BYTES:]
    return payload if header == frame_header(payload) else None


def records(data: Data) -> Iterator[Record | None]:
    """Rollouts in the order they were written, `None` for each damaged stretch (a torn end is one too)."""
    damaged = False
    for record in _pieces(data):
        if record is not None or not damaged:
            yield record
        damaged = record is None


def _pieces(data: Data) -> Iterator[Record | None]:
    """Whole rollouts, and `None` for each place where one should begin and does not."""
    position = 0
    if data[:1] and data[:1] != MARK[:1]:
        position = data.find(MARK)
        position = len(data) if position < 0 else position
        yield from _lines(data[:position])
    while position < len(data):
        record = _frame_at(data, position)
        yield record
        following = data.find(MARK, position + 1) if record is None else record.stop
        position = len(data) if following < 0 else following


def _frame_at(data: Data, position: int) -> Record | None:
    """The whole frame that begins at `position`, if one does."""
    start = position + HEADER_BYTES
    if start > len(data):
        return None
    mark, length, checksum = _header.unpack(data[position:start])
    stop = start + length
    if mark != MARK or stop > len(data):
        return None
    payload = data[start:stop]
    if zlib.crc32(payload) != checksum:
        return None
    head = decode_head(payload)
    return None if head is None else Record(head, payload, stop, is_line=False)


def _lines(data: bytes) -> Iterator[Record | None]:
    position = 0
    for line in data.splitlines(keepends=True):
        position += len(line)
        yield _line(line, position)


def _line(line: bytes, stop: int) -> Record | None:
    """The rollout of a line, `None` when the line is torn or damaged."""
    digits, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if not line.endswith(b"\n") or int(digits, 16) != zlib.crc32(text):
            return None
        rollout = _line_decoder.decode(text)
        return Record(Head(rollout.rollout_id, rollout.error), encode(rollout), stop, is_line=True)
    except (ValueError, msgspec.DecodeError, DataError):
        return None
