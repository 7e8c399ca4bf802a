"""The log of a run: the lines of tasks that a user wants to read, among those of the flow.

A thousand task runs log their own state changes; those are silenced in commands and deployments. What a task has to say
about the run goes to the flow run's logger.
"""

from __future__ import annotations

import logging
from typing import TypeAlias

from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.logging.loggers import flow_run_logger

Log: TypeAlias = "logging.Logger | logging.LoggerAdapter[logging.Logger]"


def run_log() -> Log:
    """Logger of the flow run around a task, or of the task itself when there is none."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return get_run_logger()
    return flow_run_logger(context.flow_run, context.flow)
