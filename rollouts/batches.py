"""Cutting a run into batches of whole groups, and finding out what of each has been sampled before.

A rollout's id follows from how it is sampled, its prompt and its repeat index, so any shard or journal made under the
same way of sampling may hold some of it: a run with a higher limit, with more repeats, or over a file that grew samples
only what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow.parquet as pq

from rollouts.identity import content_id, rollout_id
from rollouts.journal import read_journal
from rollouts.layout import journal_folder, rollouts_folder, rollouts_key
from rollouts.references import Batch, PromptSet
from rollouts.settings import CollectSettings
from rollouts.shards import read_columns
from rollouts.storage import Store

ATTEMPT_METADATA = b"attempt"
"""Key in a shard's Parquet metadata: how often the batch had been tried when it was committed, from 0."""

SMALLEST_BATCH = 128
"""Rollouts in a batch below which a task run would cost more than it brings (measured: some 10 ms each)."""
MOST_BATCHES = 500
"""Batches in a run, so that with generate and verify it stays near a thousand task runs."""


def prompts_per_batch(settings: CollectSettings, num_prompts: int) -> int:
    """Prompts in one batch: what the user said, or enough rollouts to keep all slots and the Prefect server at ease."""
    if settings.batch_size != "auto":
        return settings.batch_size
    num_rollouts = num_prompts * settings.num_repeats
    target = max(SMALLEST_BATCH, settings.num_samples_in_parallel // 2, -(-num_rollouts // MOST_BATCHES))
    return max(1, -(-target // settings.num_repeats))


def plan_batches(store: Store, prompt_set: PromptSet, settings: CollectSettings, sampling_id: str) -> list[Batch]:
    """Cut a prompt set into batches.

    Returns:
        Batches in prompt order. Each names the shards and journals that hold rollouts of it, so that `generate`
        samples only what is missing.
    """
    prompt_ids: list[str] = read_columns(store, prompt_set.key, ["prompt_id"]).column(0).to_pylist()
    size = prompts_per_batch(settings, len(prompt_ids))
    known = _Known(store, sampling_id)
    return [
        _plan_batch(known, prompt_ids, start, min(start + size, len(prompt_ids)), settings.num_repeats, sampling_id)
        for start in range(0, len(prompt_ids), size)
    ]


def _plan_batch(
    known: _Known, prompt_ids: list[str], start: int, stop: int, num_repeats: int, sampling_id: str
) -> Batch:
    batch_id = content_id("batch", sampling_id, num_repeats, prompt_ids[start:stop])
    own = rollouts_key(sampling_id, batch_id)
    committed = known.is_complete(own)
    reuse: list[str] = []
    if not committed:
        pairs = ((prompt_id, repeat) for prompt_id in prompt_ids[start:stop] for repeat in range(num_repeats))
        reuse = known.holders(rollout_id(sampling_id, *pair) for pair in pairs)
    return Batch(
        batch_id=batch_id,
        start=start,
        stop=stop,
        num_repeats=num_repeats,
        attempt=known.attempt(own) if committed else known.attempt(own) + 1,
        committed=committed,
        reuse=reuse,
    )


class _Known:
    """What all shards and journals of one way of sampling hold, read once."""

    def __init__(self, store: Store, sampling_id: str) -> None:
        self._store = store
        self._journals = journal_folder(store, sampling_id)
        self._attempts: dict[str, int] = {}
        self._incomplete: set[str] = set()
        self._holder: dict[str, str] = {}
        for key in store.keys(rollouts_folder(sampling_id)):
            self._read_shard(key)
        for journal, ids in self._read_journals():
            for held in ids:
                self._holder.setdefault(held, journal)

    def attempt(self, key: str) -> int:
        """Number of the last attempt at a shard, -1 when there was none."""
        return self._attempts.get(key, -1)

    def is_complete(self, key: str) -> bool:
        """Whether a shard is there and running it again would change nothing."""
        return key in self._attempts and key not in self._incomplete

    def holders(self, ids: Iterable[str]) -> list[str]:
        """Shards and journals that hold some of `ids`, sorted."""
        return sorted({self._holder[held] for held in ids if held in self._holder})

    def _read_shard(self, key: str) -> None:
        with self._store.open(key) as file:
            metadata = pq.read_schema(file).metadata or {}
        self._attempts[key] = int(metadata.get(ATTEMPT_METADATA, b"0"))
        table = read_columns(self._store, key, ["rollout_id", "error"])
        for held, error in zip(table["rollout_id"].to_pylist(), table["error"].to_pylist(), strict=True):
            if error and error["retryable"]:
                self._incomplete.add(key)
            else:
                self._holder[held] = key

    def _read_journals(self) -> Iterator[tuple[str, list[str]]]:
        for path in sorted(self._journals.glob("*.journal")):
            yield path.name, [rollout.rollout_id for rollout in read_journal(path).rollouts if rollout.error is None]
