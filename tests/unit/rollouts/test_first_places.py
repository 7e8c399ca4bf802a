import hashlib
import sys

from hypothesis import given
from hypothesis import strategies as st

from rollouts.first_places import KEY_BYTES, FirstPlaces, Place

places = st.builds(Place, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))


@given(st.lists(st.tuples(st.binary(min_size=KEY_BYTES, max_size=16), places), max_size=60))
def test_a_key_keeps_the_place_where_it_was_seen_first(seen: list[tuple[bytes, Place]]):
    table, expected = FirstPlaces(), dict[bytes, Place]()
    for key, place in seen:
        assert table.setdefault(key, place) == expected.setdefault(key[:KEY_BYTES], place)
    assert len(table) == len(expected)


def test_keys_that_want_the_same_slot_do_not_shadow_each_other():
    table = FirstPlaces()
    keys = [(1024 * number).to_bytes(8, "little") + bytes(4) for number in range(300)]
    for number, key in enumerate(keys):
        table.setdefault(key, Place(number, 0))
    nothing = Place(2**64 - 1, 1)
    assert [table.setdefault(key, nothing).place for key in keys] == list(range(300))


def test_a_table_that_has_grown_often_forgets_nothing_and_stays_small():
    table, count = FirstPlaces(), 50_000
    keys = [hashlib.sha256(b"%d" % number).digest() for number in range(count)]
    for number, key in enumerate(keys):
        table.setdefault(key, Place(number, number % 1000))
    nothing = Place(2**64 - 1, 2**32 - 1)
    assert all(table.setdefault(key, nothing) == (number, number % 1000) for number, key in enumerate(keys))
    assert len(table) == count
    assert sum(sys.getsizeof(column) for column in vars(table).values()) < 60 * count
