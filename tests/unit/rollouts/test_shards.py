from collections.abc import Callable
from pathlib import Path

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rollouts.errors import DataError, ErrorRecord
from rollouts.records import ModelCall, Prompt, Rollout, StopReason, Usage, Verdict, VerdictStatus
from rollouts.rollout_table import ROW_GROUP_BYTES, ROW_GROUP_ROWS, WITHOUT_TOKENS
from rollouts.shards import (
    PROMPT_ROW_GROUP,
    READ_ROWS,
    from_table,
    iter_shard,
    read_prompts,
    read_shard,
    to_table,
    write_prompts,
    write_shard,
)
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


def test_the_digest_of_a_shard_is_known_when_it_has_been_written(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert write_shard(store, "a.parquet", Rollout, [make_rollout(0)]) == store.sha256("a.parquet")


def test_none_and_nothing_stay_apart_in_every_column(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    no_tokens = ModelCall(message_index=1, started_at=1.0, latency_s=0.5)
    empty_tokens = ModelCall(
        message_index=2,
        prompt_token_ids=[],
        generation_token_ids=[],
        generation_log_probs=[],
        started_at=1,
        latency_s=2,
    )
    rollouts = [
        make_rollout(0, calls=[no_tokens, empty_tokens, make_rollout().calls[0]], flags=[], model_answered=""),
        make_rollout(1, calls=[], seed=0, policy_version="", error=ErrorRecord("", "", False, None)),
        make_rollout(2, calls=[empty_tokens], usage=Usage(0, None), flags=["a", "b"], sampling={}),
    ]
    write_shard(store, "a.parquet", Rollout, rollouts)
    assert read_shard(store, "a.parquet", Rollout) == rollouts


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for kind in (Rollout, Verdict, Prompt):
        write_shard(store, "a.parquet", kind, [])
        assert read_shard(store, "a.parquet", kind) == []


def test_without_tokens_everything_else_is_there(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    rollouts = [make_rollout(index, calls=make_rollout().calls * index) for index in range(4)]
    write_shard(store, "a.parquet", Rollout, rollouts)
    bare = {"prompt_token_ids": None, "generation_token_ids": None, "generation_log_probs": None}
    expected = [
        msgspec.structs.replace(rollout, calls=[msgspec.structs.replace(call, **bare) for call in rollout.calls])
        for rollout in rollouts
    ]
    assert read_shard(store, "a.parquet", Rollout, WITHOUT_TOKENS) == expected


def test_rows_that_are_read_some_at_a_time_are_all_rows_in_order(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    count = ROW_GROUP_ROWS + 10
    write_shard(store, "a.parquet", Rollout, [make_rollout(index) for index in range(count)])
    parts = list(iter_shard(store, "a.parquet", Rollout))
    assert max(map(len, parts)) <= READ_ROWS
    assert [rollout for part in parts for rollout in part] == [make_rollout(index) for index in range(count)]
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 2


def test_row_groups_are_cut_by_what_rollouts_weigh(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    tokens = list(range(1 << 18))
    call = ModelCall(message_index=1, generation_token_ids=tokens, started_at=1.0, latency_s=0.5)
    count = 3 * ROW_GROUP_BYTES // (4 * len(tokens))
    write_shard(store, "a.parquet", Rollout, [make_rollout(index, calls=[call]) for index in range(count)])
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    assert all(rollout.calls == [call] for rollout in read_shard(store, "a.parquet", Rollout))


def test_prompts_and_verdicts_come_back_as_they_were(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    messages = [{"role": "user", "content": "é \x00"}]
    prompts = [
        Prompt(prompt_id="a", messages=messages, verifier="math"),
        Prompt(prompt_id="b", messages=messages, verifier="math", tools=[], ground_truth=[1, 2.5, "x", None], line=3),
        Prompt(prompt_id="c", messages=messages, verifier="", ground_truth=0, extra={"k": 2**70}, category=""),
    ]
    error = ErrorRecord("VerifierError", "broke", True)
    shared: dict = {"prompt_id": "p", "repeat_index": 1, "verifier": "math", "verifier_version": "1"}
    verdicts = [
        Verdict(rollout_id="0", reward=-0.0, status=VerdictStatus.SCORED, components={"a": 1.5}, answer="", **shared),
        Verdict(rollout_id="1", reward=None, status=VerdictStatus.VERIFIER_FAILED, error=error, **shared),
    ]
    write_shard(store, "p.parquet", Prompt, prompts)
    write_shard(store, "v.parquet", Verdict, verdicts)
    assert read_shard(store, "p.parquet", Prompt) == prompts
    assert read_shard(store, "v.parquet", Verdict) == verdicts


def test_a_slice_of_a_table_is_read_as_the_rows_it_shows() -> None:
    rollouts = [make_rollout(index, calls=make_rollout().calls * index) for index in range(6)]
    table = to_table(Rollout, rollouts)
    assert from_table(Rollout, table.slice(2, 3)) == rollouts[2:5]
    assert from_table(Rollout, pa.concat_tables([table.slice(4), table.slice(0, 2)])) == rollouts[4:] + rollouts[:2]


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


def _without(table: pa.Table) -> pa.Table:
    return table.drop_columns(["stop_reason"])


def _with_null(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("attempts"), "attempts", pa.nulls(2, pa.int32()))


def _with_text(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("repeat_index"), "repeat_index", pa.array(["0", "1"]))


def _with_unknown_reason(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("stop_reason"), "stop_reason", pa.array(["stop", "tired"]))


def _with_broken_json(table: pa.Table) -> pa.Table:
    return table.set_column(table.schema.get_field_index("messages"), "messages", pa.array(["[]", '["x"]']))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without, "lacks stop_reason"),
        (_with_null, "attempts has nulls"),
        (_with_text, "repeat_index is string, need int32"),
        (_with_unknown_reason, "'tired'"),
        (_with_broken_json, "Expected `object`"),
    ],
)
def test_a_table_that_is_no_shard_is_named_with_what_is_wrong(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], words: str
) -> None:
    table = change(to_table(Rollout, [make_rollout(0), make_rollout(1)]))
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=rf"x\.parquet is not a shard of rollouts.*{words}"):
        read_shard(Store(str(tmp_path)), "x.parquet", Rollout)


def test_a_stored_verdict_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    shared: dict = {"rollout_id": "r", "prompt_id": "p", "repeat_index": 0, "verifier": "math", "verifier_version": "1"}
    table = to_table(Verdict, [Verdict(reward=1.0, status=VerdictStatus.SCORED, **shared)])
    reward = table.schema.get_field_index("reward")
    pq.write_table(table.set_column(reward, "reward", pa.nulls(1, pa.float64())), tmp_path / "v.parquet")
    with pytest.raises(DataError, match="cannot have reward None"):
        read_shard(store, "v.parquet", Verdict)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("x.parquet", b"not parquet at all")
    with pytest.raises(DataError, match=r"x\.parquet"):
        read_shard(store, "x.parquet", Rollout)
