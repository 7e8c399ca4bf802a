"""A Prefect server for the length of one command, on loopback, with the user's own Prefect database.

Prefect would start one by itself, but only after the command has imported the server too, and would stop it before the
last task runs are recorded. This one starts first, while its command imports the flow, and dies with the command, however
that dies. The command opens the socket and hands it over: no port is guessed, and the first request simply waits until
the server takes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

STARTUP_S = 120.0
"""An empty machine needs half a minute to set up Prefect's database."""
SETTLE_S = 15.0
"""Longest wait for a server that is still busy with what it was sent."""
_QUIET_S = 1.2
"""The server writes task runs down in groups, at least every second: when nothing changes for longer, all are there."""
_LOOK_S = 0.2
_PR_SET_PDEATHSIG = 1

DEFAULTS = {
    # Written one by one, the state changes of a task run cost the server 20 ms of processor time; in groups, 10 ms.
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
"""Environment of the server where the user has set nothing else."""
_EPHEMERAL = {"PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "0"}
"""No user interface, no schedules and no other services that a single run has no use for."""


class TemporaryServer:
    """A server that is running, or about to. Use it as a context manager: it runs until the block ends."""

    def __init__(self) -> None:
        """Start the process; it can be used as soon as `wait` has returned."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._started_at = datetime.now(UTC).isoformat()
            self._port: int = listener.getsockname()[1]
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(listener.fileno())],
                env={**DEFAULTS, **os.environ, **_EPHEMERAL},
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for the command, which then stops the server
            )

    @property
    def api_url(self) -> str:
        """Base URL, ending in /api."""
        return f"http://127.0.0.1:{self._port}/api"

    def __enter__(self) -> TemporaryServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            TimeoutError: It did not answer, or ended.
        """
        with contextlib.suppress(OSError, http.client.HTTPException):
            if self._answer(STARTUP_S) == 200:
                return
        raise TimeoutError("the temporary Prefect server did not start; set PREFECT_API_URL to use another")

    def settle(self) -> None:
        """Wait until it has written down what it was sent, for `SETTLE_S` seconds at most.

        It takes events in without saying when it has worked them off, and does not finish them when it is stopped. So all
        task runs of the command must have ended, and nothing may have changed for a moment.
        """
        deadline = time.monotonic() + SETTLE_S
        last, since = (-1, -1), time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while time.monotonic() < deadline:
                seen = self._num_task_runs(), self._num_task_runs("PENDING", "RUNNING")
                if seen != last:
                    last, since = seen, time.monotonic()
                elif seen[1] == 0 and time.monotonic() - since > _QUIET_S:
                    return
                time.sleep(_LOOK_S)

    def stop(self) -> None:
        """End the process: it writes what it holds, and is killed when that takes longer than ten seconds."""
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _num_task_runs(self, *states: str) -> int:
        """Task runs of flow runs that began since the server was started, in certain states or in any."""
        wanted: dict[str, Any] = {"flow_runs": {"start_time": {"after_": self._started_at}}}
        if states:
            wanted["task_runs"] = {"state": {"type": {"any_": states}}}
        headers = {"Content-Type": "application/json"}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=SETTLE_S)) as connection:
            connection.request("POST", "/api/task_runs/count", json.dumps(wanted), headers)
            return int(connection.getresponse().read())

    def _answer(self, timeout_s: float) -> int:
        """Status of the answer to a health check.

        Raises:
            OSError, http.client.HTTPException: There is no answer.
        """
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)) as connection:
            connection.request("GET", "/api/health")
            return connection.getresponse().status


def _serve(listener_fd: int) -> None:
    """Be the server, in a process of its own, on a socket that listens already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # end when the command ends
    import uvicorn

    from rollouts.garbage import paused_gc, steady_gc

    config: Any = uvicorn.Config(
        "prefect.server.api.server:create_app", factory=True, lifespan="on", log_level="critical", access_log=False
    )
    with paused_gc():
        config.load()
    # What the server looks up for itself may be cut off when it ends: that is no trouble of the user's.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    with steady_gc():
        uvicorn.Server(config).run(sockets=[socket.socket(fileno=listener_fd)])
    gc.freeze()  # or the interpreter walks all objects once more before it ends


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
