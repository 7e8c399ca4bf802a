"""Filling one batch: what was sampled before is taken over, what is missing is sampled, the whole is committed.

Every finished rollout is journaled at once; the shard is committed in one step when all have ended, its rows in the
order of prompts and repeats. A killed batch goes on from its journal. Failures are rows of the shard too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from rollouts.engine import Request
from rollouts.identity import rollout_id
from rollouts.journal import Journal, read_journal
from rollouts.layout import journal_folder, rollouts_key
from rollouts.progress import Tally
from rollouts.records import Prompt, Rollout
from rollouts.references import Batch, RolloutShard
from rollouts.shards import read_columns, read_shard, write_shard
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
            rollout_id(sampling_id, prompt.prompt_id, repeat): Request(prompt, repeat)
            for prompt in prompts
            for repeat in range(batch.num_repeats)
        }
        if journal.recovered.num_torn:
            logger.warning("%d torn or damaged lines were cut off %s.", journal.recovered.num_torn, journal.path)
        finished = _taken_over(store, batch, sampling_id, expected.keys()) | _final(journal.recovered.rollouts)
        finished = {held: rollout for held, rollout in finished.items() if held in expected}
        for rollout in finished.values():
            tally.count_rollout(rollout, sampled_now=False)
        missing = [request for wanted, request in expected.items() if wanted not in finished]

        def keep(rollout: Rollout) -> None:
            journal.append(rollout)
            finished[rollout.rollout_id] = rollout
            tally.count_rollout(rollout, sampled_now=True)

        collect(missing, keep)
        shard = _commit(store, batch, sampling_id, [finished[wanted] for wanted in expected], len(missing))
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


def _taken_over(store: Store, batch: Batch, sampling_id: str, wanted: Iterable[str]) -> dict[str, Rollout]:
    """Final rollouts of this batch that lie in other shards and journals."""
    ids = set(wanted)
    found: dict[str, Rollout] = {}
    for holder in batch.reuse:
        if holder.endswith(".journal"):
            held = read_journal(journal_folder(store, sampling_id) / holder).rollouts
        elif store.exists(holder):
            held = read_shard(store, holder, Rollout)
        else:
            held = []
        found |= {key: rollout for key, rollout in _final(held).items() if key in ids}
    return found


def _final(rollouts: Iterable[Rollout]) -> dict[str, Rollout]:
    """Rollouts that need not be tried again, by id."""
    return {r.rollout_id: r for r in rollouts if r.error is None or not r.error.retryable}


def _commit(
    store: Store, batch: Batch, sampling_id: str, rollouts: Sequence[Rollout], num_sampled: int
) -> RolloutShard:
    key = rollouts_key(sampling_id, batch.batch_id, batch.attempt)
    write_shard(store, key, Rollout, rollouts)
    return RolloutShard(
        batch=batch,
        key=key,
        sha256=store.sha256(key),
        num_rollouts=len(rollouts),
        num_completed=sum(rollout.error is None for rollout in rollouts),
        num_sampled=num_sampled,
    )
