"""Putting prompts, rollouts and verdicts of a batch together again, group by group."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from rollouts.errors import DataError
from rollouts.records import Attempt, Group, Rollout, Verdict
from rollouts.references import PromptSet, VerdictShard
from rollouts.rollout_table import WITHOUT_TOKENS
from rollouts.shards import iter_shard, read_columns, read_prompts, read_shard
from rollouts.storage import Store


def read_groups(store: Store, prompt_set: PromptSet, shard: VerdictShard, *, tokens: bool = True) -> Iterator[Group]:
    """Read one batch as groups, in the order of its prompts; rollouts are read some at a time.

    Args:
        store: Holds everything.
        prompt_set: Snapshot that the batch was cut from.
        shard: The batch.
        tokens: Whether the lists of token ids and log-probabilities are wanted; without them they are `None`, and
            nothing of them is read.

    Raises:
        DataError: The shards do not belong together.
    """
    batch = shard.rollouts.batch
    prompts = read_prompts(store, prompt_set.key, batch.start, batch.stop)
    verdicts = read_shard(store, shard.key, Verdict)
    held = read_columns(store, shard.rollouts.key, ["rollout_id"])["rollout_id"].to_pylist()
    if held != [verdict.rollout_id for verdict in verdicts]:
        raise DataError(f"{store.locate(shard.key)} does not belong to {store.locate(shard.rollouts.key)}")
    columns = None if tokens else WITHOUT_TOKENS
    rollouts = chain.from_iterable(iter_shard(store, shard.rollouts.key, Rollout, columns))
    attempts = (Attempt(*pair) for pair in zip(rollouts, verdicts, strict=True))
    for prompt in prompts:
        group = list(islice(attempts, batch.num_repeats))
        if len(group) < batch.num_repeats or any(attempt.rollout.prompt_id != prompt.prompt_id for attempt in group):
            raise DataError(f"{store.locate(shard.rollouts.key)} does not belong to {store.locate(prompt_set.key)}")
        yield Group(prompt, group)
