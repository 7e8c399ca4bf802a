"""Collect DPO data: preference pairs made inside each prompt's group, for preference training."""

from __future__ import annotations

from prefect import flow

from flows.collection import collect, run_name, task_runner
from flows.parameters import parameters_of
from rollouts.references import Published
from rollouts.settings import CollectDPO


@flow(
    name="collect-dpo",
    flow_run_name=run_name,
    task_runner=task_runner,
    persist_result=False,
)
@parameters_of(CollectDPO)
def collect_dpo(settings: CollectDPO) -> Published:
    """Sample a policy, verify every rollout, and publish preference pairs made inside each prompt's group, for preference training."""
    return collect(settings)
