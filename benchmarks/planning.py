"""What a run costs before and after sampling: finding what has been sampled before, and its metrics, in time and memory.

Rollouts and verdicts are written by columns, so a million of them take a minute. Each size is measured in a process of its
own; times are ratios to reading the rollouts' ids alone, memory is what comes on top of the imports.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rollouts.batches import plan_batches
from rollouts.examples import Candidates
from rollouts.identity import content_id, rollout_id
from rollouts.layout import rollouts_key, verdicts_key
from rollouts.measurement import collect_metrics
from rollouts.record_tables import VERDICT_SCHEMA
from rollouts.records import Prompt
from rollouts.references import PromptSet
from rollouts.rollout_columns import read_leaves
from rollouts.rollout_table import ROLLOUT_SCHEMA
from rollouts.settings import CollectRL
from rollouts.shards import write_prompts, write_table
from rollouts.storage import Store

REPEATS = 8
PROMPTS_IN_A_SHARD = 250
PROMPTS = "store/prompts/all.parquet"
SAMPLING = CollectRL(num_repeats=REPEATS).sampling_id("m", "1")


def main() -> None:
    """Write rollouts of each size and measure them, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(measured(Store(str(arguments.measure)), arguments.rollouts[0], arguments.rounds))
        return
    for count in arguments.rollouts:
        with tempfile.TemporaryDirectory() as folder:
            write_run(Store(folder), count // REPEATS)
            own = [sys.executable, "-m", "benchmarks.planning", "--rollouts", str(count)]
            subprocess.run([*own, "--rounds", str(arguments.rounds), "--measure", folder], check=True)


def measured(store: Store, num_rollouts: int, rounds: int) -> str:
    """Time and memory of planning and of metrics, as one line of text."""
    pairs = [
        (rollouts_key(SAMPLING, batch, 0), verdicts_key(SAMPLING, batch)) for _, batch, _ in batches_of(num_rollouts)
    ]
    prompt_set = PromptSet(
        prompt_set_id="all",
        key=PROMPTS,
        quarantine_key=None,
        num_rows=num_rollouts // REPEATS,
        num_prompts=num_rollouts // REPEATS,
        num_quarantined={},
        sources=[],
    )
    same_cut = CollectRL(num_repeats=REPEATS, batch_size=PROMPTS_IN_A_SHARD)
    other_cut = CollectRL(num_repeats=REPEATS, batch_size=PROMPTS_IN_A_SHARD - 10)

    def ids_alone() -> None:
        for key, _ in pairs:
            read_leaves(store, key, ["rollout_id"])

    def metrics() -> None:
        candidates = Candidates()
        collect_metrics(store, PROMPTS, pairs, 1.0, watch=candidates.look)

    stages: dict[str, Callable[[], object]] = {
        "ids alone": ids_alone,
        "planned, nothing sampled before": lambda: plan_batches(store, prompt_set, same_cut, "another"),
        "planned, all sampled before": lambda: plan_batches(store, prompt_set, same_cut, SAMPLING),
        "planned in another cut": lambda: plan_batches(store, prompt_set, other_cut, SAMPLING),
        "metrics and candidates": metrics,
    }
    pa.array([0])  # Arrow loads what it needs of pandas, which is no part of any stage
    before = peak_mb()
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(rounds):
        for name, stage in stages.items():
            clock = time.process_time()
            stage()
            times[name].append(time.process_time() - clock)
    reading = statistics.median(times.pop("ids alone"))
    figures = [
        f"{name} {statistics.median(seconds) / num_rollouts * 1e6:.2f} us a rollout "
        f"({statistics.median(seconds) / reading:.1f} times ids alone)"
        for name, seconds in times.items()
    ]
    return f"{num_rollouts:,} rollouts: {', '.join(figures)}; {peak_mb() - before:.0f} MB on top of {before:.0f} MB"


def peak_mb() -> float:
    """Most memory this program has had, in megabytes; `getrusage` would count what started it as well."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def prompt_ids_of(num_rollouts: int) -> list[str]:
    """Ids of all prompts, in order."""
    return [content_id("prompt", number) for number in range(num_rollouts // REPEATS)]


def batches_of(num_rollouts: int) -> Iterator[tuple[int, str, list[str]]]:
    """Number, id and prompts of each batch."""
    ids = prompt_ids_of(num_rollouts)
    for start in range(0, len(ids), PROMPTS_IN_A_SHARD):
        prompts = ids[start : start + PROMPTS_IN_A_SHARD]
        yield start // PROMPTS_IN_A_SHARD, content_id("batch", SAMPLING, REPEATS, prompts), prompts


def write_run(store: Store, num_prompts: int) -> None:
    """Write a snapshot, and a shard with its verdicts for each batch."""
    prompts = (
        Prompt(
            prompt_id=prompt_id,
            messages=[{"role": "user", "content": f"What is {number} + 1?"}],
            ground_truth=str(number + 1),
            verifier="exact_match",
            category=f"category {number % 20}",
        )
        for number, prompt_id in enumerate(prompt_ids_of(num_prompts * REPEATS))
    )
    write_prompts(store, PROMPTS, prompts)
    for number, batch_id, ids in batches_of(num_prompts * REPEATS):
        write_pair(store, number, batch_id, [(prompt_id, repeat) for prompt_id in ids for repeat in range(REPEATS)])


def write_pair(store: Store, number: int, batch_id: str, rows: list[tuple[str, int]]) -> None:
    """Write a shard of rollouts and its verdicts: half of them pass, one in a hundred failed."""
    chance, count = np.random.default_rng(number), len(rows)
    failed, latency_s = chance.random(count) < 0.01, chance.lognormal(size=count)
    started_at = 1_760_000_000 + number + chance.random(count)
    error = {"type": "PolicyUnavailable", "message": "503", "retryable": False, "status": 503}
    keys: dict[str, Any] = {
        "rollout_id": [rollout_id(SAMPLING, *row) for row in rows],
        "prompt_id": [prompt_id for prompt_id, _ in rows],
        "repeat_index": [repeat for _, repeat in rows],
        "error": [error if one else None for one in failed],
    }
    rollouts = keys | {
        "messages": [f'[{{"role":"user","content":"?"}},{{"role":"assistant","content":"{n}"}}]' for n in range(count)],
        "num_prompt_messages": [1] * count,
        "stop_reason": np.where(failed, "error", "stop"),
        "usage": [{"prompt_tokens": 12, "completion_tokens": int(10 + 100 * t)} for t in latency_s],
        "latency_s": latency_s,
        "attempts": [1] * count,
        "model_answered": ["m"] * count,
        "endpoint": [f"http://server-{n % 2}:8000/v1" for n in range(count)],
        "started_at": started_at,
        "ended_at": started_at + latency_s,
        "flags": [[]] * count,
    }
    verdicts = keys | {
        "reward": pa.array(chance.integers(0, 2, count).astype(float), mask=failed),
        "status": np.where(failed, "policy_failed", "scored"),
        "verifier": ["exact_match"] * count,
        "verifier_version": ["1"] * count,
        "duration_s": latency_s / 1e5,
    }
    write_table(store, rollouts_key(SAMPLING, batch_id, 0), table_of(ROLLOUT_SCHEMA, rollouts, count))
    write_table(store, verdicts_key(SAMPLING, batch_id), table_of(VERDICT_SCHEMA, verdicts, count))


def table_of(schema: pa.Schema, columns: dict[str, Any], count: int) -> pa.Table:
    """A table of a schema; columns that are not given are null."""
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


if __name__ == "__main__":
    main()
