"""Collect RL data: groups of rollouts with rewards, token ids and log-probabilities, for policy-gradient training."""

from __future__ import annotations

from prefect import flow

from flows.collection import collect, run_name, task_runner
from flows.parameters import parameters_of
from rollouts.references import Published
from rollouts.settings import CollectRL


@flow(
    name="collect-rl",
    flow_run_name=run_name,
    task_runner=task_runner,
    persist_result=False,
)
@parameters_of(CollectRL)
def collect_rl(settings: CollectRL) -> Published:
    """Sample a policy, verify every rollout, and publish groups of rollouts with rewards, token ids and log-probabilities, for policy-gradient training."""
    return collect(settings)
