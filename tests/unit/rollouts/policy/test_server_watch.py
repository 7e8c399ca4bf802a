import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from rollouts.errors import PolicyUnavailable
from rollouts.policy.circuit_breaker import MOST_IN_A_ROW
from rollouts.policy.concurrency import FixedLimit, ServerGauges
from rollouts.policy.endpoint_pool import Answered, EndpointPool, PooledEndpoint
from rollouts.policy.rate_limits import RateLimits
from rollouts.policy.server_gauges import MAX_METRICS_BYTES
from rollouts.policy.server_watch import is_alive
from rollouts.policy.transport import open_transport

HEADERS = {"Authorization": "Bearer sk-own"}
VLLM = b'vllm:num_requests_running{engine="0"} 5.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'


class Server:
    """Answers each path with what is set for it, 404 otherwise, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked = Counter[str]()
        self.keys: set[str] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                path = lines[0].split(" ")[1]
                self.asked[path] += 1
                self.keys |= {line.split(" ", 1)[1] for line in lines if line.lower().startswith("authorization:")}
                status, body = self.answers.get(path, (404, b"not found"))
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[Server]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", server.port)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


class Listener(FixedLimit):
    """A fixed limit that keeps the gauges it is told."""

    def __init__(self) -> None:
        super().__init__(64)
        self.seen: list[ServerGauges] = []

    def gauges(self, seen: ServerGauges) -> None:
        self.seen.append(seen)


def pooled(url: str, limit: FixedLimit | None = None) -> PooledEndpoint:
    rates = RateLimits(None, None, clock=time.monotonic)
    return PooledEndpoint(url, limit or FixedLimit(64), rates, headers=HEADERS)


@asynccontextmanager
async def watched(*endpoints: PooledEndpoint) -> AsyncIterator[EndpointPool]:
    pool = EndpointPool(endpoints, time.monotonic)
    transport = open_transport(8)
    watching = asyncio.create_task(pool.watch(transport))
    try:
        yield pool
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await transport.close()
        assert watching.cancelled()  # nothing that a server does ends it


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.01)


def fail(pool: EndpointPool, endpoint: PooledEndpoint) -> None:
    for lease in [pool.sent(endpoint, 1, 0) for _ in range(MOST_IN_A_ROW)]:
        pool.ended(lease, PolicyUnavailable("cannot connect"))
    assert not endpoint.in_service


async def test_requests_wait_for_a_server_that_is_gone_and_go_on_when_it_is_back() -> None:
    server = Server()
    server.answers["/health"] = (200, b"")
    async with serving(server):
        pass  # the port is known now, and nobody listens
    async with watched(pooled(server.url)) as pool:
        only = pool.endpoints[0]
        fail(pool, only)
        first_wait = pool.retry_in_s(1, 0)
        assert first_wait is not None
        await asyncio.sleep(first_wait + 0.2)  # the first probe has failed
        assert pool.choose("p", 1, 0) is None
        assert not only.in_service
        async with serving(server):
            await until(lambda: pool.choose("p", 1, 0) is not None)
            pool.ended(pool.sent(only, 1, 0), Answered(0.1))
            assert only.breaker.closed
            assert pool.figures()[0].times_out_of_service == 1
            assert server.asked["/health"] == 1
            assert server.keys == {"Bearer sk-own"}


async def test_a_server_that_says_it_is_not_well_stays_out_of_service() -> None:
    server = Server()
    server.answers["/health"] = (503, b"loading")
    async with serving(server), watched(pooled(server.url)) as pool:
        fail(pool, pool.endpoints[0])
        await until(lambda: server.asked["/health"] >= 1)
        await asyncio.sleep(0.1)
        assert not pool.endpoints[0].in_service
        server.answers["/health"] = (200, b"")
        await until(lambda: pool.endpoints[0].in_service)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({"/health": (200, b"")}, True),
        ({"/health": (500, b"")}, False),
        ({"/v1/models": (200, b'{"data":[]}')}, True),
        ({"/v1/models": (401, b"")}, True),
        ({"/v1/models": (502, b"")}, False),
        ({"/health": (302, b""), "/v1/models": (302, b"")}, False),
        ({"/health": (405, b"")}, True),
        ({}, True),
    ],
)
async def test_health_decides_and_the_list_of_models_where_there_is_none(
    answers: dict[str, tuple[int, bytes]], expected: bool
) -> None:
    server = Server()
    server.answers = answers
    async with serving(server):
        transport = open_transport(8)
        assert await is_alive(transport, server.url, HEADERS) is expected
        await transport.close()


async def test_nothing_that_listens_is_not_alive() -> None:
    server = Server()
    async with serving(server):
        pass
    transport = open_transport(8)
    assert not await is_alive(transport, server.url, HEADERS)
    await transport.close()


async def test_gauges_of_each_server_reach_its_own_limit() -> None:
    first, second = Server(), Server()
    first.answers["/metrics"] = (200, VLLM)
    second.answers["/metrics"] = (200, VLLM.replace(b"5.0", b"9.0"))
    limits = Listener(), Listener()
    async with (
        serving(first),
        serving(second),
        watched(pooled(first.url, limits[0]), pooled(second.url, limits[1])),
    ):
        await until(lambda: len(limits[0].seen) >= 2 and len(limits[1].seen) >= 2)
    assert set(limits[0].seen) == {ServerGauges(5, 1, None)}
    assert set(limits[1].seen) == {ServerGauges(9, 1, None)}
    assert first.asked["/metrics"] <= 3


async def test_servers_without_gauges_are_asked_once_in_a_while_and_go_on_being_watched() -> None:
    answers = [
        (404, b"not found"),
        (200, b"<html>welcome</html>"),
        (200, b"x" * (MAX_METRICS_BYTES + 1)),
        (200, b"vllm:num_requests_running many\n"),
        (302, b""),
        (500, b"broken"),
    ]
    servers, limit = [Server() for _ in answers], Listener()
    async with AsyncExitStack() as stack:
        for server, answer in zip(servers, answers, strict=True):
            server.answers = {"/metrics": answer, "/health": (200, b"")}
            await stack.enter_async_context(serving(server))
        pool = await stack.enter_async_context(watched(*(pooled(server.url, limit) for server in servers)))
        await until(lambda: all(server.asked["/metrics"] == 1 for server in servers))
        for endpoint in pool.endpoints:
            fail(pool, endpoint)
        await until(lambda: all(endpoint.in_service for endpoint in pool.endpoints))
        assert [server.asked["/metrics"] for server in servers] == [1] * len(servers)
        assert limit.seen == []


async def test_an_endpoint_that_is_out_of_service_is_not_asked_for_gauges() -> None:
    server, limit = Server(), Listener()
    server.answers = {"/metrics": (200, VLLM), "/health": (500, b"")}
    async with serving(server):
        endpoint = pooled(server.url, limit)
        endpoint.breaker.open(time.monotonic())
        async with watched(endpoint):
            await until(lambda: server.asked["/health"] >= 1)
            assert server.asked["/metrics"] == 0


async def test_one_server_that_hangs_does_not_keep_another_out_of_service() -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    listening = await asyncio.start_server(hang, "127.0.0.1", 0)
    hanging_url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    server = Server()
    server.answers["/health"] = (200, b"")
    async with serving(server), watched(pooled(hanging_url), pooled(server.url)) as pool:
        hanging, well = pool.endpoints
        fail(pool, hanging)
        fail(pool, well)
        await until(lambda: well.in_service, within_s=3)
        assert not hanging.in_service
    listening.close()
