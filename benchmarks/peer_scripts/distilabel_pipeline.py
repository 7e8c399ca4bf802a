"""Sample with a distilabel pipeline: URL, rollouts, requests in flight, folder. Runs in its own environment."""

from __future__ import annotations

import sys

from distilabel.models import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration


def main() -> None:
    """Run one generation step in batches as large as the requests in flight; no verifier, which it has not."""
    url, count, in_flight, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    rows = [{"instruction": f"What is 6 times 7? Case {number}."} for number in range(count)]
    with Pipeline(name="benchmark", cache_dir=folder) as pipeline:
        load = LoadDataFromDicts(data=rows, batch_size=in_flight)
        model = OpenAILLM(model="stub", base_url=url, api_key="none", generation_kwargs={"temperature": 0.8})
        load >> TextGeneration(llm=model, input_batch_size=in_flight)
    dataset = pipeline.run(use_cache=False)
    found = sum("boxed" in row["generation"] for row in dataset["default"]["train"])
    if found != count:
        raise SystemExit(f"{found} of {count} rows have an answer")


if __name__ == "__main__":
    main()
