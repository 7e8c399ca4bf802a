"""What a run of a million rollouts needs: memory of the command, task runs, and growth of Prefect's database.

Memory is the resident set of the command and all its children, added up several times a second; pages that they share
count for each. The Prefect server stands beside it and does not count. A million should need little more than a hundred
thousand: rollouts live in files, not in memory.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.command import Collected, check_complete, command_line, write_prompts
from benchmarks.machine import CLIENT_CORE, start
from benchmarks.prefect_server import PrefectServer, prefect_server
from benchmarks.rounds import arguments_parser, report, table
from benchmarks.stub_server import stub_server

NUM_REPEATS = 8
PERIOD_S = 0.25
"""Seconds between two looks at the memory."""
_PAGE = os.sysconf("SC_PAGESIZE")


class Needed(NamedTuple):
    """What one run needed."""

    rollouts: int
    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Most resident memory of the command and its children at once."""
    task_runs: int
    database_bytes: int
    """Growth of Prefect's database."""
    output_bytes: int
    """Everything the run wrote."""


def tree_bytes(root: int) -> int:
    """Resident memory of a process and all its descendants; what has gone in the meantime counts nothing."""
    children = _children()
    found = [root]
    for process in found:
        found += children.get(process, [])
    return sum(_resident_bytes(process) for process in found)


def _children() -> dict[int, list[int]]:
    """Processes of this machine by the process that started them."""
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found.setdefault(int(after_name[1]), []).append(int(path.parent.name))
    return found


def _resident_bytes(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def measure(rollouts: int, slots: str, server: PrefectServer, url: str) -> Needed:
    """Collect so many rollouts into a fresh folder.

    Raises:
        RuntimeError: The command failed, or did not publish every rollout.
    """
    num_prompts = rollouts // NUM_REPEATS
    tasks, size = server.num_task_runs(), server.database_bytes()
    with tempfile.TemporaryDirectory() as folder:
        prompts = write_prompts(Path(folder) / "prompts.jsonl", num_prompts)
        output = Path(folder) / "output"
        flags: dict[str, str | int | None] = {"--num-repeats": NUM_REPEATS, "--num-samples-in-parallel": slots}
        collected, peak = _watched(command_line(url, prompts, output, flags), output, server)
        check_complete(collected, num_prompts * NUM_REPEATS)
        return Needed(
            rollouts=num_prompts * NUM_REPEATS,
            wall_s=collected.wall_s,
            cpu_s=collected.cpu_s,
            peak_bytes=peak,
            task_runs=server.num_task_runs() - tasks,
            database_bytes=server.database_bytes() - size,
            output_bytes=sum(path.stat().st_size for path in output.rglob("*") if path.is_file()),
        )


def _watched(command: list[str], output: Path, server: PrefectServer) -> tuple[Collected, int]:
    """Run the command and look at its memory until it ends."""
    peak = 0
    started_at, clock, before = time.time(), time.perf_counter(), os.times()
    with tempfile.TemporaryFile("w+") as log:
        process = start(command, CLIENT_CORE, env=server.environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(PERIOD_S)
        log.seek(0)
        lines = log.read().strip().splitlines()
    if process.returncode != 0:
        raise RuntimeError(f"the command ended with {process.returncode}: {lines[-1] if lines else ''}")
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    dataset = Path(lines[-1].removeprefix("dataset").strip())
    return Collected(time.perf_counter() - clock, cpu_s, started_at, output, dataset), peak


def _row(needed: Needed) -> list[str]:
    return [
        f"{needed.rollouts:,}",
        f"{needed.wall_s:,.0f}",
        f"{needed.rollouts / needed.wall_s:,.0f}",
        f"{needed.peak_bytes / 2**20:,.0f}",
        f"{needed.task_runs:,}",
        f"{needed.database_bytes / 2**20:,.1f}",
        f"{needed.output_bytes / 2**20:,.0f}",
    ]


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--rollouts", type=int, nargs="+", help="sizes of runs, one after the other")
    parser.add_argument("--answers", default="2KB")
    parser.add_argument("--in-flight", default="256", help="a number, or auto")
    return parser.parse_args()


def main() -> None:
    """Print what runs of growing size need."""
    given = _arguments()
    sizes = given.rollouts or ([100_000, 1_000_000] if given.full else [10_000, 100_000])
    with (
        tempfile.TemporaryDirectory() as home,
        prefect_server(Path(home)) as server,
        stub_server(given.answers) as stub,
    ):
        runs = [measure(size, given.in_flight, server, stub.url) for size in sizes]
    header = [
        "rollouts",
        "wall, s",
        "rollouts/s",
        "peak memory, MiB",
        "task runs",
        "Prefect database, MiB",
        "output, MiB",
    ]
    ratio = runs[-1].peak_bytes / runs[0].peak_bytes
    text = f"{table(header, [_row(run) for run in runs])}\n\nPeak memory of the last to that of the first: {ratio:.2f}."
    form = (
        f"{'Full' if given.full else 'Short'} form: {given.answers} answers, {given.in_flight} in flight, one run each"
    )
    report("memory", form, text, given.write)


if __name__ == "__main__":
    main()
