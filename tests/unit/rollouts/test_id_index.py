import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollouts.id_index import IdIndex, pack_ids
from rollouts.identity import content_id

content_ids = st.integers(0, 10_000).map(lambda number: content_id("prompt", number))
any_ids = st.one_of(content_ids, st.text(max_size=40).filter(lambda text: "\0" not in text))


@settings(deadline=None)  # the first use of Arrow loads much
@given(st.lists(any_ids, unique=True, max_size=30), st.lists(any_ids, max_size=30), st.integers(1, 7))
def test_ids_stand_where_a_dict_says_they_do(ids: list[str], wanted: list[str], at_once: int):
    index = IdIndex(pa.array(ids[start : start + at_once], pa.string()) for start in range(0, len(ids), at_once))
    places = {held: position for position, held in enumerate(ids)}
    asked = [*wanted, *ids]
    assert index.positions(pa.array(asked, pa.string())).tolist() == [places.get(one, -1) for one in asked]
    assert len(index) == len(ids)
    assert not index.holds_one_twice


def test_an_id_that_stands_twice_is_noticed_and_found_where_it_stands_first():
    index = IdIndex([pa.array(["a", "b"]), pa.array(["b", "c"])])
    assert index.holds_one_twice
    assert index.positions(pa.array(["b", "c"])).tolist() == [1, 3]


@pytest.mark.parametrize("ids", [[], ["x"], ["f" * 32], ["F" * 32], ["z" * 32], ["0" * 31, "0" * 33], ["é" * 16]])
def test_ids_of_every_shape_are_packed_alike_alone_and_among_others(ids: list[str]):
    others = [content_id("other", number) for number in range(3)]
    together = pack_ids(pa.array([*others, *ids], pa.string()))
    assert pack_ids(pa.array(ids, pa.string())).tolist() == together[3:].tolist()
    assert pack_ids(pa.array([*others, *ids], pa.string())[3:]).tolist() == together[3:].tolist()
    assert len(np.unique(together)) == len(together)


def test_a_hundred_thousand_ids_are_packed_into_sixteen_bytes_each():
    ids = pa.array([content_id("prompt", number) for number in range(100_000)])
    assert pack_ids(ids).nbytes == 16 * 100_000
    assert IdIndex([ids]).positions(ids[::-1]).tolist() == list(range(99_999, -1, -1))
