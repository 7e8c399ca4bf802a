"""Garbage collection that keeps out of the way: none while modules are imported, little while rollouts are collected.

The collector walks young objects after every 700 allocations, and all objects now and then. Imports allocate what stays,
and an answer with log-probabilities is thousands of objects that reference counts alone take back: nearly every walk
finds nothing. Memory stays bounded: cycles are still found, only less often.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

THRESHOLDS = (50_000, 50, 100)
"""Allocations before a walk through the youngest objects; such walks before one through the next older; those before one
through all. Python's own are (700, 10, 10)."""

_lock = threading.Lock()
_steady = 0
"""Blocks of `steady_gc` that are open in this process."""
_before = gc.get_threshold()


@contextmanager
def paused_gc() -> Iterator[None]:
    """Collect nothing until the block ends. For imports, in the one thread there is."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def steady_gc() -> Iterator[None]:
    """Collect seldom, and never walk what was there before, until the block ends.

    For the whole process. Blocks may overlap in any order, in any thread: the first that begins sets it, the last that
    ends takes it back.
    """
    global _steady, _before
    with _lock:
        _steady += 1
        if _steady == 1:
            _before = gc.get_threshold()
            gc.freeze()
            gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        with _lock:
            _steady -= 1
            if _steady == 0:
                gc.set_threshold(*_before)
                gc.unfreeze()
