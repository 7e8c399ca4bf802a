"""Rollouts in compact form: what is finished of a batch is kept this way, in journals and on its way into shards.

Messages and sampling settings are JSON, token ids and log-probabilities the bytes that Arrow stores (32-bit integers,
64-bit floats, in the byte order of the machine), so that 512 sampled tokens are 6 KB instead of some 40 KB of Python
objects, and columns are made by joining bytes. Packing and unpacking gives an equal rollout, to the last bit.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from rollouts.errors import DataError, ErrorRecord
from rollouts.records import Message, ModelCall, Rollout, StopReason, Usage


class PackedCall(msgspec.Struct, frozen=True, gc=False):
    """A `ModelCall`; its lists are bytes, `None` where the call has none."""

    message_index: int
    prompt_token_ids: bytes | None
    generation_token_ids: bytes | None
    generation_log_probs: bytes | None
    finish_reason: str | None
    response_id: str | None
    model: str | None
    usage: Usage
    started_at: float
    latency_s: float
    attempts: int


class PackedRollout(msgspec.Struct, frozen=True, gc=False):
    """A `Rollout`; its free-form parts are JSON."""

    rollout_id: str
    prompt_id: str
    repeat_index: int
    messages: bytes
    num_prompt_messages: int
    stop_reason: str
    calls: list[PackedCall]
    usage: Usage
    seed: int | None
    sampling: bytes
    latency_s: float
    attempts: int
    model_asked: str
    model_answered: str | None
    endpoint: str
    policy_version: str | None
    started_at: float
    ended_at: float
    flags: list[str]
    error: ErrorRecord | None

    @property
    def num_bytes(self) -> int:
        """Bytes of its bulky parts: what it weighs in memory, about."""
        total = len(self.messages)
        for call in self.calls:
            for part in (call.prompt_token_ids, call.generation_token_ids, call.generation_log_probs):
                if part is not None:
                    total += len(part)
        return total


class Head(msgspec.Struct, frozen=True, gc=False):
    """What of a packed rollout can be read without reading the rest."""

    rollout_id: str
    error: ErrorRecord | None

    @property
    def final(self) -> bool:
        """Whether the rollout need not be tried again."""
        return self.error is None or not self.error.retryable


_json = msgspec.json.Encoder()
_messages = msgspec.json.Decoder(list[Message])
_sampling = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PackedRollout)
_head_decoder = msgspec.msgpack.Decoder(Head)


def encode(rollout: Rollout) -> bytes:
    """Return the MessagePack of a packed rollout.

    Raises:
        DataError: A token id does not fit 32 bits.
    """
    return encode_packed(pack(rollout))


def encode_packed(packed: PackedRollout) -> bytes:
    """Return the MessagePack of a packed rollout."""
    return _encoder.encode(packed)


def decode(data: bytes) -> PackedRollout:
    """Read what `encode` made.

    Raises:
        DataError: It is something else.
    """
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise DataError(f"not a packed rollout: {error}") from error


def decode_head(data: bytes) -> Head | None:
    """Read the head of what `encode` made, `None` when it is something else."""
    try:
        return _head_decoder.decode(data)
    except msgspec.DecodeError:
        return None


def pack(rollout: Rollout) -> PackedRollout:
    """Bring a rollout into compact form.

    Raises:
        DataError: A token id does not fit 32 bits.
    """
    try:
        calls = [_packed_call(call) for call in rollout.calls]
    except struct.error as error:
        raise DataError(f"rollout {rollout.rollout_id} has a token id that does not fit 32 bits") from error
    return PackedRollout(
        rollout.rollout_id,
        rollout.prompt_id,
        rollout.repeat_index,
        _json.encode(rollout.messages),
        rollout.num_prompt_messages,
        rollout.stop_reason.value,
        calls,
        rollout.usage,
        rollout.seed,
        _json.encode(rollout.sampling),
        rollout.latency_s,
        rollout.attempts,
        rollout.model_asked,
        rollout.model_answered,
        rollout.endpoint,
        rollout.policy_version,
        rollout.started_at,
        rollout.ended_at,
        rollout.flags,
        rollout.error,
    )


def unpack(packed: PackedRollout) -> Rollout:
    """Bring a rollout back.

    Raises:
        DataError: Its JSON or its stop reason is not what `pack` wrote.
    """
    fields = {name: getattr(packed, name) for name in packed.__struct_fields__}
    try:
        fields["messages"] = _messages.decode(packed.messages)
        fields["sampling"] = _sampling.decode(packed.sampling)
        fields["stop_reason"] = StopReason(packed.stop_reason)
    except ValueError as error:
        raise DataError(f"rollout {packed.rollout_id} cannot be unpacked: {error}") from error
    fields["calls"] = [_unpacked_call(call) for call in packed.calls]
    return Rollout(**fields)


def _packed_call(call: ModelCall) -> PackedCall:
    return PackedCall(
        call.message_index,
        _packed("i", call.prompt_token_ids),
        _packed("i", call.generation_token_ids),
        _packed("d", call.generation_log_probs),
        call.finish_reason,
        call.response_id,
        call.model,
        call.usage,
        call.started_at,
        call.latency_s,
        call.attempts,
    )


def _unpacked_call(call: PackedCall) -> ModelCall:
    fields = {name: getattr(call, name) for name in call.__struct_fields__}
    for name, code in (("prompt_token_ids", "i"), ("generation_token_ids", "i"), ("generation_log_probs", "d")):
        fields[name] = _unpacked(code, fields[name])
    return ModelCall(**fields)


def _packed(code: str, numbers: Sequence[float] | None) -> bytes | None:
    return None if numbers is None else struct.pack(f"={len(numbers)}{code}", *numbers)


def _unpacked(code: str, data: bytes | None) -> list[Any] | None:
    return None if data is None else [number for (number,) in struct.iter_unpack(f"={code}", data)]
