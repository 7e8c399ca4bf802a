"""Filling one batch: what was sampled before is taken over, what is missing is sampled, the whole is committed.

Every finished rollout is journaled at once, and held nowhere else; the shard is committed in one step when all have
ended, its rows in the order of prompts and repeats, read back from the journal row group by row group. A killed batch
goes on from its journal. Failures are rows of the shard too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

import pyarrow as pa

from rollouts.engine import Request
from rollouts.identity import RolloutIds
from rollouts.journal import Journal, final_records
from rollouts.layout import journal_folder, rollouts_key
from rollouts.progress import Tally
from rollouts.records import Prompt, Rollout
from rollouts.references import Batch, RolloutShard
from rollouts.rollout_table import rollouts_of
from rollouts.shards import iter_batches, read_columns, write_rollouts
from rollouts.storage import Store

logger = logging.getLogger(__name__)


def generate_batch(
    store: Store,
    batch: Batch,
    prompts: Sequence[Prompt],
    sampling_id: str,
    collect: Callable[[Sequence[Request], Callable[[Rollout], None]], None],
    tally: Tally,
) -> RolloutShard:
    """Bring a batch to its end and commit it.

    Args:
        store: Holds the shards.
        batch: Which prompts, how often.
        prompts: The batch's prompts, in order.
        sampling_id: Way of sampling.
        collect: Samples requests and hands each rollout to a sink as it ends (`Engine.collect`).
        tally: Told of every rollout as it ends, and of those taken over.

    Raises:
        PolicyFatal: No request can succeed; what is finished stays in the journal.
        StoreError: The journal or the shard cannot be written.
    """
    if batch.committed:
        return _committed(store, batch, sampling_id)
    journal = Journal(journal_folder(store, sampling_id) / f"{batch.batch_id}.journal")
    try:
        if store.exists(rollouts_key(sampling_id, batch.batch_id, batch.attempt)):
            journal.remove()
            return _committed(store, batch, sampling_id)  # by another run, since this one was planned
        expected = {
            ids.of(repeat): Request(prompt, repeat)
            for prompt in prompts
            for ids in [RolloutIds(sampling_id, prompt.prompt_id)]
            for repeat in range(batch.num_repeats)
        }
        if journal.num_torn:
            logger.warning("%d torn or damaged stretches were found in %s.", journal.num_torn, journal.path)
        finished = {held for held, entry in journal.entries.items() if entry.final and held in expected}
        finished |= _take_over(store, batch, sampling_id, journal, expected.keys() - finished)
        tally.count_shard(len(finished), sum(journal.entries[held].failed for held in finished))
        missing = [request for wanted, request in expected.items() if wanted not in finished]

        def keep(rollout: Rollout) -> None:
            journal.append(rollout)
            tally.count_rollout(rollout, sampled_now=True)

        collect(missing, keep)
        shard = _commit(store, batch, sampling_id, journal, list(expected), len(missing))
        journal.remove()
    finally:
        journal.close()
    return shard


def _committed(store: Store, batch: Batch, sampling_id: str) -> RolloutShard:
    """A batch whose shard is there already, made by this run or by another that samples the same way."""
    key = rollouts_key(sampling_id, batch.batch_id, batch.attempt)
    errors = read_columns(store, key, ["error"])["error"]
    return RolloutShard(
        batch=batch,
        key=key,
        sha256=store.sha256(key),
        num_rollouts=len(errors),
        num_completed=errors.null_count,
        num_sampled=0,
    )


def _take_over(store: Store, batch: Batch, sampling_id: str, journal: Journal, wanted: Iterable[str]) -> set[str]:
    """Journal the final rollouts of this batch that lie in other shards and journals; returns their ids."""
    left = set(wanted)
    found: set[str] = set()
    for holder in batch.reuse:
        if not left:
            break
        if holder.endswith(".journal"):
            taken = _take_from_journal(store, sampling_id, holder, journal, left)
        elif store.exists(holder):
            taken = _take_from_shard(store, holder, journal, left)
        else:
            continue
        left -= taken
        found |= taken
    return found


def _take_from_journal(store: Store, sampling_id: str, name: str, journal: Journal, wanted: set[str]) -> set[str]:
    taken: set[str] = set()
    for head, payload in final_records(journal_folder(store, sampling_id) / name):
        if head.rollout_id in wanted:
            journal.append_encoded(head, payload)
            taken.add(head.rollout_id)
    return taken


def _take_from_shard(store: Store, key: str, journal: Journal, wanted: set[str]) -> set[str]:
    taken: set[str] = set()
    for rows in iter_batches(store, key, Rollout):
        held = [row_id in wanted for row_id in rows["rollout_id"].to_pylist()]
        for rollout in rollouts_of(rows.filter(pa.array(held))) if any(held) else ():
            if rollout.error is None or not rollout.error.retryable:
                journal.append(rollout)
                taken.add(rollout.rollout_id)
    return taken


def _commit(
    store: Store, batch: Batch, sampling_id: str, journal: Journal, rollout_ids: Sequence[str], num_sampled: int
) -> RolloutShard:
    key = rollouts_key(sampling_id, batch.batch_id, batch.attempt)
    return RolloutShard(
        batch=batch,
        key=key,
        sha256=write_rollouts(store, key, journal.read(rollout_ids)),
        num_rollouts=len(rollout_ids),
        num_completed=sum(not journal.entries[held].failed for held in rollout_ids),
        num_sampled=num_sampled,
    )
