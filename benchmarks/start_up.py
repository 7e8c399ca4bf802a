"""How long until the first request, and how long one rollout takes from the command to its dataset.

Compared with what nobody can do without: importing Prefect, and a Prefect flow that does nothing. With a Prefect server
that stands already, and without one, when each starts a temporary one. The database exists in either case.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.command import check_complete, collect, write_prompts
from benchmarks.machine import CLIENT_CORE, run
from benchmarks.prefect_server import prefect_environment, prefect_server
from benchmarks.rounds import arguments_parser, interleaved, middle, ratios, report, table
from benchmarks.stub_server import Stub, stub_server

_EMPTY_FLOW = """
from prefect import flow

@flow
def empty():
    pass

empty()
"""


def cases(stub: Stub, folder: Path, environments: Mapping[str, dict[str, str]]) -> dict[str, Callable[[], list[float]]]:
    """What takes turns; each gives the seconds it took, the command also those to its first request before."""
    script = folder / "empty_flow.py"
    script.write_text(_EMPTY_FLOW)
    prompts = write_prompts(folder / "prompts.jsonl", 1)
    found: dict[str, Callable[[], list[float]]] = {}
    for name, environment in environments.items():
        found[f"import prefect, {name}"] = lambda e=environment: _program(["-c", "import prefect"], e)
        found[f"empty flow, {name}"] = lambda e=environment: _program([str(script)], e)
        found[f"command, {name}"] = lambda e=environment: _command(stub, prompts, e)
    return found


def _program(arguments: list[str], environment: Mapping[str, str]) -> list[float]:
    return [run([sys.executable, *arguments], CLIENT_CORE, 300, environment).wall_s]


def _command(stub: Stub, prompts: Path, environment: Mapping[str, str]) -> list[float]:
    stub.reset()
    with tempfile.TemporaryDirectory() as folder:
        collected = collect(
            stub.url, prompts, Path(folder) / "output", {"--num-repeats": 1}, environment, timeout_s=300
        )
        check_complete(collected, 1)
    return [stub.stats()["first_request_at"] - collected.started_at, collected.wall_s]


def compare(rounds: int) -> str:
    """Run everything in turn, after one round that does not count; a table."""
    with (
        tempfile.TemporaryDirectory() as home,
        tempfile.TemporaryDirectory() as folder,
        prefect_server(Path(home)) as server,
        stub_server("small") as stub,
    ):
        # Two servers on one database would wait for each other: the temporary ones have another.
        alone = Path(folder) / "prefect"
        alone.mkdir()
        environments = {"with a server": server.environment, "without a server": prefect_environment(alone)}
        together = cases(stub, Path(folder), environments)
        interleaved(together, 1)
        measured = interleaved(together, rounds)
    return table(
        ["", "seconds", "to import prefect", "to the empty flow"],
        [row for name in environments for row in _rows(name, measured)],
    )


def _rows(name: str, measured: Mapping[str, list[list[float]]]) -> list[list[str]]:
    imports = [seconds[0] for seconds in measured[f"import prefect, {name}"]]
    flows = [seconds[0] for seconds in measured[f"empty flow, {name}"]]
    first = [seconds[0] for seconds in measured[f"command, {name}"]]
    whole = [seconds[1] for seconds in measured[f"command, {name}"]]
    named = {
        "import prefect": imports,
        "an empty flow": flows,
        "command to its first request": first,
        "command with one rollout": whole,
    }
    return [
        [
            f"{what}, {name}",
            middle(seconds, ".2f"),
            middle(ratios(seconds, imports), ".2f"),
            middle(ratios(seconds, flows), ".2f"),
        ]
        for what, seconds in named.items()
    ]


def _arguments() -> argparse.Namespace:
    return arguments_parser(__doc__).parse_args()


def main() -> None:
    """Print times and ratios."""
    given = _arguments()
    rounds = given.rounds or (7 if given.full else 3)
    form = f"{'Full' if given.full else 'Short'} form: {rounds} rounds after one that does not count"
    report("start-up", form, compare(rounds), given.write)


if __name__ == "__main__":
    main()
