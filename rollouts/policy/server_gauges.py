"""What a server says about its own load: the gauges of vLLM's and SGLang's `/metrics`, in Prometheus text format.

Gauges are advice and the text is untrusted: it is capped before it is looked at, only the few lines that matter are
parsed, and whatever cannot be read is `None`. Values of several engines behind one server are added up; of the use of
their caches the highest counts, because the fullest engine is the first to put requests off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from rollouts.errors import PolicyUnavailable
from rollouts.policy.concurrency import ServerGauges
from rollouts.policy.transport import Transport

MAX_METRICS_BYTES = 4 << 20
"""Largest text that is searched: 4 MiB, forty times that of a busy vLLM."""
MAX_LINES = 512
MAX_LINE_BYTES = 512
"""Most that is parsed, on the event loop: three gauges of more than a hundred engines, with long names of models."""
TIMEOUT_S = 5.0

_Gauge = Literal["running", "waiting", "kv_cache_use"]
_GAUGES: dict[str, _Gauge] = {
    # https://docs.vllm.ai/en/latest/usage/metrics, vllm/v1/metrics/loggers.py (0.32); the second name of the cache until 0.9
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_cache_use",
    "vllm:gpu_cache_usage_perc": "kv_cache_use",
    # https://docs.sglang.io/references/production_metrics.html
    "sglang:num_running_reqs": "running",
    "sglang:num_queue_reqs": "waiting",
    "sglang:token_usage": "kv_cache_use",
}
_PREFIXES = tuple(f"{name}{end}".encode() for name in _GAUGES for end in ("{", " ", "\t"))


def server_root(url: str) -> str:
    """The address that `/health` and `/metrics` stand under: a base URL without its `/v1`."""
    return url.rstrip("/").removesuffix("/v1")


async def read_gauges(transport: Transport, url: str, headers: Mapping[str, str]) -> ServerGauges | None:
    """Ask the server behind a base URL for its gauges.

    Args:
        transport: Sends the request.
        url: Base URL ending in /v1.
        headers: The endpoint's own, its key among them.

    Returns:
        The gauges, or `None` when the server keeps none.

    Raises:
        PolicyUnavailable: Nothing answers, or not now (5xx).
        MalformedCompletion: The answer is too large.
    """
    reply = await transport.get(f"{server_root(url)}/metrics", headers, TIMEOUT_S)
    if reply.status >= 500 or reply.status in (408, 425, 429):
        raise PolicyUnavailable(f"/metrics answered {reply.status}", status=reply.status)
    return parse_gauges(reply.body) if reply.status == 200 else None


def parse_gauges(text: bytes) -> ServerGauges | None:
    """Find the gauges in a text of metrics, whatever else it holds.

    Returns:
        The gauges, each `None` when absent or not a possible value; `None` when there is none at all, the text is larger
        than `MAX_METRICS_BYTES`, or the lines that matter cannot be parsed.
    """
    if len(text) > MAX_METRICS_BYTES:
        return None
    lines = [line for line in text.split(b"\n") if line.startswith(_PREFIXES)]
    if len(lines) > MAX_LINES or any(len(line) > MAX_LINE_BYTES for line in lines):
        return None
    found: dict[_Gauge, list[float]] = {}
    try:
        for family in text_string_to_metric_families((b"\n".join(lines) + b"\n").decode()):
            for sample in _of_first_ranks(family.samples):
                found.setdefault(_GAUGES[sample.name], []).append(float(sample.value))
    except (ValueError, KeyError, IndexError):
        return None
    if not found:
        return None
    cache_use = max(found.get("kv_cache_use", [math.nan]))
    return ServerGauges(
        running=_count(found.get("running", [])),
        waiting=_count(found.get("waiting", [])),
        kv_cache_use=cache_use if 0.0 <= cache_use <= 1.0 else None,
    )


def _of_first_ranks(samples: Iterable[Sample]) -> Iterable[Sample]:
    """Leave out the other ranks of an engine that is split over devices: they repeat what the first one says."""
    return (s for s in samples if all(s.labels.get(rank, "0") == "0" for rank in ("tp_rank", "pp_rank")))


def _count(values: list[float]) -> int | None:
    total = sum(values) if values else math.nan
    return round(total) if min(values, default=-1.0) >= 0.0 and total < 2**53 else None
