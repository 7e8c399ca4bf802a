"""Sample and judge with verifiers' SingleTurnEnv: URL, rollouts, requests in flight, folder. Runs in its own environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import verifiers as vf
from datasets import Dataset
from verifiers.types import ClientConfig


def right(completion: Any, answer: str, **_: Any) -> float:
    """Whether the answer stands in the text."""
    last = completion[-1]
    text = last["content"] if isinstance(last, dict) else last.content
    return float(f"{{{answer}}}" in str(text))


def main() -> None:
    """Evaluate one environment and keep its results in a file."""
    url, count, in_flight, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    os.environ["STUB_API_KEY"] = "none"
    rows = [{"question": f"What is 6 times 7? Case {number}.", "answer": "42"} for number in range(count)]
    environment = vf.SingleTurnEnv(eval_dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[right]))
    client = ClientConfig(api_base_url=url, api_key_var="STUB_API_KEY", max_connections=in_flight)
    results = environment.evaluate_sync(
        client=client, model="stub", num_examples=count, rollouts_per_example=1, max_concurrent=in_flight,
        results_path=Path(folder) / "results", save_results=True,
    )  # fmt: skip
    found = len(results["outputs"])
    if found != count:
        raise SystemExit(f"{found} of {count} rollouts came back")


if __name__ == "__main__":
    main()
