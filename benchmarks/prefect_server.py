"""A Prefect server that stands before a benchmark starts, on the servers' core and with a database of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import SERVER_CORE, running

_STARTUP_S = 180.0


class PrefectServer(NamedTuple):
    """A running server."""

    api_url: str
    home: Path
    """Prefect's own folder, with the database."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a command that uses it."""
        return {**prefect_environment(self.home), "PREFECT_API_URL": self.api_url}

    def num_task_runs(self) -> int:
        """Task runs it knows."""
        return int(_post(f"{self.api_url}/task_runs/count", {}))

    def database_bytes(self) -> int:
        """Size of the database, with what is not folded into it yet."""
        return sum(path.stat().st_size for path in self.home.glob("prefect.db*"))


def prefect_environment(home: Path) -> dict[str, str]:
    """Environment of a command whose Prefect keeps to a folder of its own, and starts a server when it needs one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {
        **kept,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }


@contextlib.contextmanager
def prefect_server(home: Path) -> Iterator[PrefectServer]:
    """Run a server for the length of a block.

    Args:
        home: Prefect's own folder; the database is made when there is none.

    Raises:
        TimeoutError: It did not answer in time, or ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--no-ui",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = (home / "server.log").open("w")
    with log, running(command, SERVER_CORE, env=prefect_environment(home), stdout=log, stderr=log) as process:
        server = PrefectServer(f"http://127.0.0.1:{port}/api", home)
        _wait(process, server.api_url)
        yield server


def _wait(process: subprocess.Popen[str], api_url: str) -> None:
    deadline = time.monotonic() + _STARTUP_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{api_url}/health", timeout=5):
            return
        time.sleep(0.1)
    raise TimeoutError(f"the Prefect server did not answer within {_STARTUP_S:g} s")


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)
