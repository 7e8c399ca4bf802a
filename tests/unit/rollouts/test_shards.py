from pathlib import Path

import pandas as pd
import pytest

from rollouts.errors import DataError, ErrorRecord
from rollouts.records import ModelCall, Prompt, Rollout, StopReason, Usage, Verdict, VerdictStatus
from rollouts.shards import PROMPT_ROW_GROUP, read_prompts, read_shard, write_prompts, write_shard
from rollouts.storage import Store


def make_rollout(repeat_index: int = 0, **changes: object) -> Rollout:
    fields: dict = {
        "rollout_id": f"r{repeat_index}",
        "prompt_id": "p",
        "repeat_index": repeat_index,
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4 é \u2028 \x00"}],
        "num_prompt_messages": 1,
        "stop_reason": StopReason.STOP,
        "calls": [
            ModelCall(
                message_index=1,
                prompt_token_ids=[1, 2],
                generation_token_ids=[3, 2**31 - 1],
                generation_log_probs=[-0.1, -1e-17],
                started_at=1.5,
                latency_s=0.25,
            )
        ],
        "usage": Usage(2, None),
        "sampling": {"temperature": 0.8},
        "flags": ["empty"],
    }
    return Rollout(**{**fields, **changes})


def test_rollouts_come_back_as_they_were_to_the_last_bit(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    failed = make_rollout(
        1, calls=[], stop_reason=StopReason.ERROR, error=ErrorRecord("PolicyUnavailable", "503", True, 503)
    )
    rollouts = [make_rollout(0), failed]
    write_shard(store, "a.parquet", Rollout, rollouts)
    assert read_shard(store, "a.parquet", Rollout) == rollouts


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for key in ("a.parquet", "b.parquet"):
        write_shard(store, key, Rollout, [make_rollout(index) for index in range(3)])
    assert store.read("a.parquet") == store.read("b.parquet")


def test_an_unknown_reward_is_null_in_pandas(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    verdicts = [
        Verdict(
            rollout_id=str(index),
            prompt_id="p",
            repeat_index=index,
            reward=reward,
            status=VerdictStatus.SCORED if reward is not None else VerdictStatus.VERIFIER_FAILED,
            verifier="math",
            verifier_version="1",
        )
        for index, reward in enumerate([0.0, None, 1.0])
    ]
    write_shard(store, "v.parquet", Verdict, verdicts)
    rewards = pd.read_parquet(tmp_path / "v.parquet")["reward"]
    assert rewards.isna().tolist() == [False, True, False]
    assert rewards.mean() == 0.5


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_verdict_refuses_a_reward_that_is_no_number(reward: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Verdict(
            rollout_id="r",
            prompt_id="p",
            repeat_index=0,
            reward=reward,
            status=VerdictStatus.SCORED,
            verifier="math",
            verifier_version="1",
        )


def test_a_failed_verifier_cannot_carry_a_reward() -> None:
    with pytest.raises(ValueError, match="verifier_failed"):
        Verdict(
            rollout_id="r",
            prompt_id="p",
            repeat_index=0,
            reward=0.0,
            status=VerdictStatus.VERIFIER_FAILED,
            verifier="math",
            verifier_version="1",
        )


def test_any_range_of_a_snapshot_can_be_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    prompts = [
        Prompt(prompt_id=str(n), messages=[{"role": "user", "content": str(n)}], verifier="math", ground_truth={"n": n})
        for n in range(2 * PROMPT_ROW_GROUP + 10)
    ]
    write_prompts(store, "p.parquet", iter(prompts))
    for start, stop in ((0, 1), (PROMPT_ROW_GROUP - 1, PROMPT_ROW_GROUP + 1), (5, 2 * PROMPT_ROW_GROUP + 10)):
        assert read_prompts(store, "p.parquet", start, stop) == prompts[start:stop]


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x.parquet", b"not parquet at all")
    with pytest.raises(DataError, match=r"x\.parquet"):
        read_shard(store, "x.parquet", Rollout)
