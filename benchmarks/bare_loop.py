"""The yardstick: a loop that only posts, parses and appends.

aiohttp on uvloop, a task for each slot, orjson, a list: about what a script of thirty lines would do. It keeps the text of
an answer and forgets everything else; it has no retry, no identity, no file. It runs in a process of its own on the
client's core, and counts from the first request to the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import NamedTuple

import aiohttp
import orjson
import uvloop

from benchmarks.answers import MODEL
from benchmarks.machine import CLIENT_CORE, run
from benchmarks.rounds import arguments_parser, interleaved, middle
from benchmarks.stub_server import stub_server


class Loop(NamedTuple):
    """What a loop took."""

    requests: int
    wall_s: float
    cpu_s: float
    """User and system time."""

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU for each request."""
        return 1e6 * self.cpu_s / self.requests


def request_body(number: int) -> bytes:
    """A request as the collector sends it."""
    return orjson.dumps(
        {
            "model": MODEL,
            "messages": [{"role": "user", "content": f"What is 6 times 7? Case {number}."}],
            "temperature": 0.8,
            "top_p": 0.95,
            "logprobs": True,
            "return_token_ids": True,
        }
    )


def bare_loop(url: str, requests: int, in_flight: int, timeout_s: float = 600) -> Loop:
    """Run the loop in a process of its own on the client's core.

    Args:
        url: Base URL of the API, ending in /v1.
        requests: Requests to send.
        in_flight: Requests in flight at once.
        timeout_s: Seconds after which it is given up.

    Raises:
        TimeoutError: It took longer than that.
        RuntimeError: A request failed.
    """
    command = [sys.executable, "-m", "benchmarks.bare_loop", "--url", url, "--requests", requests]
    finished = run([*map(str, command), "--in-flight", str(in_flight)], CLIENT_CORE, timeout_s)
    return Loop(**json.loads(finished.stdout))


async def _loop(url: str, requests: int, in_flight: int) -> Loop:
    numbers = iter(range(requests))
    texts: list[str] = []
    headers = {"Content-Type": "application/json"}

    async def slot(session: aiohttp.ClientSession) -> None:
        for number in numbers:
            async with session.post(f"{url}/chat/completions", data=request_body(number)) as response:
                response.raise_for_status()
                texts.append(orjson.loads(await response.read())["choices"][0]["message"]["content"])

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        cpu, clock = time.process_time(), time.perf_counter()
        await asyncio.gather(*(slot(session) for _ in range(min(in_flight, requests))))
        return Loop(len(texts), time.perf_counter() - clock, time.process_time() - cpu)


def _arguments() -> argparse.Namespace:
    parser = arguments_parser(__doc__)
    parser.add_argument("--url", help="run against this server, in this process, and print JSON")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--in-flight", type=int, default=256)
    return parser.parse_args()


def main() -> None:
    """Print the rate of the loop for small and large answers."""
    given = _arguments()
    if given.url:
        print(json.dumps(uvloop.run(_loop(given.url, given.requests, given.in_flight))._asdict()))
        return
    for kind in ("small", "large"):
        with stub_server(kind) as stub:
            loops = interleaved({kind: lambda: bare_loop(stub.url, given.requests, given.in_flight)}, given.rounds or 3)
        rate, cpu_us = (middle(getattr(loop, name) for loop in loops[kind]) for name in ("rate", "cpu_us"))
        print(f"{kind} answers, {given.in_flight} in flight: {rate} requests/s, {cpu_us} us CPU a request")


if __name__ == "__main__":
    main()
