import copy

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.shapes import Shapes


def new_rows(*rows):
    shapes = Shapes()
    return [shapes.add([row]) for row in rows]


def test_a_row_like_the_ones_before_is_not_new():
    assert new_rows({"a": 1, "b": ["x"]}, {"a": 2, "b": ["y", "z"]}, {"b": []}) == [True, False, False]


def test_a_new_column_and_a_new_key_are_new():
    assert new_rows({"a": {"x": 1}}, {"a": {"x": 1}, "b": 1}, {"a": {"x": 1, "y": 2}}) == [True, True, True]


def test_another_type_of_value_is_new_once():
    rows = [{"a": value} for value in (1, 1.5, "soon", "2024-12-25", True, [1], {"x": 1}, 2, "later")]
    assert new_rows(*rows) == [True] * 7 + [False] * 2


def test_objects_with_two_sets_of_keys_take_anything_after():
    rows = [{"a": [{"x": 1}]}, {"a": [{"y": 1}]}, {"a": [{"z": {"deep": []}}]}, {"a": [{"x": "text"}]}]
    assert new_rows(*rows) == [True, True, False, False]


def test_nulls_tell_nothing():
    assert new_rows({"a": {"x": 1}}, {"a": {"x": None}}, {"a": None}) == [True, False, False]


def test_one_new_row_makes_the_rows_of_an_example_new():
    shapes = Shapes()
    assert shapes.add([{"a": 1}, {"a": 2}])
    assert shapes.add([{"a": 3}, {"b": 4}])
    assert not shapes.add([{"a": 3}, {"b": 4}])


@pytest.mark.parametrize(
    ("rows", "as_dates"),
    [
        ([{"a": "2024-12-25"}, {"a": "2024-12-25T10:30:00Z"}], True),
        ([{"a": [{"text": "2024-12-25 10:30"}]}], True),
        ([{"a": "2024-12-25"}, {"a": "soon"}], False),
        ([{"a": "2024-12-25 is the day"}], False),
        ([{"a": {"text": "2024-12-25"}}, {"a": {"other": 1}}], False),
    ],
)
def test_a_field_with_nothing_but_dates_is_read_as_dates(rows, as_dates):
    shapes = Shapes()
    shapes.add(rows)
    assert shapes.read_as_dates == as_dates


def schema_of(*rows):
    shapes = Shapes()
    shapes.add(rows)
    return shapes.schema()


def test_rows_of_one_shape_have_a_schema_with_texts_as_texts():
    rows = [{"a": "2024-12-25", "b": [{"n": 1, "none": None}]}, {"a": "2024-12-26", "c": 0.5, "d": [], "e": True}]
    schema = schema_of(*rows)
    assert schema is not None
    assert schema.field("a").type == pa.string()
    assert schema.field("b").type == pa.list_(pa.struct([("n", pa.int64()), ("none", pa.null())]))
    assert pa.Table.from_pylist(rows, schema=schema).to_pylist() == [
        {**rows[0], "c": None, "d": None, "e": None},
        {**rows[1], "b": None},
    ]


@pytest.mark.parametrize("values", [(1, "x"), (1, 1.5), ({"x": 1}, {"y": 1}), ([1], "x"), ({},), ([1, "x"],)])
def test_values_of_several_shapes_have_no_schema(values):
    assert schema_of(*({"a": value} for value in values)) is None


SCALARS = st.sampled_from([None, 1, 1.5, True, "text", "2024-12-25", "2024-12-25T10:30Z", "anti-hero", ""])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner), max_leaves=6
)
ROWS = st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3), min_size=1, max_size=3)


@given(examples=st.lists(ROWS, min_size=1, max_size=8), repeats=st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_many_rows_asked_at_once_have_news_exactly_when_one_of_them_has(examples, repeats):
    shapes = Shapes()
    for rows in examples:
        asked = shapes.has_news(rows * repeats)
        assert asked == shapes.has_news(copy.deepcopy(rows))  # whether objects are shared makes no difference
        assert asked == shapes.add(rows)
        assert not shapes.has_news(rows)
