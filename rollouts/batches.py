"""Cutting a run into batches of whole groups, and finding out what of each has been sampled before.

A rollout's id follows from how it is sampled, its prompt and its repeat index, so any shard or journal made under the
same way of sampling may hold some of it: a run with a higher limit, with more repeats, or over a file that grew samples
only what is new.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from rollouts.identity import content_id, rollout_id
from rollouts.journal import read_journal
from rollouts.layout import journal_folder, rollouts_folder, rollouts_key
from rollouts.references import Batch, PromptSet
from rollouts.settings import CollectSettings
from rollouts.shards import read_columns
from rollouts.storage import Store

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


def in_windows(batches: list[Batch], size: int) -> Iterator[list[Batch]]:
    """Batches a few at a time, in order: what is submitted in turn for two stages runs in turn."""
    for start in range(0, len(batches), size):
        yield batches[start : start + size]


def plan_batches(store: Store, prompt_set: PromptSet, settings: CollectSettings, sampling_id: str) -> list[Batch]:
    """Cut a prompt set into batches.

    Returns:
        Batches in prompt order. Each names the shards and journals that hold rollouts of it, so that `generate`
        samples only what is missing.
    """
    columns = read_columns(store, prompt_set.key, ["prompt_id", "verifier", "ground_truth"])
    prompt_ids: list[str] = columns["prompt_id"].to_pylist()
    references: list[tuple[str, str]] = list(
        zip(columns["verifier"].to_pylist(), columns["ground_truth"].to_pylist(), strict=True)
    )
    size = prompts_per_batch(settings, len(prompt_ids))
    known = _Known(store, sampling_id)
    batches: list[Batch] = []
    for start in range(0, len(prompt_ids), size):
        stop = min(start + size, len(prompt_ids))
        references_id = content_id("references", references[start:stop])
        batches.append(
            _plan_batch(known, prompt_ids[start:stop], start, references_id, settings.num_repeats, sampling_id)
        )
    return batches


def _plan_batch(
    known: _Known, prompt_ids: list[str], start: int, references_id: str, num_repeats: int, sampling_id: str
) -> Batch:
    batch_id = content_id("batch", sampling_id, num_repeats, prompt_ids)
    last = known.last_attempt(batch_id)
    committed = last >= 0 and known.is_complete(rollouts_key(sampling_id, batch_id, last))
    reuse: list[str] = []
    if not committed:
        pairs = ((prompt_id, repeat) for prompt_id in prompt_ids for repeat in range(num_repeats))
        reuse = known.holders(rollout_id(sampling_id, *pair) for pair in pairs)
    return Batch(
        batch_id=batch_id,
        start=start,
        stop=start + len(prompt_ids),
        num_repeats=num_repeats,
        references_id=references_id,
        attempt=last if committed else last + 1,
        committed=committed,
        reuse=reuse,
    )


class _Known:
    """What all shards and journals of one way of sampling hold, read once."""

    def __init__(self, store: Store, sampling_id: str) -> None:
        self._store = store
        self._journals = journal_folder(store, sampling_id)
        self._last_attempts: dict[str, int] = {}
        self._incomplete: set[str] = set()
        self._holder: dict[str, str] = {}
        for key in store.keys(rollouts_folder(sampling_id)):
            batch_id, _, attempt = PurePosixPath(key).stem.partition("-")
            self._last_attempts[batch_id] = max(int(attempt), self._last_attempts.get(batch_id, -1))
            self._read_shard(key)
        for journal, ids in self._read_journals():
            for held in ids:
                self._holder.setdefault(held, journal)

    def last_attempt(self, batch_id: str) -> int:
        """Number of the last attempt at a batch that was committed, -1 when there was none."""
        return self._last_attempts.get(batch_id, -1)

    def is_complete(self, key: str) -> bool:
        """Whether running the batch of a shard again would change nothing."""
        return key not in self._incomplete

    def holders(self, ids: Iterable[str]) -> list[str]:
        """Shards and journals that hold some of `ids`, sorted."""
        return sorted({self._holder[held] for held in ids if held in self._holder})

    def _read_shard(self, key: str) -> None:
        table = read_columns(self._store, key, ["rollout_id", "error"])
        for held, error in zip(table["rollout_id"].to_pylist(), table["error"].to_pylist(), strict=True):
            if error and error["retryable"]:
                self._incomplete.add(key)
            else:
                self._holder[held] = key

    def _read_journals(self) -> Iterator[tuple[str, list[str]]]:
        for path in sorted(self._journals.glob("*.journal")):
            yield path.name, [rollout.rollout_id for rollout in read_journal(path).rollouts if rollout.error is None]
