"""Generate: one batch of rollouts is sampled and committed as a shard."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.context import TaskRunContext

from blocks.artifact_store import store_of
from blocks.policy_server import endpoint_of
from rollouts.engine import Engine
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


def _key(context: TaskRunContext, parameters: dict[str, Any]) -> str:
    run: Run = parameters["run"]
    batch: Batch = parameters["batch"]
    store = store_of(run.settings.output)
    shard = rollouts_key(run.sampling_id, batch.batch_id)
    return cache_key(store, "generate", [shard], batch.batch_id, batch.attempt, batch.start)


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
        endpoint = endpoint_of(run.policy)
        with _engines.lease((endpoint, settings.model_dump_json()), lambda: open_engine(endpoint, settings)) as engine:
            engine.collect(requests, sink)

    return generate_batch(store, batch, prompts, run.sampling_id, collect, tally_of(run.run_id))
