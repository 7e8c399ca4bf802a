"""The line every objective runs along: load, batch, generate, verify, filter, format, publish."""

from __future__ import annotations

from typing import Any, cast

from prefect.runtime import flow_run
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.overlapping import MOST_OPEN_BATCHES, sample_and_verify
from rollouts.garbage import steady_gc
from rollouts.lean_memory import use_lean_memory
from rollouts.references import Published
from rollouts.settings import CollectSettings
from tasks.batch import batch
from tasks.caching import kept_beside
from tasks.filter import filter_rollouts
from tasks.format import format_dataset
from tasks.generate import sampled
from tasks.load import load
from tasks.progress import watched
from tasks.publish import announce, publish

task_runner = cast("TaskRunner[Any]", ThreadPoolTaskRunner(max_workers=2 * MOST_OPEN_BATCHES))
"""Threads, made as they are needed. A cluster's runner can stand here, the tasks find everything they need by themselves."""


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
    use_lean_memory()
    with steady_gc():
        run = load(settings)
        with watched(run), sampled(run) as sampling:
            judged = sample_and_verify(run, batch(run), sampling)
        selection = kept_beside(output, filter_rollouts)(run, judged)
        dataset = kept_beside(output, format_dataset)(run, judged, selection)
        published = kept_beside(output, publish)(run, judged, selection, dataset)
        announce(run, published)
    return published
