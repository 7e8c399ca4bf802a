"""Load: settings become a run, with its prompts snapshotted and its policy resolved."""

from __future__ import annotations

from prefect import task

from blocks.artifact_store import store_of
from blocks.policy_server import endpoints_of
from rollouts.prompt_set import load_prompt_set
from rollouts.run import Run
from rollouts.settings import CollectSettings
from rollouts.shards import read_columns
from rollouts.verification import check_ground_truth
from rollouts.verifiers.registry import verifier
from tasks.caching import is_retryable
from tasks.run_log import run_log


@task(
    name="load",
    task_run_name="load {settings.input}",
    retries=2,
    retry_delay_seconds=5,
    retry_condition_fn=is_retryable,
)
def load(settings: CollectSettings) -> Run:
    """Read the prompts, snapshot the usable ones, quarantine the others, and find out which policy is meant.

    Raises:
        ConfigError: The input, the output or the policy's address is unusable.
        NothingToPublish: No row is a usable prompt.
    """
    logger = run_log()
    store = store_of(settings.output)
    endpoints = endpoints_of(settings.policy)
    prompt_set = load_prompt_set(settings, store, check_ground_truth)
    kinds = set(read_columns(store, prompt_set.key, ["verifier"]).column(0).to_pylist())
    run = Run(
        settings=settings,
        prompt_set=prompt_set,
        policy_urls=[endpoint.url for endpoint in endpoints],
        model=endpoints[0].model,
        policy_version=endpoints[0].version,
        verifiers={kind: verifier(kind).version for kind in sorted(kinds)},
    )
    quarantined = sum(prompt_set.num_quarantined.values())
    logger.info("%d prompts from %d rows; run %s", prompt_set.num_prompts, prompt_set.num_rows, run.run_id)
    if quarantined and prompt_set.quarantine_key:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(prompt_set.num_quarantined.items()))
        logger.warning("%d rows quarantined (%s): %s", quarantined, reasons, store.locate(prompt_set.quarantine_key))
    return run
