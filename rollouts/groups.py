"""Putting prompts, rollouts and verdicts of a batch together again, group by group."""

from __future__ import annotations

from collections.abc import Iterator

from rollouts.errors import DataError
from rollouts.records import Attempt, Group, Rollout, Verdict
from rollouts.references import PromptSet, VerdictShard
from rollouts.shards import read_prompts, read_shard
from rollouts.storage import Store


def read_groups(store: Store, prompt_set: PromptSet, shard: VerdictShard) -> Iterator[Group]:
    """Read one batch as groups, in the order of its prompts; one batch in memory at a time.

    Raises:
        DataError: The shards do not belong together.
    """
    batch = shard.rollouts.batch
    prompts = read_prompts(store, prompt_set.key, batch.start, batch.stop)
    rollouts = read_shard(store, shard.rollouts.key, Rollout)
    verdicts = read_shard(store, shard.key, Verdict)
    if [r.rollout_id for r in rollouts] != [v.rollout_id for v in verdicts]:
        raise DataError(f"{store.locate(shard.key)} does not belong to {store.locate(shard.rollouts.key)}")
    for index, prompt in enumerate(prompts):
        rows = range(index * batch.num_repeats, (index + 1) * batch.num_repeats)
        attempts = [Attempt(rollouts[row], verdicts[row]) for row in rows]
        if any(attempt.rollout.prompt_id != prompt.prompt_id for attempt in attempts):
            raise DataError(f"{store.locate(shard.rollouts.key)} does not belong to {store.locate(prompt_set.key)}")
        yield Group(prompt, attempts)
