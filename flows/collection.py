"""The line every objective runs along: load, batch, generate, verify, filter, format, publish."""

from __future__ import annotations

from typing import Any, cast

from prefect import unmapped
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from rollouts.batches import in_windows
from rollouts.references import Published, RolloutShard, VerdictShard
from rollouts.settings import CollectSettings
from tasks.batch import batch
from tasks.caching import kept_beside
from tasks.filter import filter_rollouts
from tasks.format import format_dataset
from tasks.generate import generate, sampled
from tasks.load import load
from tasks.progress import watched
from tasks.publish import announce, publish
from tasks.verify import verify

BATCHES_IN_FLIGHT = 8
"""Eight batches share the slots of one engine, so that the tail of one is filled by the next, and no more than eight are
in memory."""

task_runner = cast("TaskRunner[Any]", ThreadPoolTaskRunner(max_workers=2 * BATCHES_IN_FLIGHT))
"""Threads: half of them generate, half wait for what they will verify. A cluster's runner can stand here, the tasks find
everything they need by themselves."""


def run_name() -> str:
    """Name of a flow run: what is collected, from what, from whom."""
    parameters = flow_run.parameters
    policy = parameters["policy"]
    model = policy.get("model") if isinstance(policy, dict) else policy.model
    place = policy.get("block") or policy.get("url") if isinstance(policy, dict) else policy.block or policy.url
    limit = f"first {parameters['limit']} of " if parameters.get("limit") else ""
    return f"{limit}{parameters['input']} x {parameters['num_repeats']} from {model or place}"


def collect(settings: CollectSettings) -> Published:
    """Collect one dataset; what has been done before is not done again."""
    output = settings.output
    run = load(settings)
    with watched(run), sampled(run):
        shards: list[PrefectFuture[RolloutShard]] = []
        verdicts: list[PrefectFuture[VerdictShard]] = []
        for few in in_windows(batch(run), BATCHES_IN_FLIGHT // 2):
            made = kept_beside(output, generate).map(unmapped(run), few)
            shards += made
            verdicts += kept_beside(output, verify).map(unmapped(run), made)
        for shard in shards:
            shard.result()  # before the verdicts, so that a failure is told by the batch that failed
        judged = [verdict.result() for verdict in verdicts]
    selection = kept_beside(output, filter_rollouts)(run, judged)
    dataset = kept_beside(output, format_dataset)(run, judged, selection)
    published = kept_beside(output, publish)(run, judged, selection, dataset)
    announce(run, published)
    return published
