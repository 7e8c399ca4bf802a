"""Publishing a run: quarantine, metrics, report and dataset card beside the dataset, and last of all the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from rollouts.curation import Dataset
from rollouts.dataset_card import CardFacts, dataset_card
from rollouts.manifest import Counts, File, Manifest, Policy, Shard, installed_versions, iso_time
from rollouts.metrics import Metrics, collect_metrics
from rollouts.references import Published, Selection, VerdictShard
from rollouts.report import ReportFacts, ReportFile, choose_examples, write_report
from rollouts.run import Run
from rollouts.storage import Store

MANIFEST = "manifest.json"
PASS_THRESHOLD = 1.0
"""Reward from which a rollout counts as a pass, where an objective has no setting for it."""


def publish_run(
    store: Store, run: Run, shards: Sequence[VerdictShard], selection: Selection, dataset: Dataset
) -> Published:
    """Write everything that belongs to a dataset; it exists from the moment the manifest is there."""
    pairs = [(shard.rollouts.key, shard.key) for shard in shards]
    metrics = collect_metrics(store, run.prompt_set.key, pairs, getattr(run.settings, "pass_threshold", PASS_THRESHOLD))
    counts = _counts(run, metrics, selection, dataset)
    others = {"dropped.parquet": dataset.dropped_key}
    if run.prompt_set.quarantine_key is not None:
        store.write(f"{run.prefix}/quarantine.jsonl", store.read(run.prompt_set.quarantine_key))
        others["quarantine.jsonl"] = f"{run.prefix}/quarantine.jsonl"
    texts = {
        "metrics.json": metrics.model_dump_json(indent=2) + "\n",
        "README.md": dataset_card(_card_facts(run, metrics, selection, dataset)),
        "report.html": write_report(
            metrics, _report_facts(store, run, metrics, selection, dataset), choose_examples(store, run.prompt_set.key, pairs)
        ),
    }
    for name, text in texts.items():
        store.write(f"{run.prefix}/{name}", text.encode())
        others[name] = f"{run.prefix}/{name}"
    manifest = Manifest(
        run_id=run.run_id,
        objective=run.settings.objective,
        dataset=run.settings.dataset_name,
        sampled_from=iso_time(metrics.started_at),
        sampled_until=iso_time(metrics.ended_at),
        settings=run.settings.model_dump(mode="json"),
        prompt_set_id=run.prompt_set.prompt_set_id,
        sampling_id=run.sampling_id,
        sources=run.prompt_set.sources,
        policy=Policy(
            url=run.policy_url, model=run.model, models_answered=metrics.models, version=run.policy_version
        ),
        verifiers=dict(run.verifiers),
        versions=installed_versions(),
        counts=counts,
        dataset_files=dataset.files,
        files=[
            File(path=name, size_bytes=store.size_bytes(key), sha256=store.sha256(key))
            for name, key in sorted(others.items())
        ],
        shards=[
            Shard(
                rollouts=shard.rollouts.key,
                rollouts_sha256=shard.rollouts.sha256,
                verdicts=shard.key,
                verdicts_sha256=shard.sha256,
            )
            for shard in shards
        ],
    )
    store.write(f"{run.prefix}/{MANIFEST}", manifest.model_dump_json(indent=2).encode() + b"\n")
    return Published(
        run_id=run.run_id,
        url=store.locate(run.prefix),
        manifest=store.locate(f"{run.prefix}/{MANIFEST}"),
        report=store.locate(f"{run.prefix}/report.html"),
        num_examples=selection.num_examples,
        num_rollouts=selection.num_rollouts,
    )
