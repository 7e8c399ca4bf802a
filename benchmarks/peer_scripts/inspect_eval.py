"""Sample and score with inspect-ai: URL, rollouts, requests in flight, folder. Runs in its own environment."""

from __future__ import annotations

import os
import sys

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import GenerateConfig, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate


def main() -> None:
    """Evaluate one task with a scorer of text."""
    url, count, in_flight, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.environ["STUB_API_KEY"] = "none"
    samples = [Sample(input=f"What is 6 times 7? Case {number}.", target="{42}") for number in range(count)]
    model = get_model(
        "openai-api/stub/stub", base_url=url, config=GenerateConfig(max_connections=in_flight, temperature=0.8)
    )
    task = Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())
    logs = eval(task, model=model, log_dir=folder, display="none", max_samples=in_flight, max_tasks=1)
    if logs[0].status != "success" or logs[0].results is None or logs[0].results.completed_samples != count:
        raise SystemExit(f"the evaluation ended as {logs[0].status}")


if __name__ == "__main__":
    main()
