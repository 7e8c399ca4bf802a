"""Generate: one batch of rollouts is sampled and committed as a shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import task
from prefect.context import TaskRunContext

from blocks.artifact_store import store_of
from blocks.policy_server import endpoint_of
from rollouts.engine import Engine
from rollouts.errors import SamplingStopped
from rollouts.generation import generate_batch
from rollouts.layout import rollouts_key
from rollouts.lease import Leases
from rollouts.policy.opening import open_engine
from rollouts.references import Batch, RolloutShard
from rollouts.run import Run
from rollouts.shards import read_prompts
from tasks.caching import cache_key, is_retryable
from tasks.progress import tally_of

_engines: Leases[Engine] = Leases()
"""The sampling engines of this process: batches that sample one policy share one."""
_stopped: set[str] = set()
"""Runs of this process that were interrupted: batches that have not begun do not begin."""


@contextmanager
def sampled(run: Run) -> Iterator[None]:
    """Let the batches of a run sample until the block ends; when it ends by an error or an interrupt, stop at once.

    Batches run in threads, which an interrupt does not reach.
    """
    _stopped.discard(run.run_id)
    try:
        yield
    except BaseException:
        _stopped.add(run.run_id)
        for engine in _engines.things():
            engine.stop()
        raise


def _key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    run: Run = parameters["run"]
    batch: Batch = parameters["batch"]
    store = store_of(run.settings.output)
    shard = rollouts_key(run.sampling_id, batch.batch_id, batch.attempt)
    return cache_key(store, "generate", [shard], shard, batch.start, batch.references_id)


@task(
    name="generate",
    task_run_name="generate prompts {batch.start} to {batch.stop}",
    cache_key_fn=_key,
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=is_retryable,
)
def generate(run: Run, batch: Batch) -> RolloutShard:
    """Sample what is missing of a batch and commit it.

    Raises:
        PolicyFatal: The server will not answer any request; the message says what to change.
        StoreError: The journal or the shard cannot be written.
    """
    settings = run.settings
    store = store_of(settings.output)
    prompts = read_prompts(store, run.prompt_set.key, batch.start, batch.stop)

    def collect(requests: Any, sink: Any) -> None:
        if not requests:
            return
        if run.run_id in _stopped:
            raise SamplingStopped("the run was interrupted before this batch had begun")
        endpoint = endpoint_of(run.policy)
        with _engines.lease((endpoint, settings.model_dump_json()), lambda: open_engine(endpoint, settings)) as engine:
            engine.collect(requests, sink)

    return generate_batch(store, batch, prompts, run.sampling_id, collect, tally_of(run.run_id))
