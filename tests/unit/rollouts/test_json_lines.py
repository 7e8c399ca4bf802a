import json
import re
from collections.abc import Iterator

import pytest

from rollouts.json_lines import MAX_DEPTH, MAX_LINE_BYTES, DamagedFile, parse_object, read_json_lines
from rollouts.rows import BadRow, Row, UnusableRow


def read(data: bytes, chunk_bytes: int = 1 << 18) -> list[Row | BadRow]:
    return list(read_json_lines("p.jsonl", (data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes))))


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_rows_carry_their_line_and_byte_offset() -> None:
    rows = read(b'{"a":1}\n\n  \r\n{"a":2}\r\n{"a":3}')
    assert [(row.line, row.byte_offset) for row in rows] == [(1, 0), (4, 13), (5, 22)]
    assert [row.columns for row in rows if isinstance(row, Row)] == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 1000])
def test_the_size_of_chunks_does_not_change_the_rows(chunk_bytes: int) -> None:
    data = '﻿{"a":"é\u2028"}\r\n\n[1]\n{"b":2'.encode()
    assert read(data, chunk_bytes) == read(data)


def test_a_byte_order_mark_is_passed_over_at_the_start_only() -> None:
    rows = read(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"a":2}\n')
    assert isinstance(rows[0], Row)
    assert isinstance(rows[1], BadRow)
    assert rows[1].reason == "invalid_json"


def test_a_byte_order_mark_alone_is_no_row() -> None:
    assert read(b"\xef\xbb\xbf\n") == []


def test_unicode_line_separators_and_bare_carriage_returns_do_not_end_a_line() -> None:
    text = "a\u2028b\u2029c\u0085d"
    (row,) = read(json.dumps({"a": text}, ensure_ascii=False).encode())
    assert isinstance(row, Row)
    assert row.columns == {"a": text}
    (two,) = read(b'{"a":1}\r{"a":2}\n')
    assert isinstance(two, BadRow)
    assert two.reason == "extra_data"


def test_a_line_too_long_is_passed_over_and_the_next_one_is_read() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"a":1}\n{"b":"'
        yield from [b"x" * (1 << 20)] * 17
        yield b'"}\n{"c":3}\n'

    first, long, last = read_json_lines("p.jsonl", chunks())
    assert isinstance(first, Row)
    assert isinstance(long, BadRow)
    assert (long.reason, long.line, len(long.text)) == ("line_too_long", 2, 500)
    assert isinstance(last, Row)
    assert (last.line, last.byte_offset) == (3, 8 + 8 + (17 << 20) + 1)


def test_a_line_of_the_greatest_length_is_read() -> None:
    line = b'{"a":"' + b"x" * (MAX_LINE_BYTES - 8) + b'"}'
    assert len(line) == MAX_LINE_BYTES
    assert isinstance(read(line)[0], Row)
    assert isinstance(read(line + b" ")[0], BadRow)


def test_damage_keeps_the_rows_before_it() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"a":1}\n{"a":'
        raise DamagedFile("the gzip stream breaks off")

    good, bad = read_json_lines("p.jsonl", chunks())
    assert isinstance(good, Row)
    assert isinstance(bad, BadRow)
    assert (bad.reason, bad.line, bad.text) == ("damaged_file", 2, '{"a":')


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        (b'{"a":1,}', "invalid_json", "character"),
        (b"{'a':1}", "invalid_json", "character 2"),
        (b'{"a":1} // why', "extra_data", "Extra data"),
        (b'{"a":1}{"a":2}', "extra_data", "character 8"),
        (b'{"a":"\t"}', "invalid_json", "control character"),
        (b'{"a":1', "invalid_json", "delimiter"),
        (b"3", "not_an_object", "a number"),
        (b"null", "not_an_object", "null"),
        (b'["a"]', "not_an_object", "a list"),
        (b'"{}"', "not_an_object", "a string"),
        (b'{"a":NaN}', "non_finite_number", "NaN"),
        (b'{"a":[-Infinity]}', "non_finite_number", "-Infinity"),
        (b'{"a":1e999}', "non_finite_number", "1e999"),
        (b'{"a":{"b":1,"b":1}}', "duplicate_keys", "'b'"),
        (b'{"a":18446744073709551616}', "integer_too_large", "64 bits"),
        (b'{"a":-9223372036854775809}', "integer_too_large", "64 bits"),
        (b'{"a":' + b"9" * 5000 + b"}", "integer_too_large", "64 bits"),
        (b'{"a":"\\ud83d"}', "lone_surrogate", "U+D83D"),
        (b'{"\\udc00":1}', "lone_surrogate", "U+DC00"),
        (b'{"a":"caf\xe9"}', "invalid_utf8", "byte 0xe9 at byte 9 of"),
        (b'{"a":"\xed\xa0\xbd"}', "invalid_utf8", "byte 0xed"),
        (b'{"a":"\x00"}', "nul_bytes", "byte 6 of"),
        (nested(MAX_DEPTH + 1), "nested_too_deep", "100 levels"),
        (nested(100_000), "nested_too_deep", "100 levels"),
        (b"[" * 100_000, "nested_too_deep", "100 levels"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_what_json_readers_disagree_about_is_refused(line: bytes, reason: str, message: str) -> None:
    with pytest.raises(UnusableRow, match=re.escape(message)) as caught:
        parse_object(line)
    assert caught.value.reason == reason


def test_offsets_in_messages_count_from_the_start_of_the_file() -> None:
    bad = read(b'{"a":1}\n{"a":"\xff"}\n')[1]
    assert isinstance(bad, BadRow)
    assert bad.message == "byte 0xff at byte 14 of the file is not UTF-8"
    assert bad.text == '{"a":"�"}'


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        (b'{"a":18446744073709551615,"b":-9223372036854775808}', {"a": 2**64 - 1, "b": -(2**63)}),
        (b'{"a":"\\ud83d\\ude00 \\u0000","":1,"__proto__":2}', {"a": "😀 \0", "": 1, "__proto__": 2}),
        (b'{"a":1.5e3,"b":"\\\\ud83d"}', {"a": 1500.0, "b": "\\ud83d"}),
        (b'{"id":"007","d":"2024-01-01","n":"1e5"}', {"id": "007", "d": "2024-01-01", "n": "1e5"}),
    ],
)
def test_what_is_valid_is_read_exactly(line: bytes, columns: dict[str, object]) -> None:
    assert parse_object(line) == columns


def test_the_deepest_allowed_nesting_is_read() -> None:
    parse_object(nested(MAX_DEPTH))
    parse_object(b'{"a":"' + b"[{" * 1000 + b'"}')
