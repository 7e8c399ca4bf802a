"""Worker processes for verifiers that can hang, crash or eat memory.

Workers are forked from a fork server, a process that has one thread and has imported the verifiers and sympy, so a
new worker costs milliseconds and shares that memory. Forking the calling process instead would copy locks that other
threads hold.

Workers stay lean: they do not import the program that started them (an orchestrator costs 80 MiB and a second), and
whatever they print goes nowhere. A worker that is over its time limit is ended by the kernel's alarm, which needs
neither the interpreter lock nor a living parent. POSIX only.
"""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from multiprocessing.context import ForkServerContext, ForkServerProcess

from rollouts.verifiers.judgement import Finding, Job, fault_of, judge

PRELOADED = ("rollouts.verifiers.isolation", "math_verify")
"""Modules that the fork server imports once for all workers."""

_main_module_lock = threading.Lock()


class LeanProcess(ForkServerProcess):
    """A process that does not import the parent's main module."""

    def start(self) -> None:
        """Start the process."""
        with _main_module_left_out():
            super().start()


class LeanContext(ForkServerContext):
    """A multiprocessing context of lean processes, for `pebble.ProcessPool`."""

    Process = LeanProcess  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__()
        self.set_forkserver_preload(list(PRELOADED))


@contextmanager
def _main_module_left_out() -> Iterator[None]:
    """Let multiprocessing believe that the main module is a package's `__main__`, which children never import.

    It has no option for this. Children of a command or of a flow run would import the flows and their orchestrator
    before their first task.
    """
    main = sys.modules["__main__"]
    with _main_module_lock:
        spec = main.__spec__
        main.__spec__ = ModuleSpec("rollouts.__main__", None)
        try:
            yield
        finally:
            main.__spec__ = spec


def prepare_worker(memory_limit_bytes: int) -> None:
    """Set up a worker before its first task: memory limit, silence, default signals, imports.

    Args:
        memory_limit_bytes: Address space of the process; allocations above it raise `MemoryError` in the verifier.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a handler in Python would wait for the interpreter lock
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(devnull, stream)
    os.close(devnull)
    for module in PRELOADED:
        importlib.import_module(module)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = memory_limit_bytes if hard == resource.RLIM_INFINITY else min(memory_limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def judge_in_worker(jobs: Sequence[Job], limit_s: float) -> list[Finding]:
    """Judge jobs one after the other, in order. A job over its limit ends the process, and with it the whole call.

    Args:
        jobs: What to judge.
        limit_s: Seconds each job may take.
    """
    findings: list[Finding] = []
    for job in jobs:
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            findings.append(judge(job))
        except BaseException as error:  # noqa: BLE001 - exits and interrupts raised by a verifier end no worker
            findings.append(fault_of(error))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    return findings
