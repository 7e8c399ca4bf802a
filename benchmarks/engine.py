"""The sampling engine against a bare aiohttp loop, interleaved, on the same stub server.

The stub answers every request with one fixed completion from a process of its own. The bare loop posts, parses with
msgspec and appends the text to a list: what the collector does beyond that is the price of records, retries, identity and
journal.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web

from rollouts.engine import Request
from rollouts.journal import Journal
from rollouts.policy import Endpoint
from rollouts.policy.opening import open_engine
from rollouts.records import Prompt, Rollout
from rollouts.settings import CollectRL


def answer(num_tokens: int) -> bytes:
    """A completion of `num_tokens` tokens with ids and log-probabilities."""
    logprobs = [{"token": "a", "logprob": -0.25, "bytes": [97], "top_logprobs": []} for _ in range(num_tokens)]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "a" * num_tokens},
        "finish_reason": "stop",
        "logprobs": {"content": logprobs},
        "token_ids": list(range(num_tokens)),
    }
    usage = {"prompt_tokens": 8, "completion_tokens": num_tokens}
    body = {"id": "c", "model": "stub", "choices": [choice], "usage": usage, "prompt_token_ids": list(range(8))}
    return msgspec.json.encode(body)


def serve(body: bytes, ready: Connection) -> None:
    """Run the stub until killed; sends its port."""

    async def chat(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body, content_type="application/json")

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "stub"}]})

    async def main() -> None:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", chat)
        application.router.add_get("/v1/models", models)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        ready.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


def bare_loop(url: str, count: int, slots: int) -> float:
    """Rollouts a second of a loop that only posts, parses and appends."""
    body = msgspec.json.encode({"model": "stub", "messages": [{"role": "user", "content": "2 + 2?"}], "logprobs": True})
    found: list[object] = []

    async def worker(session: aiohttp.ClientSession, left: list[int]) -> None:
        while left:
            left.pop()
            async with session.post(f"{url}/chat/completions", data=body) as response:
                found.append(msgspec.json.decode(await response.read())["choices"][0]["message"]["content"])

    async def main() -> float:
        connector = aiohttp.TCPConnector(limit=slots)
        async with aiohttp.ClientSession(connector=connector, headers={"Content-Type": "application/json"}) as session:
            left = [0] * count
            started = time.perf_counter()
            await asyncio.gather(*(worker(session, left) for _ in range(slots)))
            return time.perf_counter() - started

    return count / asyncio.run(main())


def engine(url: str, count: int, slots: int, folder: Path) -> float:
    """Rollouts a second of the engine with its journal."""
    prompts = [
        Prompt(prompt_id=str(number), messages=[{"role": "user", "content": "2 + 2?"}], verifier="math")
        for number in range(count)
    ]
    kept: list[Rollout] = []
    journal = Journal(folder / f"{time.monotonic_ns()}.journal")

    def keep(rollout: Rollout) -> None:
        journal.append(rollout)
        kept.append(rollout)

    endpoint = Endpoint(url=url, model="stub", version="1")
    with open_engine(endpoint, CollectRL(num_samples_in_parallel=slots)) as running:
        started = time.perf_counter()
        running.collect([Request(prompt, 0) for prompt in prompts], keep)
        seconds = time.perf_counter() - started
    journal.close()
    if any(rollout.error for rollout in kept) or len(kept) != count:
        raise SystemExit("the stub did not answer every request")
    return count / seconds


def main() -> None:
    """Print both rates and their ratio, medians of interleaved rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for num_tokens in (8, 512):
        ours, theirs = context.Pipe()
        stub = context.Process(target=serve, args=(answer(num_tokens), theirs), daemon=True)
        stub.start()
        url = f"http://127.0.0.1:{ours.recv()}/v1"
        rates: list[tuple[float, float]] = []
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(arguments.rounds):
                bare = bare_loop(url, arguments.count, arguments.slots)
                rates.append((bare, engine(url, arguments.count, arguments.slots, Path(folder))))
        stub.kill()
        bare, full = (statistics.median(column) for column in zip(*rates, strict=True))
        ratio = statistics.median(full / bare for bare, full in rates)
        print(
            f"{num_tokens:4} tokens, {arguments.slots} slots: bare loop {bare:,.0f}/s, engine {full:,.0f}/s, "
            f"engine / bare = {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
