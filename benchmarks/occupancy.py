"""How full the slots are when answers take long and unevenly: the command against the same work with a barrier a batch.

Latencies are log-normal, the 99th percentile twenty times the median. Until the last prompt has been sent, no slot should
wait for a straggler of another batch. The share of slots that were busy until then is read at the stub: samples in flight
over time, divided by slots. The barrier is a loop over the same engine that waits for each batch before it hands over the
next; its share settles after few batches, so it runs on fewer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.answers import MODEL
from benchmarks.command import observe
from benchmarks.machine import CLIENT_CORE, run
from benchmarks.prefect_server import prefect_server
from benchmarks.rounds import arguments_parser, interleaved, middle, report, table
from benchmarks.stub_server import Stub, stub_server

NUM_REPEATS = 8


class Form(NamedTuple):
    """Sizes of a run."""

    slots: int
    batch_rollouts: int
    rollouts: int
    barrier_batches: int
    median_s: float
    """Of the latency; its 99th percentile is twenty times as long."""
    rounds: int


FULL = Form(slots=512, batch_rollouts=256, rollouts=20_000, barrier_batches=8, median_s=1.0, rounds=3)
SHORT = Form(slots=128, batch_rollouts=64, rollouts=4_000, barrier_batches=8, median_s=0.25, rounds=1)


def busy_share(stats: dict[str, Any], slots: int) -> float:
    """Share of the slots that were in flight from the first request until the last was sent."""
    return (
        stats["in_flight_integral_at_last_request_s"] / slots / (stats["last_request_at"] - stats["first_request_at"])
    )


def sample_with_barrier(url: str, slots: int, batch_rollouts: int, batches: int) -> None:
    """Sample batch after batch with the collector's engine, each to its end before the next."""
    from rollouts.engine import Request
    from rollouts.policy import Endpoint
    from rollouts.policy.opening import open_engine
    from rollouts.records import Prompt
    from rollouts.settings import CollectRL

    settings = CollectRL(num_samples_in_parallel=slots)
    with open_engine([Endpoint(url=url, model=MODEL, version="1")], settings) as engine:
        for batch in range(batches):
            prompts = [_prompt(Prompt, f"{batch}-{number}") for number in range(batch_rollouts // NUM_REPEATS)]
            engine.collect([Request(p, repeat) for p in prompts for repeat in range(NUM_REPEATS)], lambda _: None)


def _prompt(make: Any, name: str) -> Any:
    return make(prompt_id=name, messages=[{"role": "user", "content": f"6 times 7? {name}"}], verifier="exact_match")


def compare(form: Form, rounds: int, slots: str) -> list[list[str]]:
    """Busy shares of both; rows of a table."""
    latency = f"log-normal:{form.median_s},{20 * form.median_s}"
    flags: dict[str, str | int | None] = {
        "--num-repeats": NUM_REPEATS,
        "--num-samples-in-parallel": slots,
        "--batch-size": form.batch_rollouts // NUM_REPEATS,
    }
    with (
        tempfile.TemporaryDirectory() as home,
        prefect_server(Path(home)) as server,
        stub_server("small", latency=latency) as stub,
    ):
        cases = {
            "barrier": lambda: _with_barrier(stub, form),
            "command": lambda: observe(stub, server, form.rollouts // NUM_REPEATS, flags).stats,
        }
        measured = interleaved(cases, rounds)
    return [
        [
            name,
            middle((stats["samples_answered"] for stats in measured[name]), ",.0f"),
            middle((100 * busy_share(stats, form.slots) for stats in measured[name]), ".1f"),
            middle(
                stats["samples_answered"] / (stats["last_request_at"] - stats["first_request_at"])
                for stats in measured[name]
            ),
        ]
        for name in ("barrier", "command")
    ]


def _with_barrier(stub: Stub, form: Form) -> dict[str, Any]:
    stub.reset()
    sizes = ["--slots", str(form.slots), "--batch", str(form.batch_rollouts), "--batches", str(form.barrier_batches)]
    command = [sys.executable, "-m", "benchmarks.occupancy", "--barrier-url", stub.url, *sizes]
    run(command, CLIENT_CORE, 7200)
    return stub.stats()


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--barrier-url", help="sample this server with a barrier, in this process, and end")
    parser.add_argument("--slots", help="slots; for the command also auto")
    parser.add_argument("--batch", type=int, help="rollouts in a batch")
    parser.add_argument("--batches", type=int, help="batches of the barrier")
    parser.add_argument("--rollouts", type=int, help="rollouts of the command")
    return parser.parse_args()


def main() -> None:
    """Print the busy share of the slots with and without a barrier."""
    given = _arguments()
    if given.barrier_url:
        sample_with_barrier(given.barrier_url, int(given.slots), given.batch, given.batches)
        return
    form = FULL if given.full else SHORT
    sizes = {"batch_rollouts": given.batch, "barrier_batches": given.batches, "rollouts": given.rollouts}
    form = form._replace(**{name: value for name, value in sizes.items() if value is not None})
    if given.slots and given.slots.isdigit():
        form = form._replace(slots=int(given.slots))
    rounds = given.rounds or form.rounds
    rows = compare(form, rounds, given.slots or str(form.slots))
    text = (
        f"{'Full' if given.full else 'Short'} form: {form.slots} slots, batches of {form.batch_rollouts} rollouts, latency "
        f"log-normal with median {form.median_s:g} s and 99th percentile {20 * form.median_s:g} s, {rounds} rounds"
    )
    header = ["what", "rollouts", "slots busy until the last request, %", "rollouts per second until then"]
    report("occupancy", text, table(header, rows), given.write)


if __name__ == "__main__":
    main()
