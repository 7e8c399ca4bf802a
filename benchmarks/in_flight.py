"""Thousands of requests in flight at a second each: does the command keep up with what its slots could carry?

With a latency of one second, N slots can carry N rollouts a second. The rate after the first ten seconds, until the last
request is sent, is read at the stub second by second. The rest is failures: there should be none.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.command import observe
from benchmarks.prefect_server import prefect_server
from benchmarks.rounds import arguments_parser, middle, report, table
from benchmarks.stub_server import stub_server

NUM_REPEATS = 8
RAMP_S = 10
"""Seconds after the first request that do not count."""


def steady_rate(stats: dict[str, Any]) -> float:
    """Completions a second, from the end of the ramp until the last request was sent.

    Raises:
        ValueError: The run was too short to have such seconds.
    """
    until = int(stats["last_request_at"] - stats["first_request_at"])
    seconds = stats["answered_by_second"][RAMP_S:until]
    if len(seconds) < 3:
        raise ValueError(f"the last request came after {until} s: too short for a rate after {RAMP_S} s; more rollouts")
    return statistics.mean(seconds)


def measure(slots: int, seconds: int, rounds: int) -> list[str]:
    """Run the command as long as the ideal would take `seconds`; a row of a table."""
    num_prompts = slots * seconds // NUM_REPEATS
    flags: dict[str, str | int | None] = {"--num-repeats": NUM_REPEATS, "--num-samples-in-parallel": slots}
    with (
        tempfile.TemporaryDirectory() as home,
        prefect_server(Path(home)) as server,
        stub_server("small", latency="fixed:1") as stub,
    ):
        runs = [observe(stub, server, num_prompts, flags) for _ in range(rounds)]
    rates = [steady_rate(run.stats) for run in runs]
    return [
        f"{slots:,}",
        f"{num_prompts * NUM_REPEATS:,}",
        middle(run.stats["max_in_flight"] for run in runs),
        middle(rates),
        middle((100 * rate / slots for rate in rates), ".1f"),
        middle(run.num_failed + run.stats["abandoned"] for run in runs),
    ]


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--slots", type=int, nargs="+", help="samples in flight, one run for each")
    parser.add_argument("--seconds", type=int, help="seconds the run would take at the ideal rate")
    return parser.parse_args()


def main() -> None:
    """Print the share of the ideal rate."""
    given = _arguments()
    slots = given.slots or ([1024, 4096] if given.full else [1024])
    seconds = given.seconds or (40 if given.full else 20)
    rounds = given.rounds or (3 if given.full else 1)
    rows = [measure(number, seconds, rounds) for number in slots]
    header = [
        "slots",
        "rollouts",
        "most in flight",
        f"rollouts/s after {RAMP_S} s",
        "% of the ideal",
        "failed or given up",
    ]
    form = f"{'Full' if given.full else 'Short'} form: latency 1 s, {rounds} rounds"
    report("in-flight", form, table(header, rows), given.write)


if __name__ == "__main__":
    main()
