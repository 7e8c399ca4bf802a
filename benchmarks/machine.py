"""The machine a benchmark runs on: one core for what is measured, one for the servers it talks to.

Pinning keeps the two apart, so that a rate is that of one core whatever else the machine has. With a single core there is
nothing to keep apart, and `description` says so beside every figure.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "benchmarks" / ".build"
"""What benchmarks build and keep between runs; no part of the repository."""

_cores = sorted(os.sched_getaffinity(0))
SERVER_CORE = _cores[0]
"""Core of the stub and of the Prefect server."""
CLIENT_CORE = _cores[-1]
"""Core of what is measured."""

_PACKAGES = ("prefect", "aiohttp", "pyreqwest", "uvloop", "httpx", "httpx-aiohttp", "orjson", "msgspec", "pyarrow")


class Finished(NamedTuple):
    """A program that has ended well."""

    stdout: str
    wall_s: float
    """From before it was started until it had ended."""
    cpu_s: float
    """User and system time of it and of the children it waited for."""
    started_at: float
    """UNIX seconds."""


def build_folder() -> Path:
    """The folder of `BUILD`, made with a file of its own that keeps it out of the repository."""
    BUILD.mkdir(exist_ok=True)
    (BUILD / ".gitignore").write_text("*\n")
    return BUILD


def start(command: Sequence[str | Path], core: int, **options: Any) -> subprocess.Popen[str]:
    """Start a program on one core."""
    pin = partial(os.sched_setaffinity, 0, {core})
    return subprocess.Popen([str(word) for word in command], text=True, preexec_fn=pin, **options)


@contextlib.contextmanager
def running(command: Sequence[str | Path], core: int, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program on one core for the length of a block, and end it then."""
    process = start(command, core, **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(
    command: Sequence[str | Path], core: int, timeout_s: float, environment: Mapping[str, str] | None = None
) -> Finished:
    """Run a program on one core until it ends.

    Raises:
        TimeoutError: It was still running after `timeout_s` seconds, and was killed.
        RuntimeError: It ended with another code than 0; the message holds the end of what it wrote.
    """
    before = os.times()
    started_at, clock = time.time(), time.perf_counter()
    process = start(command, core, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise TimeoutError(f"{Path(str(command[0])).name} took more than {timeout_s:g} s") from None
    wall_s = time.perf_counter() - clock
    after = os.times()
    if process.returncode != 0:
        raise RuntimeError(f"{Path(str(command[0])).name} ended with {process.returncode}:\n{stderr[-2000:]}")
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    return Finished(stdout, wall_s, cpu_s, started_at)


def description() -> str:
    """One line about the machine, the versions and the day."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    pinned = "measured and servers on a core each" if SERVER_CORE != CLIENT_CORE else "everything on one core"
    found = ", ".join(f"{name} {known}" for name in _PACKAGES if (known := _version(name)))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}; {models[0] if models else platform.machine()}, {len(_cores)} cores, {pinned}; "
        f"Python {platform.python_version()}, {found}"
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
