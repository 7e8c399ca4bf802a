"""Collect SFT data: the best verified completions, for supervised fine-tuning."""

from __future__ import annotations

from prefect import flow

from flows.collection import collect, run_name, task_runner
from flows.parameters import parameters_of
from rollouts.references import Published
from rollouts.settings import CollectSFT


@flow(
    name="collect-sft",
    flow_run_name=run_name,
    task_runner=task_runner,
    persist_result=False,
)
@parameters_of(CollectSFT)
def collect_sft(settings: CollectSFT) -> Published:
    """Sample a policy, verify every rollout, and publish the best verified completions, for supervised fine-tuning."""
    return collect(settings)
