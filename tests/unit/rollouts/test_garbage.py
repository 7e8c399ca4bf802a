"""The collector is paused, slowed down and put back, whatever happens inside and in whatever order."""

import gc
import threading
from collections.abc import Iterator

import pytest

from rollouts.garbage import THRESHOLDS, paused_gc, steady_gc


@pytest.fixture(autouse=True)
def _collector_as_it_was() -> Iterator[None]:
    before = gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()
    yield
    assert (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()) == before


def test_nothing_is_collected_in_a_paused_block_and_the_collector_runs_again_after_an_error() -> None:
    with pytest.raises(ImportError), paused_gc():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with paused_gc():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_steady_block_walks_seldom_and_leaves_out_what_was_there_before() -> None:
    with steady_gc():
        assert gc.isenabled()
        assert gc.get_threshold() == THRESHOLDS
        assert gc.get_freeze_count() > 1000


def test_cycles_made_in_a_steady_block_are_still_found() -> None:
    with steady_gc():
        first: list[object] = []
        first.append(first)
        del first
        assert gc.collect() >= 1


def test_the_last_of_overlapping_blocks_puts_the_collector_back() -> None:
    begun, end = threading.Event(), threading.Event()

    def other() -> None:
        with steady_gc():
            begun.set()
            end.wait(10)

    before = gc.get_threshold()
    thread = threading.Thread(target=other)
    with steady_gc():
        thread.start()
        assert begun.wait(10)
    assert gc.get_threshold() == THRESHOLDS, "the other block is still open"
    end.set()
    thread.join()
    assert gc.get_threshold() == before
