import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rollouts.json_lines import parse_object, read_json_lines
from rollouts.prompts import PromptReader, Template
from rollouts.rows import BadRow, Row
from rollouts.settings import CollectRL

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True)
JSON_VALUES: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
READER = PromptReader(CollectRL())


def shuffled(value: Any, draw: Any) -> Any:
    """The same value with the keys of every object in another order."""
    if isinstance(value, dict):
        return {key: shuffled(value[key], draw) for key in draw(st.permutations(list(value)))}
    if isinstance(value, list):
        return [shuffled(inner, draw) for inner in value]
    return value


@given(
    st.dictionaries(NAMES, TEXTS, min_size=1), st.lists(TEXTS.filter(lambda text: not set("{}") & set(text))), st.data()
)
def test_a_filled_template_is_its_text_with_every_value_exactly_as_it_was(
    columns: dict[str, str], between: list[str], data: st.DataObject
) -> None:
    names = [data.draw(st.sampled_from(sorted(columns))) for _ in range(len(between) + 1)]
    texts = [*between, ""]
    template = "".join("{" + name + "}" + text for name, text in zip(names, texts, strict=True))
    expected = "".join(columns[name] + text for name, text in zip(names, texts, strict=True))
    assert Template(template).fill(columns) == expected


@given(TEXTS, TEXTS)
def test_braces_that_name_no_column_stay(before: str, after: str) -> None:
    template = f"{before}|{{column_q}}|{after}"
    assert Template(template).fill({"column_q": "x"}) == template.replace("{column_q}", "x")


@given(JSON_VALUES.filter(lambda value: value not in (None, [], {}) and str(value).strip()), JSON_VALUES, st.data())
def test_the_id_of_a_prompt_does_not_depend_on_the_order_of_keys(
    ground_truth: Any, extra: Any, data: st.DataObject
) -> None:
    row = {
        "prompt": [{"role": "user", "content": "hi", "name": "n", "metadata": ground_truth}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": ground_truth, "b": 1}}}],
        "ground_truth": ground_truth,
        "extra": extra,
    }
    other = shuffled(row, data.draw)
    one, two = (READER.read(Row("p", 1, 0, columns, b"")) for columns in (row, other))
    assert one.prompt_id == two.prompt_id
    assert one.extra == {"extra": extra}


@given(st.dictionaries(TEXTS, JSON_VALUES, max_size=5), st.booleans())
def test_a_valid_object_is_read_as_it_was_written(value: dict[str, Any], ascii_only: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.lists(st.binary(max_size=30), max_size=8), st.integers(1, 20))
def test_any_bytes_become_rows_or_reasons(lines: list[bytes], chunk_bytes: int) -> None:
    data = b"\n".join(lines)
    chunks = [data[at : at + chunk_bytes] for at in range(0, len(data), chunk_bytes)]
    rows = list(read_json_lines("p", chunks))
    assert len(rows) <= data.count(b"\n") + 1
    for row in rows:
        assert isinstance(row, Row | BadRow)
        assert row.byte_offset is not None
        assert row.line == data[: row.byte_offset].count(b"\n") + 1
