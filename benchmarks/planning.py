"""How long a run takes to find out what has been sampled before, against reading the same shards' ids alone."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import pyarrow as pa

from rollouts.batches import plan_batches
from rollouts.identity import rollout_id
from rollouts.layout import rollouts_folder
from rollouts.records import Prompt
from rollouts.references import PromptSet
from rollouts.settings import CollectRL
from rollouts.shards import ROLLOUT_SCHEMA, read_columns, write_prompts, write_table
from rollouts.storage import Store


def main() -> None:
    """Store rollouts in shards of 2,000, then plan a run that holds a tenth more prompts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = CollectRL(num_repeats=8)
    sampling_id = settings.sampling_id("m", "1")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        count = arguments.rollouts // settings.num_repeats
        for start in range(0, count, 250):
            ids = [(f"p{n}", r) for n in range(start, min(start + 250, count)) for r in range(settings.num_repeats)]
            store_shard(store, sampling_id, ids, start)
        wanted = count + count // 10
        prompts = (
            Prompt(prompt_id=f"p{n}", messages=[{"role": "user", "content": "x"}], verifier="math")
            for n in range(wanted)
        )
        write_prompts(store, "prompts.parquet", prompts)
        prompt_set = PromptSet(
            prompt_set_id="x",
            key="prompts.parquet",
            quarantine_key=None,
            num_rows=wanted,
            num_prompts=wanted,
            num_quarantined={},
            sources=[],
        )
        rounds: list[tuple[float, float]] = []
        for _ in range(arguments.rounds):
            clock = time.perf_counter()
            for key in store.keys(rollouts_folder(sampling_id)):
                read_columns(store, key, ["rollout_id"])
            reading = time.perf_counter() - clock
            clock = time.perf_counter()
            batches = plan_batches(store, prompt_set, settings, sampling_id)
            rounds.append((reading, time.perf_counter() - clock))
        reading, planning = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{arguments.rollouts:,} stored rollouts, {len(batches)} batches: ids read in {reading:.2f} s, planned in "
            f"{planning:.2f} s, planning / reading = {planning / reading:.1f}"
        )


def store_shard(store: Store, sampling_id: str, ids: list[tuple[str, int]], start: int) -> None:
    """Write a shard that has ids and nothing else."""
    columns = {name: pa.nulls(len(ids), ROLLOUT_SCHEMA.field(name).type) for name in ROLLOUT_SCHEMA.names}
    columns |= {
        "rollout_id": pa.array([rollout_id(sampling_id, prompt, repeat) for prompt, repeat in ids]),
        "prompt_id": pa.array([prompt for prompt, _ in ids]),
        "repeat_index": pa.array([repeat for _, repeat in ids], pa.int32()),
        "messages": pa.array(["[]"] * len(ids)),
        "num_prompt_messages": pa.array([1] * len(ids), pa.int32()),
        "stop_reason": pa.array(["stop"] * len(ids)),
    }
    write_table(store, f"{rollouts_folder(sampling_id)}/{start:08}.parquet", pa.table(columns, schema=ROLLOUT_SCHEMA))


if __name__ == "__main__":
    main()
