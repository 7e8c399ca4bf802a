"""A temporary server says at once when it cannot start, and never outlives its command."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.temporary_server import STARTUP_S, TemporaryServer


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not runs(pid)


def test_a_server_that_cannot_start_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "no database at all")
    begun = time.monotonic()
    with TemporaryServer() as server, pytest.raises(TimeoutError, match="did not start; set PREFECT_API_URL"):
        server.wait()
    assert time.monotonic() - begun < STARTUP_S / 2


def test_two_servers_never_share_a_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    with TemporaryServer() as one, TemporaryServer() as other:
        assert one.api_url != other.api_url


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell no process that its parent has died")
def test_a_server_dies_with_its_command_however_that_dies(tmp_path: Path) -> None:
    code = (
        "import os, time; from pathlib import Path; from flows.temporary_server import TemporaryServer\n"
        "with TemporaryServer():\n"
        "    print(Path(f'/proc/self/task/{os.getpid()}/children').read_text(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        pid = int(command.stdout.readline())
        time.sleep(0.5)  # it asks for the signal as its first act
        assert runs(pid)
        command.send_signal(signal.SIGKILL)
    assert gone(pid, within_s=10)
