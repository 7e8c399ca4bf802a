"""The real command, `collect-rl`, as a program of its own on the client's core, and what it left behind.

Everything a benchmark says about the command it reads from outside: the clock, the system's account of CPU time, the
published manifest and the shards. A run that did not publish every rollout is no result but an error.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.answers import MODEL, RIGHT_ANSWER
from benchmarks.machine import CLIENT_CORE, run
from benchmarks.prefect_server import PrefectServer
from benchmarks.stub_server import Stub

COMMAND = Path(sys.executable).with_name("collect-rl")
KEEP_EVERYTHING = {
    "--verifier": "exact_match",
    "--no-drop-zero-variance": None,
    "--policy.model": MODEL,
    "--policy.version": "1",
}
"""Flags under which every rollout is verified, kept and written in every format."""


class Collected(NamedTuple):
    """A run of the command."""

    wall_s: float
    """From before the program was started until it had ended."""
    cpu_s: float
    """User and system time, children included."""
    started_at: float
    """UNIX seconds."""
    output: Path
    """What it wrote below."""
    dataset: Path
    """Folder of the published dataset."""

    @property
    def counts(self) -> dict[str, Any]:
        """Counts of the manifest."""
        return json.loads((self.dataset / "manifest.json").read_text())["counts"]

    def sampling_rate(self) -> float:
        """Rollouts a second at steady state: without the first and the last tenth of the answers, by their times."""
        ended_at = np.sort(self._column("rollouts", "ended_at"))
        first, last = len(ended_at) // 10, len(ended_at) * 9 // 10
        return (last - first) / float(ended_at[last] - ended_at[first])

    def mean_reward(self) -> float:
        """Mean of the rewards in the verdict shards."""
        return float(np.mean(self._column("verdicts", "reward")))

    def _column(self, folder: str, name: str) -> Any:
        paths = sorted(self.output.glob(f"store/*/{folder}/*.parquet"))
        return pa.concat_tables([pq.read_table(path, columns=[name]) for path in paths])[name].to_numpy()


class Observed(NamedTuple):
    """A run of the command as the stub saw it."""

    stats: dict[str, Any]
    """What the stub counted (`stub/figures.hpp`)."""
    counts: dict[str, Any]
    """Counts of the manifest."""
    wall_s: float

    @property
    def rate(self) -> float:
        """Completions a second, from the first request to the last answer."""
        return self.stats["samples_answered"] / (self.stats["last_answer_at"] - self.stats["first_request_at"])

    @property
    def num_failed(self) -> int:
        """Rollouts without a completion."""
        return sum(self.counts["rollouts_failed"].values())


def write_prompts(path: Path, num_prompts: int) -> Path:
    """Write prompts whose reference answer half of the stub's answers give."""
    with path.open("w") as file:
        for number in range(num_prompts):
            text = f"What is 6 times 7? Put the answer into \\boxed{{}}. Case {number}."
            file.write(json.dumps({"prompt": text, "answer": RIGHT_ANSWER}) + "\n")
    return path


def command_line(url: str, prompts: Path, output: Path, flags: Mapping[str, str | int | None]) -> list[str]:
    """The command with its flags; a flag with None stands alone."""
    given = {"--input": prompts, "--output": output, "--policy.url": url, **KEEP_EVERYTHING, **flags}
    return [str(COMMAND), *(str(word) for flag in given.items() for word in flag if word is not None)]


def collect(
    url: str,
    prompts: Path,
    output: Path,
    flags: Mapping[str, str | int | None],
    environment: Mapping[str, str],
    timeout_s: float = 3600,
) -> Collected:
    """Run the command to its end.

    Args:
        url: Base URL of the server, ending in /v1.
        prompts: File of prompts.
        output: Where it writes; best a folder that does not exist.
        flags: More flags, over `KEEP_EVERYTHING`.
        environment: Environment, which says what Prefect server there is.
        timeout_s: Seconds after which it is killed.

    Raises:
        TimeoutError: It took longer.
        RuntimeError: It failed.
    """
    finished = run(command_line(url, prompts, output, flags), CLIENT_CORE, timeout_s, environment)
    dataset = Path(finished.stdout.strip().splitlines()[-1].removeprefix("dataset").strip().removeprefix("file://"))
    return Collected(finished.wall_s, finished.cpu_s, finished.started_at, output, dataset)


def check_complete(collected: Collected, num_rollouts: int) -> None:
    """See that every rollout was sampled, judged with either reward, and kept.

    Raises:
        RuntimeError: It was not.
    """
    counts = collected.counts
    kept, completed = counts["rollouts_kept"], counts["rollouts_completed"]
    if not kept == completed == counts["verdicts"].get("scored") == num_rollouts:
        raise RuntimeError(f"{num_rollouts} rollouts were wanted: {counts}")
    if num_rollouts >= 64 and not 0.2 < collected.mean_reward() < 0.8:
        raise RuntimeError(f"half of the answers are right, but the mean reward is {collected.mean_reward():.2f}")


def observe(stub: Stub, server: PrefectServer, num_prompts: int, flags: Mapping[str, str | int | None]) -> Observed:
    """Run the command into a fresh folder on a stub that starts counting again.

    Args:
        stub: The server that is sampled.
        server: Prefect's.
        num_prompts: Prompts to write and sample.
        flags: Flags of the command, over `KEEP_EVERYTHING`.

    Raises:
        TimeoutError: The command took longer than an hour.
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        prompts = write_prompts(Path(folder) / "prompts.jsonl", num_prompts)
        stub.reset()
        collected = collect(stub.url, prompts, Path(folder) / "output", flags, server.environment)
        return Observed(stub.stats(), collected.counts, collected.wall_s)
