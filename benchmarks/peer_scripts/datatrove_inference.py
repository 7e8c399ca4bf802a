"""Sample and check with datatrove's InferenceRunner: URL, rollouts, requests in flight, folder. Runs in its own environment."""

from __future__ import annotations

import sys
from typing import Any

from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.inference.run_inference import InferenceConfig, InferenceRunner
from datatrove.pipeline.writers import JsonlWriter


async def rollout(document: Document, generate: Any) -> dict[str, Any]:
    """One answer and whether it is right."""
    answer = await generate({"messages": [{"role": "user", "content": document.text}], "temperature": 0.8})
    return {"text": answer.text, "reward": float("\\boxed{42}" in answer.text)}


def main() -> None:
    """Run one local executor with one task and no checkpoints, its fastest way."""
    url, count, in_flight, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    config = InferenceConfig(
        server_type="endpoint",
        endpoint_url=url.removesuffix("/v1"),  # it looks for /v1/models below it
        api_key="none",
        model_name_or_path="stub",
        max_concurrent_generations=in_flight,
    )
    documents = [Document(text=f"What is 6 times 7? Case {number}.", id=str(number)) for number in range(count)]
    runner = InferenceRunner(rollout_fn=rollout, config=config, output_writer=JsonlWriter(f"{folder}/out"))
    LocalPipelineExecutor(pipeline=[documents, runner], logging_dir=f"{folder}/log", tasks=1).run()


if __name__ == "__main__":
    main()
