"""Other tools that turn prompts into judged answers, on the same stub, core and number of requests in flight.

Each is installed into an environment of its own below `benchmarks/.build/peers` and run by a script of a page
(`peer_scripts/`) that does what its documentation shows. Rates are marginal, as everywhere here: a run of N less a run of
8, so nobody pays for start-up. What they do for a rollout differs, and the table says how. A tool that does not install or
run is named with the reason.

Not among them: NeMo Gym (a cluster of Ray and three servers, over 1 GB, Python 3.12 and newer: it does not fit into one
process on one core), curator (fetches a file from the internet when it is first used).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.bare_loop import bare_loop
from benchmarks.machine import CLIENT_CORE, ROOT, build_folder, run
from benchmarks.pipeline import measure
from benchmarks.prefect_server import PrefectServer, prefect_environment, prefect_server
from benchmarks.rounds import arguments_parser, interleaved, marginal_rate, middle, ratios, report, table
from benchmarks.stub_server import Stub, stub_server

FEW = 8
"""Rollouts of the run that is taken off."""
_SCRIPTS = Path(__file__).parent / "peer_scripts"
_TIMEOUT_S = 600.0


class Peer(NamedTuple):
    """A tool to compare with."""

    name: str
    script: str
    """Name of its script, without ending."""
    packages: tuple[str, ...]
    """What is installed; versions are pinned where it is about the tool itself."""
    does: str
    """What it does for a rollout."""
    remote: bool = False
    """Whether the stub is named so that the tool does not see that it is on this machine."""


_DATATROVE = ("datatrove[io]==0.10.1", "openai", "orjson", "aiosqlite", "httpx", "uvloop", "pandas")
PEERS = (
    Peer("datatrove 0.10.1, localhost", "datatrove_inference", _DATATROVE, "text, check, JSONL; no checkpoints"),
    Peer(
        "datatrove 0.10.1, other hosts", "datatrove_inference", _DATATROVE, "the same by the OpenAI client", remote=True
    ),
    Peer(
        "distilabel 1.5.3",
        "distilabel_pipeline",
        ("distilabel[openai]==1.5.3", "requests", "beautifulsoup4"),
        "text, dataset; no check",
    ),
    Peer("inspect-ai 0.3.285", "inspect_eval", ("inspect-ai==0.3.285", "openai"), "text, score, log"),
    Peer("verifiers 0.1.14", "verifiers_evaluate", ("verifiers==0.1.14",), "text, reward, results"),
)


class Rate(NamedTuple):
    """What more rollouts took."""

    per_second: float
    cpu_us: float
    """Microseconds of CPU for each."""


def installed(peer: Peer) -> Path:
    """The Python of a peer's own environment, which is made when there is none.

    Raises:
        RuntimeError: It does not install.
    """
    folder = build_folder() / "peers" / peer.script
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists() and done.read_text() == repr(peer.packages):
        return python
    uv = next(
        (found for found in (ROOT / ".tools" / "bin" / "uv", shutil.which("uv")) if found and Path(found).exists()),
        None,
    )
    if uv:
        steps = [
            [uv, "venv", "--clear", "--python", sys.executable, folder],
            [uv, "pip", "install", "--python", python],
        ]
    else:
        steps = [[sys.executable, "-m", "venv", "--clear", folder], [python, "-m", "pip", "install"]]
    steps[1] += peer.packages
    for step in steps:
        finished = subprocess.run(step, capture_output=True, text=True, check=False)
        if finished.returncode != 0:
            raise RuntimeError(finished.stderr.strip().splitlines()[-1])
    done.write_text(repr(peer.packages))
    return python


def measure_peer(peer: Peer, python: Path, stub: Stub, count: int, in_flight: int) -> Rate | None:
    """Run a peer twice. None when it failed; why goes to standard error."""
    url = stub.url.replace("127.0.0.1", "127.1") if peer.remote else stub.url
    try:
        few, many = (_run(peer, python, stub, url, rollouts, in_flight) for rollouts in (FEW, count))
        rate = marginal_rate(count - FEW, many[0], few[0])
    except (RuntimeError, TimeoutError) as error:
        print(f"  {peer.name}: {str(error).strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return Rate(rate, 1e6 * (many[1] - few[1]) / (count - FEW))


def _run(peer: Peer, python: Path, stub: Stub, url: str, rollouts: int, in_flight: int) -> tuple[float, float]:
    stub.reset()
    with tempfile.TemporaryDirectory() as folder:
        command = [python, _SCRIPTS / f"{peer.script}.py", url, str(rollouts), str(in_flight), folder]
        finished = run(command, CLIENT_CORE, _TIMEOUT_S, {**prefect_environment(Path(folder)), "HOME": folder})
    if stub.stats()["samples_answered"] < rollouts:
        raise RuntimeError(f"it asked for fewer than {rollouts} rollouts")
    return finished.wall_s, finished.cpu_s


def _collector(stub: Stub, server: PrefectServer, count: int, in_flight: int) -> Rate:
    measured = measure(stub.url, server, count // 8, {"--num-samples-in-parallel": in_flight})
    return Rate(measured.marginal_rate, measured.cpu_us)


def _bare(stub: Stub, count: int, in_flight: int) -> Rate:
    loop = bare_loop(stub.url, count, in_flight)
    return Rate(loop.rate, loop.cpu_us)


def compare(peers: list[Peer], count: int, in_flight: int, rounds: int) -> str:
    """Run the loop, the collector and all peers in turn; a table."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as home, prefect_server(Path(home)) as server, stub_server("small") as stub:
        # Ten times the rollouts for those that take a tenth of the time.
        cases: dict[str, Callable[[], Rate | None]] = {
            "bare loop": lambda: _bare(stub, 10 * count, in_flight),
            "collect-rl": lambda: _collector(stub, server, 10 * count, in_flight),
        }
        does = {
            "bare loop": "text, a list",
            "collect-rl": "text, token ids, log-probabilities, reward, journal, 4 formats",
        }
        for peer in peers:
            try:
                cases[peer.name] = _case(peer, installed(peer), stub, count, in_flight)
                does[peer.name] = peer.does
            except RuntimeError as error:
                rows.append([peer.name, peer.does, f"not installed: {error}", "", ""])
        measured = interleaved(cases, rounds)
    bare = [rate for rate in measured["bare loop"] if rate]
    return table(
        ["what", "for each rollout", "rollouts/s", "CPU us each", "rate to the bare loop"],
        [*(_row(name, does[name], rates, bare) for name, rates in measured.items()), *rows],
    )


def _case(peer: Peer, python: Path, stub: Stub, count: int, in_flight: int) -> Callable[[], Rate | None]:
    return lambda: measure_peer(peer, python, stub, count, in_flight)


def _row(name: str, does: str, rates: list[Rate | None], bare: list[Rate]) -> list[str]:
    pairs = [(rate, other) for rate, other in zip(rates, bare, strict=True) if rate]
    if not pairs:
        return [name, does, "did not run", "", ""]
    known = [rate for rate, _ in pairs]
    compared = ratios([rate.per_second for rate in known], [other.per_second for _, other in pairs])
    form = ".2f" if statistics.median(compared) >= 0.1 else ".3f"
    return [
        name,
        does,
        middle(rate.per_second for rate in known),
        middle(rate.cpu_us for rate in known),
        middle(compared, form),
    ]


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument(
        "--count", type=int, help="rollouts of a peer's run; the collector and the loop get ten times as many"
    )
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--only", nargs="+", help="peers whose names contain one of these")
    return parser.parse_args()


def main() -> None:
    """Print the rates of all peers."""
    given = _arguments()
    count = given.count or (5000 if given.full else 3000)
    rounds = given.rounds or (3 if given.full else 1)
    peers = [peer for peer in PEERS if not given.only or any(part in peer.name for part in given.only)]
    text = compare(peers, count, given.in_flight, rounds)
    form = (
        f"{'Full' if given.full else 'Short'} form: {count:,} rollouts, {given.in_flight} in flight, {rounds} rounds, small "
        "answers without latency, each on one core"
    )
    report("peers", form, text, given.write)


if __name__ == "__main__":
    main()
