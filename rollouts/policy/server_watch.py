"""Watching a server beside the requests: probing one that is out of service, and reading the gauges of one that is not.

Two endless coroutines for each endpoint; errors of the server are what they are there to find, so none ends them. A key goes
to the endpoint it belongs to and nowhere else: redirects are not followed, and all addresses lie below the base URL's host.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from rollouts.errors import PolicyError
from rollouts.policy.circuit_breaker import CircuitBreaker
from rollouts.policy.concurrency import Limit
from rollouts.policy.server_gauges import read_gauges, server_root
from rollouts.policy.transport import Transport

logger = logging.getLogger(__name__)

TICK_S = 0.25
"""Seconds between looks whether an endpoint is out of service."""
PROBE_TIMEOUT_S = 5.0
GAUGES_EVERY_S = 2.0
GAUGES_FAILED_S = 10.0
"""Seconds until a server is asked again that did not answer."""
NO_GAUGES_S = 300.0
"""Seconds until a server is asked again that keeps no gauges: it may have been replaced by one that does."""


class Watched(Protocol):
    """What is watched of an endpoint."""

    url: str
    name: str
    headers: dict[str, str]
    breaker: CircuitBreaker
    limit: Limit


async def keep_probing(endpoint: Watched, clock: Callable[[], float], transport: Transport) -> None:
    """Probe an endpoint whenever it is out of service, until cancelled.

    Args:
        endpoint: Which.
        clock: Monotonic seconds, those of its breaker.
        transport: Sends the probes.
    """
    breaker = endpoint.breaker
    while True:
        wait_s = None if breaker.in_service else breaker.wait_s(clock())
        if wait_s is None or wait_s > 0:
            await asyncio.sleep(TICK_S if wait_s is None else wait_s)
            continue
        alive = await is_alive(transport, endpoint.url, endpoint.headers)
        breaker.probed(clock(), alive)
        if alive:
            logger.warning("%s answers again and is tried.", endpoint.name)


async def is_alive(transport: Transport, url: str, headers: Mapping[str, str]) -> bool:
    """Ask a server how it is.

    `/health` at the root decides (vLLM, SGLang, llama.cpp). Where there is no such path, `/models` does: a list or a
    refusal (4xx) comes from a server that is there, a redirect (3xx) from something that stands in for it.
    """
    try:
        reply = await transport.get(f"{server_root(url)}/health", headers, PROBE_TIMEOUT_S)
        if 300 <= reply.status < 500:
            reply = await transport.get(f"{url}/models", headers, PROBE_TIMEOUT_S)
    except PolicyError:
        return False
    return 200 <= reply.status < 300 or 400 <= reply.status < 500


async def keep_reading_gauges(endpoint: Watched, transport: Transport) -> None:
    """Tell an endpoint's limit what its server says of its load, every few seconds, until cancelled."""
    while True:
        pause_s = await _read_once(endpoint, transport) if endpoint.breaker.in_service else TICK_S
        await asyncio.sleep(pause_s)


async def _read_once(endpoint: Watched, transport: Transport) -> float:
    """Read the gauges; returns the seconds until the next time."""
    try:
        gauges = await read_gauges(transport, endpoint.url, endpoint.headers)
    except PolicyError:
        return GAUGES_FAILED_S
    if gauges is None:
        return NO_GAUGES_S
    endpoint.limit.gauges(gauges)
    return GAUGES_EVERY_S
