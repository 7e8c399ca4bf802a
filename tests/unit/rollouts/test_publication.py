"""What is published of a run: everything beside the dataset, and the manifest last."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from rollouts.batches import plan_batches
from rollouts.curation import Dataset, select, write_dataset
from rollouts.errors import NothingToPublish
from rollouts.identity import content_id, rollout_id
from rollouts.layout import rollouts_key, verdicts_key
from rollouts.publication import publish_run
from rollouts.records import Prompt, Rollout, StopReason, Usage, Verdict, VerdictStatus
from rollouts.references import PromptSet, RolloutShard, Selection, VerdictShard
from rollouts.run import Run
from rollouts.session import EndpointFigures, SamplingSession, write_session
from rollouts.settings import CollectRL
from rollouts.shards import write_prompts, write_shard
from rollouts.storage import Store

URLS = ["http://a:8000/v1", "http://b:8000/v1"]


class Collected(NamedTuple):
    """Everything `publish_run` is given."""

    store: Store
    run: Run
    shards: list[VerdictShard]
    selection: Selection
    dataset: Dataset


def make_attempt(run: Run, prompt: str, repeat: int, reward: float) -> tuple[Rollout, Verdict]:
    name = rollout_id(run.sampling_id, prompt, repeat)
    rollout = Rollout(
        rollout_id=name,
        prompt_id=prompt,
        repeat_index=repeat,
        messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": f"It is {repeat}."}],
        num_prompt_messages=1,
        stop_reason=StopReason.STOP,
        usage=Usage(10, 20),
        latency_s=1.5,
        attempts=1,
        model_answered="m",
        endpoint=URLS[repeat % 2],
        started_at=1_760_000_000.0,
        ended_at=1_760_000_001.5,
    )
    verdict = Verdict(
        rollout_id=name,
        prompt_id=prompt,
        repeat_index=repeat,
        reward=reward,
        status=VerdictStatus.SCORED,
        verifier="math",
        verifier_version="1",
        answer=str(repeat),
    )
    return rollout, verdict


def collected(folder: Path, *, all_equal: bool = False) -> Collected:
    """A run of six prompts, four rollouts each, in three batches; half of all rollouts pass unless all are equal."""
    store = Store(str(folder))
    settings = CollectRL(num_repeats=4, batch_size=2, output=str(folder))
    prompt_ids = [content_id("prompt", number) for number in range(6)]
    ask = [{"role": "user", "content": "?"}]
    prompts = (Prompt(prompt_id=p, messages=ask, ground_truth="1", verifier="math") for p in prompt_ids)
    write_prompts(store, "store/prompts/p.parquet", prompts)
    prompt_set = PromptSet(
        prompt_set_id="p",
        key="store/prompts/p.parquet",
        quarantine_key=None,
        num_rows=6,
        num_prompts=6,
        num_quarantined={},
        sources=["questions.jsonl"],
    )
    run = Run(
        settings=settings,
        prompt_set=prompt_set,
        policy_urls=URLS,
        model="m",
        policy_version="1",
        verifiers={"math": "1"},
    )
    shards: list[VerdictShard] = []
    for batch in plan_batches(store, prompt_set, settings, run.sampling_id):
        rewards = [1.0] * 4 if all_equal else [1.0, 0.0, 1.0, 0.0]
        pairs = [
            make_attempt(run, p, r, rewards[r])
            for p in prompt_ids[batch.start : batch.stop]
            for r in range(len(rewards))
        ]
        key = rollouts_key(run.sampling_id, batch.batch_id, 0)
        write_shard(store, key, Rollout, [rollout for rollout, _ in pairs])
        judged = verdicts_key(run.sampling_id, content_id("verdicts", batch.batch_id))
        write_shard(store, judged, Verdict, [verdict for _, verdict in pairs])
        made = RolloutShard(
            batch=batch, key=key, sha256=store.sha256(key), num_rollouts=8, num_completed=8, num_sampled=8
        )
        shards.append(
            VerdictShard(
                rollouts=made,
                key=judged,
                sha256=store.sha256(judged),
                num_scored=8,
                reward_sum=sum(verdict.reward or 0.0 for _, verdict in pairs),
                num_by_status={"scored": 8},
            )
        )
    selection = select(store, settings, prompt_set, shards, run.sampling_id)
    dataset = write_dataset(store, settings, prompt_set, shards, selection, run.prefix)
    return Collected(store, run, shards, selection, dataset)


def published_files(made: Collected) -> dict[str, bytes]:
    names = ["metrics.json", "report.html", "README.md", "manifest.json"]
    return {name: made.store.read(f"{made.run.prefix}/{name}") for name in names}


def test_a_published_run_names_its_files_its_policy_and_what_became_of_its_rollouts(tmp_path: Path):
    made = collected(tmp_path)
    published = publish_run(*made)
    files = published_files(made)
    manifest = json.loads(files["manifest.json"])
    assert (manifest["manifest_version"], manifest["policy"]["urls"]) == (2, URLS)
    assert manifest["counts"]["rollouts"] == manifest["counts"]["rollouts_kept"] == published.num_rollouts == 24
    for file in manifest["files"]:
        data = made.store.read(f"{made.run.prefix}/{file['path']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size_bytes"], file["sha256"])
    metrics = json.loads(files["metrics.json"])
    assert [(e["url"], e["num_rollouts"], e["latency_p50_s"]) for e in metrics["endpoints"]] == [
        (URLS[0], 12, 1.5),
        (URLS[1], 12, 1.5),
    ]
    assert "It is 1." in files["report.html"].decode(), "an example is shown"


def test_publishing_the_same_rollouts_again_gives_the_same_bytes(tmp_path: Path):
    made = collected(tmp_path)
    publish_run(*made)
    first = published_files(made)
    publish_run(*made)
    assert published_files(made) == first


def test_the_report_tells_of_the_sessions_of_the_run_and_of_no_other(tmp_path: Path):
    made = collected(tmp_path)
    session = SamplingSession(
        started_at=1_760_000_000.0,
        ended_at=1_760_000_060.0,
        slots=64,
        samples=24,
        busy_share=0.5,
        endpoints=[EndpointFigures(url=url, requests=12, samples=12, limit=32) for url in URLS],
    )
    write_session(made.store, made.run.sampling_id, "another", session)
    publish_run(*made)
    assert "<h2>Sampling</h2>" not in published_files(made)["report.html"].decode()
    write_session(made.store, made.run.sampling_id, made.run.run_id, session)
    publish_run(*made)
    assert "<h2>Sampling</h2>" in published_files(made)["report.html"].decode()


def test_a_run_of_which_nothing_was_kept_has_a_report_and_no_manifest(tmp_path: Path):
    made = collected(tmp_path, all_equal=True)
    with pytest.raises(NothingToPublish, match=r"report\.html"):
        publish_run(*made)
    assert made.store.exists(f"{made.run.prefix}/report.html")
    assert not made.store.exists(f"{made.run.prefix}/manifest.json")
