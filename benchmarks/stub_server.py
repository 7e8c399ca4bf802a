"""A chat-completions server that is never the bottleneck, compiled once and run on a core of its own.

One thread of C++ (`stub/`): some 50,000 to 200,000 small answers a second. What it counts (`Stub.stats`) is the
measurement that no client can flatter.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.answers import write_answers
from benchmarks.machine import SERVER_CORE, build_folder, running

_SOURCES = Path(__file__).parent / "stub"
_FLAGS = ("-std=c++17", "-O2")


class Stub(NamedTuple):
    """A running stub."""

    root: str
    """Such as `http://127.0.0.1:8000`."""

    @property
    def url(self) -> str:
        """Base URL of the API, ending in /v1."""
        return f"{self.root}/v1"

    def stats(self) -> dict[str, Any]:
        """What it has seen since it started or was reset; the keys are those of `stub/figures.hpp`."""
        with urllib.request.urlopen(f"{self.root}/stats", timeout=10) as answer:
            return json.load(answer)

    def reset(self) -> None:
        """Start counting again; the next request is the first for schedules too."""
        urllib.request.urlopen(urllib.request.Request(f"{self.root}/reset", method="POST"), timeout=10).close()


@contextlib.contextmanager
def stub_server(
    kind: str,
    *,
    latency: str = "none",
    seed: int = 0,
    serve_at_once: str | None = None,
    queue: str | None = None,
    retry_after: str | None = None,
    window_s: float | None = None,
) -> Iterator[Stub]:
    """Run a stub for the length of a block.

    Args:
        kind: Size of its answers (`answers.KINDS`).
        latency: "none", "fixed:SECONDS" or "log-normal:MEDIAN,P99".
        seed: Seed of the latencies.
        serve_at_once: Samples taken at once, such as "64" or, by seconds since the first request, "64@0,16@20"; what
            exceeds it is answered with 429. None for no limit.
        queue: Samples worked on at once, in the same form; what exceeds it waits. None for no limit.
        retry_after: Seconds for the Retry-After header of a 429. None for no header.
        window_s: Length in seconds of the window in which requests are counted. None for no count.

    Raises:
        RuntimeError: There is no C++ compiler, or it refuses the source.
    """
    options = {
        "--latency": latency,
        "--seed": str(seed),
        "--serve-at-once": serve_at_once,
        "--queue": queue,
        "--retry-after": retry_after,
        "--window": str(window_s) if window_s else None,
    }
    words = [word for name, value in options.items() if value is not None for word in (name, value)]
    with tempfile.TemporaryDirectory() as folder:
        bodies = [word for path in write_answers(kind, Path(folder)) for word in ("--body", path)]
        command = [compiled_stub(), *bodies, *words]
        with running(command, SERVER_CORE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            port = process.stdout.readline().strip()
            if not port:
                raise RuntimeError("the stub did not start; its message is above")
            yield Stub(f"http://127.0.0.1:{port}")


def compiled_stub() -> Path:
    """Compile the stub, unless this source has been compiled before.

    Raises:
        RuntimeError: There is no C++ compiler, or it refuses the source.
    """
    digest = hashlib.sha256(" ".join(_FLAGS).encode())
    for source in sorted(_SOURCES.iterdir()):
        digest.update(source.read_bytes())
    program = build_folder() / f"stub-{digest.hexdigest()[:16]}"
    if program.exists():
        return program
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise RuntimeError(
            "the stub server needs a C++ compiler (c++, g++ or clang++); install build-essential or clang"
        )
    unfinished = program.with_suffix(".unfinished")
    compiling = subprocess.run(
        [compiler, *_FLAGS, "-o", unfinished, _SOURCES / "stub.cpp"], capture_output=True, text=True, check=False
    )
    if compiling.returncode != 0:
        raise RuntimeError(f"{compiler} refuses the stub server:\n{compiling.stderr[-2000:]}")
    return unfinished.rename(program)
