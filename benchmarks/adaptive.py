"""Finding out what a server takes: "auto" against every fixed number, on a server that changes its mind.

The stub serves so many samples at once and answers 429 to what exceeds that; a third through, it serves a quarter, and
then all again. No fixed number is right for long. Throughput is completions from the first request to the last answer,
compared with the best of the fixed numbers, which nobody knows before.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.command import Observed, observe
from benchmarks.prefect_server import PrefectServer, prefect_server
from benchmarks.rounds import arguments_parser, interleaved, middle, report, table
from benchmarks.stub_server import Stub, stub_server

NUM_REPEATS = 8
CASES = ["auto", "16", "32", "64", "96"]


def schedule(seconds: float) -> str:
    """What the stub serves at once, a step every `seconds`."""
    return f"64@0,16@{seconds:g},64@{2 * seconds:g}"


def ideal_rollouts(seconds: float, latency_s: float) -> int:
    """Rollouts that a client that always knew could get in three steps of the schedule."""
    return int((64 + 16 + 64) * seconds / latency_s) // NUM_REPEATS * NUM_REPEATS


def compare(cases: list[str], seconds: float, latency_s: float, rounds: int) -> str:
    """Run all cases in turn; a table."""
    num_prompts = ideal_rollouts(seconds, latency_s) // NUM_REPEATS
    with (
        tempfile.TemporaryDirectory() as home,
        prefect_server(Path(home)) as server,
        stub_server("small", latency=f"fixed:{latency_s}", serve_at_once=schedule(seconds)) as stub,
    ):
        runs = interleaved({case: _case(stub, server, num_prompts, case) for case in cases}, rounds)
    best = max(statistics.median(_rates(runs[case])) for case in cases if case != "auto" or len(cases) == 1)
    rows = [
        [
            case,
            middle(_rates(runs[case])),
            format(statistics.median(_rates(runs[case])) / best, ".2f"),
            middle((100 * _refused_share(run) for run in runs[case]), ".2f"),
            middle(run.stats["max_in_flight"] for run in runs[case]),
            middle(run.num_failed for run in runs[case]),
        ]
        for case in cases
    ]
    header = ["in flight", "rollouts/s", "to the best fixed", "refused requests, %", "most in flight", "failed"]
    return table(header, rows)


def _case(stub: Stub, server: PrefectServer, num_prompts: int, case: str) -> Callable[[], Observed]:
    flags: dict[str, str | int | None] = {
        "--num-repeats": NUM_REPEATS,
        "--num-samples-in-parallel": case,
        # A fixed number beyond what is served is refused again and again; it shall lose time, not rollouts.
        "--max-attempts": 100,
        "--max-failure-ratio": 1,
    }
    return lambda: observe(stub, server, num_prompts, flags)


def _rates(runs: list[Observed]) -> list[float]:
    return [run.rate for run in runs]


def _refused_share(run: Observed) -> float:
    refused = run.stats["refused"]
    return refused / (refused + run.stats["requests_answered"])


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--cases", nargs="+", default=CASES, help="auto and fixed numbers")
    parser.add_argument("--seconds", type=float, help="length of a step of the schedule")
    parser.add_argument("--latency-s", type=float, default=0.2)
    return parser.parse_args()


def main() -> None:
    """Print throughput and refusals of "auto" and of fixed numbers."""
    given = _arguments()
    seconds = given.seconds or (20 if given.full else 8)
    rounds = given.rounds or (3 if given.full else 1)
    text = compare(given.cases, seconds, given.latency_s, rounds)
    form = (
        f"{'Full' if given.full else 'Short'} form: served at once {schedule(seconds)} (number@second), latency "
        f"{given.latency_s:g} s, {ideal_rollouts(seconds, given.latency_s):,} rollouts, {rounds} rounds"
    )
    report("adaptive", form, text, given.write)


if __name__ == "__main__":
    main()
