"""A Prefect server for the length of one command, on loopback, with the user's own Prefect database.

Prefect would start one by itself, but only after the command has imported the server too, and would stop it before the
last task runs are recorded. This one starts while the flow is being imported, and dies with its command, however that
dies.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx

STARTUP_S = 120.0
"""An empty machine needs half a minute to set up Prefect's database."""
SETTLE_S = 0.5
"""The server records task runs in groups; the last ones follow a moment after the flow has ended."""

_PROGRAM = """
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: end when the command ends
import uvicorn
uvicorn.main()
"""


@contextlib.contextmanager
def temporary_server() -> Iterator[TemporaryServer]:
    """Start a server at once and stop it when the block ends; `wait` until it can be used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    application = ["--factory", "prefect.server.api.server:create_app", "--lifespan", "on", "--log-level", "critical"]
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *application, "--host", "127.0.0.1", "--port", str(port)],
        env={**os.environ, "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"},
        start_new_session=True,  # Ctrl-C is for the command, which then stops the server
    )
    server = TemporaryServer(process, f"http://127.0.0.1:{port}/api")
    try:
        yield server
    finally:
        time.sleep(SETTLE_S)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


class TemporaryServer:
    """A server that is running, or about to."""

    def __init__(self, process: subprocess.Popen[bytes], api_url: str) -> None:
        self._process = process
        self.api_url = api_url

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            TimeoutError: It did not answer, or ended.
        """
        deadline = time.monotonic() + STARTUP_S
        with httpx.Client(trust_env=False, timeout=5) as client:
            while time.monotonic() < deadline and self._process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"{self.api_url}/health").status_code == 200:
                        return
                time.sleep(0.05)
        raise TimeoutError("the temporary Prefect server did not start; set PREFECT_API_URL to use another")
