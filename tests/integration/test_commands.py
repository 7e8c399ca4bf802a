"""The commands as a user runs them: in a process of their own, with a temporary Prefect server."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rollouts.simulator import Script, Simulator

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A user's environment with an empty Prefect home and no server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(tmp_path / "prefect"), "POLICY_API_KEY": "sk-never-to-be-seen"}


def command(name: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / name), *arguments]


def run(environment: dict[str, str], name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(name, *arguments), env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def test_failures_are_one_clear_sentence_and_no_traceback(environment: dict[str, str], tmp_path: Path) -> None:
    with Simulator(api_key="another") as simulator:
        out = ["--output", str(tmp_path / "out"), "--limit", "2"]
        environment["PREFECT_API_URL"] = ""
        for arguments, said in (
            (["--policy.url", "http://127.0.0.1:9/v1", "--policy.model", "m"], "no policy server answers at"),
            (["--policy.url", simulator.url, "--policy.model", "simulator"], "refused the key (401)"),
            (["--input", str(tmp_path / "nothing.jsonl")], "nothing.jsonl"),
        ):
            done = run(environment, "collect-rl", *out, *arguments)
            assert done.returncode == 1, arguments
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith("collect-rl: ")
            assert said in last
            assert "Traceback" not in done.stderr
            assert "sk-never-to-be-seen" not in done.stderr + done.stdout
    everything = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert everything
    assert not any(b"sk-never-to-be-seen" in content for content in everything)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_stops_sampling_at_once(
    stop: signal.Signals, environment: dict[str, str], tmp_path: Path
) -> None:
    slow = Script.model_validate({"latency": {"kind": "constant", "seconds": 0.2}})
    with Simulator(script=slow) as simulator:
        call = command(
            "collect-rl", "--output", str(tmp_path / "out"), "--policy.url", simulator.url,
            "--policy.model", "simulator", "--num-samples-in-parallel", "4",
        )  # fmt: skip
        process = subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while simulator.completions < 40:
            time.sleep(0.02)
        process.send_signal(stop)
        at_signal = simulator.completions
        _, said = process.communicate(timeout=40)
        assert process.returncode == 130
        assert "interrupted; the same command goes on" in said
        assert simulator.completions - at_signal <= 40


def test_an_unknown_model_is_told_with_those_that_are_served(environment: dict[str, str], tmp_path: Path) -> None:
    with Simulator() as simulator:
        done = run(
            environment, "collect-sft", "--output", str(tmp_path), "--limit", "2",
            "--policy.url", simulator.url, "--policy.model", "nope",
        )  # fmt: skip
    assert done.returncode == 1
    assert "model 'nope' is not served" in done.stderr
    assert "served there: simulator" in done.stderr


def test_a_killed_command_goes_on_where_it_stopped_and_pays_for_nothing_twice(
    environment: dict[str, str], tmp_path: Path
) -> None:
    slow = Script.model_validate({"latency": {"kind": "constant", "seconds": 0.1}})
    with Simulator(script=slow) as simulator:
        call = command(
            "collect-rl", "--output", str(tmp_path / "out"), "--limit", "60", "--num-repeats", "4",
            "--policy.url", simulator.url, "--policy.model", "simulator", "--num-samples-in-parallel", "4",
        )  # fmt: skip
        process = subprocess.Popen(call, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        while simulator.completions < 120:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.3)
        before = simulator.completions
        done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr
        paid_again = simulator.completions - 240
        assert 0 <= paid_again <= 4 + 45, "more than what was in flight and one second of answers"
        assert before >= 120
    folder = Path(done.stdout.strip().splitlines()[-1].removeprefix("dataset").strip())
    counts = json.loads((folder / "manifest.json").read_text())["counts"]
    assert counts["rollouts"] == counts["rollouts_completed"] == 240
