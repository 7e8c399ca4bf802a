"""The whole command against the bare loop: prompts to published dataset, in rollouts a second on one core.

`collect-rl` reads prompts, samples, journals, verifies, filters, writes four formats and publishes; the bare loop posts,
parses and appends. They take turns on the client's core. The stub and a Prefect server that stands already have the other.

What the command does for each rollout is measured in two ways. Marginal: the wall time of a run of N rollouts less that of
a run of 8, so start-up does not count and filter, format and publish do. Sampling: at steady state, between the first and
the last tenth of the answers, by the times in the shards; journal, shards and verdicts are written meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.bare_loop import Loop, bare_loop
from benchmarks.command import Collected, check_complete, collect, write_prompts
from benchmarks.prefect_server import PrefectServer, prefect_server
from benchmarks.rounds import arguments_parser, interleaved, marginal_rate, middle, ratios, report, table
from benchmarks.stub_server import stub_server

NUM_REPEATS = 8


class Measured(NamedTuple):
    """A run of N rollouts beside one of a single group."""

    marginal_rate: float
    """Rollouts a second without start-up."""
    sampling_rate: float
    """Rollouts a second at steady state."""
    cpu_us: float
    """Microseconds of CPU for each rollout more."""
    wall_s: float
    """Of the run of N."""


def measure(url: str, server: PrefectServer, num_prompts: int, flags: dict[str, str | int | None]) -> Measured:
    """Collect twice into fresh folders, one group and all of them.

    Raises:
        RuntimeError: Not every rollout was published, or there were too few to tell them from start-up.
    """
    with tempfile.TemporaryDirectory() as folder:
        small = _collected(url, server, 1, Path(folder) / "one", flags)
        large = _collected(url, server, num_prompts, Path(folder) / "all", flags)
        more = (num_prompts - 1) * NUM_REPEATS
        return Measured(
            marginal_rate=marginal_rate(more, large.wall_s, small.wall_s),
            sampling_rate=large.sampling_rate(),
            cpu_us=1e6 * (large.cpu_s - small.cpu_s) / more,
            wall_s=large.wall_s,
        )


def _collected(
    url: str, server: PrefectServer, num_prompts: int, folder: Path, flags: dict[str, str | int | None]
) -> Collected:
    folder.mkdir()
    prompts = write_prompts(folder / "prompts.jsonl", num_prompts)
    given = {"--num-repeats": NUM_REPEATS, **flags}
    collected = collect(url, prompts, folder / "output", given, server.environment)
    check_complete(collected, num_prompts * NUM_REPEATS)
    return collected


def compare(kind: str, server: PrefectServer, num_prompts: int, in_flight: int | str, rounds: int) -> list[list[str]]:
    """Measure one kind of answers; two rows of a table."""
    bare_slots = in_flight if isinstance(in_flight, int) else 256
    with stub_server(kind) as stub:
        cases: dict[str, Callable[[], Loop | Measured]] = {
            "bare": lambda: bare_loop(stub.url, num_prompts * NUM_REPEATS, bare_slots),
            "command": lambda: measure(stub.url, server, num_prompts, {"--num-samples-in-parallel": in_flight}),
        }
        measured = interleaved(cases, rounds)
    bare = [loop for loop in measured["bare"] if isinstance(loop, Loop)]
    runs = [run for run in measured["command"] if isinstance(run, Measured)]
    bare_rates = [loop.rate for loop in bare]
    bare_cpu_us = [loop.cpu_us for loop in bare]
    cpu_us = [run.cpu_us for run in runs]
    marginal = [run.marginal_rate for run in runs]
    sampling = [run.sampling_rate for run in runs]
    return [
        [kind, "bare loop", middle(bare_rates), "1.00", "1.00", middle(bare_cpu_us), "1.00", ""],
        [
            kind,
            "command",
            f"{middle(marginal)} marginal, {middle(sampling)} sampling",
            middle(ratios(marginal, bare_rates), ".2f"),
            middle(ratios(sampling, bare_rates), ".2f"),
            middle(cpu_us),
            middle(ratios(bare_cpu_us, cpu_us), ".2f"),
            middle((run.wall_s for run in runs), ".1f"),
        ],
    ]


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--prompts", type=int, help=f"prompts, each sampled {NUM_REPEATS} times")
    parser.add_argument("--in-flight", default="256", help="a number, or auto")
    parser.add_argument("--answers", nargs="+", default=["small", "large"])
    return parser.parse_args()


def main() -> None:
    """Print both ratios for small and large answers."""
    given = _arguments()
    num_prompts = given.prompts or 2500
    rounds = given.rounds or (5 if given.full else 3)
    in_flight = int(given.in_flight) if given.in_flight.isdigit() else given.in_flight
    with tempfile.TemporaryDirectory() as home, prefect_server(Path(home)) as server:
        rows = [row for kind in given.answers for row in compare(kind, server, num_prompts, in_flight, rounds)]
    rates = ["rate, 1/s", "marginal to bare", "sampling to bare", "CPU us each", "bare CPU to it", "wall of the run, s"]
    form = (
        f"{'Full' if given.full else 'Short'} form: {num_prompts * NUM_REPEATS:,} rollouts, {in_flight} in flight, "
        f"{rounds} rounds; the Prefect server stood before and had the stub's core"
    )
    report("pipeline", form, table(["answers", "what", *rates], rows), given.write)


if __name__ == "__main__":
    main()
