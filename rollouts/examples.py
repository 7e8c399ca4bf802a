"""Examples: a few rollouts to read, chosen by their numbers alone, so the same run always shows the same ones.

Ties are broken by rollout id, which is a hash: neither the first prompts of the file nor the fastest answers are
preferred. No prompt appears twice among the best or among the worst. Numbers are looked at shard by shard; texts are
read for the chosen rollouts only. They are what a model wrote: whoever shows them must escape them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar

import pandas as pd
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from rollouts.errors import ErrorRecord
from rollouts.identity import canonical_json
from rollouts.records import Message, Prompt, Rollout, Verdict
from rollouts.rollout_columns import Frame
from rollouts.shards import PROMPT_SCHEMA, ROLLOUT_SCHEMA, VERDICT_SCHEMA, from_table, read_columns
from rollouts.storage import Store

T = TypeVar("T", Prompt, Rollout, Verdict)

_COLUMNS: dict[type, list[str]] = {
    Prompt: PROMPT_SCHEMA.names,
    Rollout: [name for name in ROLLOUT_SCHEMA.names if name != "calls"],
    Verdict: VERDICT_SCHEMA.names,
}


class Turn(BaseModel):
    """One message as text."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    role: str
    text: str
    """Content, whole; reasoning and tool calls follow under their own headings."""


class Example(BaseModel):
    """One rollout to read. Every text in it was written by others."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["best", "worst", "failed"]
    rollout_id: str
    repeat_index: int
    category: str | None
    verifier: str
    status: str
    """Status of the verdict."""
    reward: float | None
    stop_reason: str
    completion_tokens: int | None
    flags: list[str]
    ground_truth: str
    """Reference answer; JSON when it is not a string."""
    answer: str | None
    """What the verifier took for the final answer."""
    failure: str | None
    """Type and message of the error, `None` when there was none."""
    prompt: list[Turn]
    completion: list[Turn]


def choose_examples(
    store: Store, prompts_key: str, shards: Sequence[tuple[str, str]], num_each: int = 3
) -> list[Example]:
    """Choose rollouts to read.

    The best have a reward above the lowest of the run and the worst one below the highest, so a run with equal rewards
    shows some as best and none as worst. Of the failed, one of each kind of failure is chosen.

    Args:
        store: Holds the snapshot and the shards.
        prompts_key: Key of the prompt snapshot.
        shards: Keys of each rollout shard and its verdict shard.
        num_each: Rollouts of each kind, at most.

    Returns:
        Best first, then worst, then failed.

    Raises:
        StoreError: A shard does not exist or cannot be read.
        DataError: A chosen row breaks the format.
    """
    best, worst, failed = _candidates(store, shards, num_each)
    if not best.empty and (low := worst["reward"].min()) < (high := best["reward"].max()):
        best, worst = best[best["reward"] > low], worst[worst["reward"] < high]
        worst = worst[~worst["rollout_id"].isin(best["rollout_id"])]
    else:
        worst = worst[:0]
    prompt_ids = {prompt_id for frame in (best, worst, failed) for prompt_id in frame["prompt_id"]}
    prompts = {prompt.prompt_id: prompt for prompt in _read_rows(store, prompts_key, Prompt, "prompt_id", prompt_ids)}
    examples: list[Example] = []
    kinds: list[tuple[Literal["best", "worst", "failed"], Frame]] = [
        ("best", best),
        ("worst", worst),
        ("failed", failed),
    ]
    for kind, frame in kinds:
        for rollout_id, prompt_id, shard in zip(frame["rollout_id"], frame["prompt_id"], frame["shard"], strict=True):
            rollouts_key, verdicts_key = shards[shard]
            [rollout] = _read_rows(store, rollouts_key, Rollout, "rollout_id", [rollout_id])
            [verdict] = _read_rows(store, verdicts_key, Verdict, "rollout_id", [rollout_id])
            examples.append(_example(kind, prompts[prompt_id], rollout, verdict))
    return examples


def _candidates(store: Store, shards: Sequence[tuple[str, str]], num_each: int) -> tuple[Frame, Frame, Frame]:
    """Keep the few best, worst and failed of all shards, one shard in memory at a time."""
    nothing = pd.DataFrame({"rollout_id": [], "prompt_id": [], "reward": [], "failure": [], "shard": []})
    best, worst, failed = nothing, nothing, nothing
    for shard, (rollouts_key, verdicts_key) in enumerate(shards):
        rollouts = read_columns(store, rollouts_key, ["rollout_id", "prompt_id"])
        verdicts = read_columns(store, verdicts_key, ["reward", "status"])
        frame: Frame = pd.DataFrame(
            {
                "rollout_id": rollouts["rollout_id"].to_pylist(),
                "prompt_id": rollouts["prompt_id"].to_pylist(),
                "reward": verdicts["reward"].to_numpy(),
                "failure": verdicts["status"].to_pylist(),
                "shard": shard,
            }
        )
        scored, unknown = frame[frame["reward"].notna()], frame[frame["reward"].isna()]
        best = _first(best, scored, ["reward", "rollout_id"], [False, True], "prompt_id", num_each)
        worst = _first(worst, scored, ["reward", "rollout_id"], [True, True], "prompt_id", num_each)
        failed = _first(failed, unknown, ["rollout_id"], [True], "failure", num_each)
    return best, worst, failed


def _first(kept: Frame, more: Frame, by: list[str], ascending: list[bool], distinct: str, most: int) -> Frame:
    """Keep the first `most` rows of both frames, each with another value of `distinct`."""
    frames = [frame for frame in (kept, more) if not frame.empty]
    if not frames:
        return kept
    return pd.concat(frames).sort_values(by, ascending=ascending).drop_duplicates(distinct).head(most)


def _read_rows(store: Store, key: str, kind: type[T], column: str, ids: Iterable[str]) -> list[T]:
    """Read the rows of a shard with these ids, without token ids."""
    if not (wanted := sorted(ids)):
        return []
    with store.open(key) as file:
        table = pq.read_table(file, columns=_COLUMNS[kind], filters=[(column, "in", wanted)])
    return from_table(kind, table)


def _example(kind: Literal["best", "worst", "failed"], prompt: Prompt, rollout: Rollout, verdict: Verdict) -> Example:
    error: ErrorRecord | None = rollout.error or verdict.error
    return Example(
        kind=kind,
        rollout_id=rollout.rollout_id,
        repeat_index=rollout.repeat_index,
        category=prompt.category,
        verifier=verdict.verifier,
        status=verdict.status.value,
        reward=verdict.reward,
        stop_reason=rollout.stop_reason.value,
        completion_tokens=rollout.usage.completion_tokens,
        flags=rollout.flags,
        ground_truth=_as_text(prompt.ground_truth),
        answer=verdict.answer,
        failure=None if error is None else f"{error.type}: {error.message}",
        prompt=[turn for message in prompt.messages for turn in _turns(message)],
        completion=[turn for message in rollout.completion for turn in _turns(message)],
    )


def _turns(message: Message) -> list[Turn]:
    """Split a message into what was said, thought and called; an empty message stays as an empty turn."""
    role = str(message.get("role", "unknown"))
    parts = [
        (f"{role}, reasoning", message.get("reasoning_content") or message.get("reasoning")),
        (role, message.get("content")),
        (f"{role}, tool calls", message.get("tool_calls")),
    ]
    turns = [Turn(role=heading, text=_as_text(value)) for heading, value in parts if value]
    return turns or [Turn(role=role, text="")]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else canonical_json(value).decode()
