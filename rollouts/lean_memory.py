"""Memory that goes back to the system: few arenas for many threads, and no second allocator beside them.

A run allocates and frees tables in dozens of threads. The C library keeps an arena for each of eight threads a core, and
Arrow's own allocator keeps what it freed once more: a third of a long run's memory was neither used nor given back
(`benchmarks/memory.py`), and it cost no measurable time to do without.
"""

from __future__ import annotations

import contextlib
import ctypes

import pyarrow as pa

_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
_ARENAS = 2


def use_lean_memory() -> None:
    """Set the allocators of this process, for good. Where the C library is another one, only Arrow's changes."""
    pa.set_memory_pool(pa.system_memory_pool())
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
