"""Columns: a few numbers for every rollout of a run, read shard by shard, about 60 bytes each and no texts.

Only the columns that are counted are read, so token ids, log-probabilities and messages stay in the store. Names
(stop reasons, error types, verifiers) become small codes; flags and models are counted while reading. NaN stands for
"not known".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from rollouts.errors import DataError
from rollouts.shards import read_columns
from rollouts.storage import Store

_ROLLOUT = [
    "rollout_id",
    "prompt_id",
    "stop_reason",
    "usage",
    "latency_s",
    "attempts",
    "model_answered",
    "started_at",
    "ended_at",
    "flags",
    "error",
]
_VERDICT = [
    "rollout_id",
    "reward",
    "status",
    "verifier",
    "verifier_version",
    "duration_s",
    "error",
]
_NAMES = ("stop_reason", "error", "status", "verifier", "verifier_version", "verdict_error")


Frame: TypeAlias = Any
"""A pandas DataFrame. Its inline types say that a column may be anything, so they would only get in the way."""
Column: TypeAlias = Any
"""A pandas Series."""


class RolloutColumns(NamedTuple):
    """The numbers of a run."""

    rollouts: Frame
    """One row a rollout: `prompt` (row in `categories`), `reward`, `prompt_tokens`, `completion_tokens`, `latency_s`,
    `attempts`, `started_at`, `ended_at`, `duration_s` (of the verifier); as categories `stop_reason`, `error`,
    `status`, `verifier`, `verifier_version`, `verdict_error`."""
    categories: Any
    """A pandas Categorical: the category of each prompt of the snapshot, in order; missing where a prompt has none."""
    models: Counter[str | None]
    """Rollouts with a completion by the model that answered; `None` where the server did not say."""
    flags: Counter[str]
    """Rollouts by flag; one rollout may carry several."""
    messages: dict[tuple[str, str], str]
    """First message of each failure, by stage (`policy` or `verifier`) and error type."""


class _Codes:
    """Small numbers for names, in order of first appearance; -1 for null."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._code: dict[str, int] = {}

    def encode(self, column: pa.Array) -> npt.NDArray[np.int16]:
        encoded = column.dictionary_encode()
        codes: list[int] = []
        for name in encoded.dictionary.to_pylist():
            if name not in self._code:
                self._code[name] = len(self.names)
                self.names.append(name)
            codes.append(self._code[name])
        indices = encoded.indices.fill_null(len(codes)).to_numpy(zero_copy_only=False)
        return np.array([*codes, -1], dtype=np.int16)[indices]


def read_rollout_columns(store: Store, prompts_key: str, shards: Sequence[tuple[str, str]]) -> RolloutColumns:
    """Read the numbers of a run.

    Args:
        store: Holds the snapshot and the shards.
        prompts_key: Key of the prompt snapshot.
        shards: Keys of each rollout shard and its verdict shard.

    Raises:
        StoreError: A shard does not exist or cannot be read.
        DataError: Two shards of a pair do not belong together, or a rollout's prompt is not in the snapshot.
    """
    prompts = read_columns(store, prompts_key, ["prompt_id", "category"])
    prompt_index = pd.Index(prompts["prompt_id"].to_pylist(), dtype=object)
    if not prompt_index.is_unique:
        raise DataError(f"{store.locate(prompts_key)} holds a prompt_id twice")
    codes = {name: _Codes() for name in _NAMES}
    models: Counter[str | None] = Counter()
    flags: Counter[str] = Counter()
    messages: dict[tuple[str, str], str] = {}
    parts: list[dict[str, npt.NDArray[Any]]] = []
    for rollouts_key, verdicts_key in shards:
        rollouts, verdicts = _read_pair(store, rollouts_key, verdicts_key)
        prompt = prompt_index.get_indexer(pd.Index(rollouts["prompt_id"].to_pylist(), dtype=object))
        if (prompt < 0).any():
            raise DataError(f"{store.locate(rollouts_key)} holds a rollout of a prompt that is not in the snapshot")
        parts.append(
            {"prompt": prompt.astype(np.int32), **_numbers(rollouts, verdicts), **_names(rollouts, verdicts, codes)}
        )
        models.update(_counted(rollouts["model_answered"].filter(rollouts["error"].is_null())))
        flags.update(_counted(rollouts["flags"].flatten()))
        _keep_first_messages(messages, "policy", rollouts["error"])
        _keep_first_messages(messages, "verifier", verdicts["error"])
    category = prompts["category"].combine_chunks().dictionary_encode()
    return RolloutColumns(
        rollouts=_frame(parts, codes),
        categories=pd.Categorical.from_codes(
            category.indices.fill_null(-1).to_numpy(zero_copy_only=False), category.dictionary.to_pylist()
        ),
        models=models,
        flags=flags,
        messages=messages,
    )


def _read_pair(store: Store, rollouts_key: str, verdicts_key: str) -> tuple[dict[str, pa.Array], dict[str, pa.Array]]:
    """Read the counted columns of a shard and its sidecar, each as one array."""
    rollouts = read_columns(store, rollouts_key, _ROLLOUT).combine_chunks()
    verdicts = read_columns(store, verdicts_key, _VERDICT).combine_chunks()
    if rollouts["rollout_id"] != verdicts["rollout_id"]:
        raise DataError(
            f"{store.locate(verdicts_key)} is not the sidecar of {store.locate(rollouts_key)}: "
            "they do not hold the same rollouts in the same order"
        )
    return _arrays(rollouts), _arrays(verdicts)


def _arrays(table: pa.Table) -> dict[str, pa.Array]:
    return {
        name: pa.concat_arrays(column.chunks) if column.chunks else pa.array([], column.type)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _numbers(rollouts: dict[str, pa.Array], verdicts: dict[str, pa.Array]) -> dict[str, npt.NDArray[Any]]:
    """Typed numbers of a shard; NaN for null. A time of 0 is the default of the record: not known."""
    prompt_tokens, completion_tokens = _fields(rollouts["usage"], "prompt_tokens", "completion_tokens")
    started_at, ended_at = _floats(rollouts["started_at"]), _floats(rollouts["ended_at"])
    return {
        "reward": _floats(verdicts["reward"]),
        "prompt_tokens": _floats(prompt_tokens),
        "completion_tokens": _floats(completion_tokens),
        "latency_s": _floats(rollouts["latency_s"]).astype(np.float32),
        "attempts": rollouts["attempts"].fill_null(0).to_numpy(zero_copy_only=False),
        "started_at": np.where(started_at > 0, started_at, np.nan),
        "ended_at": np.where(ended_at > 0, ended_at, np.nan),
        "duration_s": _floats(verdicts["duration_s"]).astype(np.float32),
    }


def _floats(column: pa.Array) -> npt.NDArray[np.float64]:
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


def _names(
    rollouts: dict[str, pa.Array], verdicts: dict[str, pa.Array], codes: dict[str, _Codes]
) -> dict[str, npt.NDArray[Any]]:
    columns = {
        "stop_reason": rollouts["stop_reason"],
        "error": _fields(rollouts["error"], "type")[0],
        "status": verdicts["status"],
        "verifier": verdicts["verifier"],
        "verifier_version": verdicts["verifier_version"],
        "verdict_error": _fields(verdicts["error"], "type")[0],
    }
    return {name: codes[name].encode(column) for name, column in columns.items()}


def _fields(structs: pa.Array, *names: str) -> list[pa.Array]:
    """Take fields out of structs; null where the whole struct is null."""
    flat = structs.flatten()
    return [flat[structs.type.get_field_index(name)] for name in names]


def _counted(column: pa.Array) -> dict[Any, int]:
    return {item["values"]: item["counts"] for item in column.value_counts().to_pylist()}


def _keep_first_messages(messages: dict[tuple[str, str], str], stage: str, errors: pa.Array) -> None:
    """Keep the message of the first error of each type."""
    kinds, texts = _fields(errors, "type", "message")
    for kind in kinds.drop_null().unique().to_pylist():
        if (stage, kind) not in messages:
            messages[stage, kind] = texts[kinds.index(kind).as_py()].as_py() or ""


def _frame(parts: list[dict[str, npt.NDArray[Any]]], codes: dict[str, _Codes]) -> Frame:
    """Put the shards one after the other."""
    numbers = [
        "prompt",
        "reward",
        "prompt_tokens",
        "completion_tokens",
        "latency_s",
        "attempts",
        "started_at",
        "ended_at",
    ]
    columns: dict[str, Any] = {}
    for name in [*numbers, "duration_s"]:
        columns[name] = np.concatenate([part.pop(name) for part in parts]) if parts else np.empty(0)
    for name in _NAMES:
        joined = np.concatenate([part.pop(name) for part in parts]) if parts else np.empty(0, dtype=np.int16)
        columns[name] = pd.Categorical.from_codes(joined, codes[name].names)
    return pd.DataFrame(columns, copy=False)
