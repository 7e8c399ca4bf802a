"""The seam to the network: bytes out, status, headers and bytes back, within a deadline and a size.

Everything that is not an answer becomes `PolicyUnavailable`. No redirect is followed (it would carry prompt and key to
another host), no cookie is kept, no proxy is taken from the environment, and a compressed body is counted as it
unpacks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import aiohttp

from rollouts.errors import MalformedCompletion, PolicyUnavailable

MAX_BODY_BYTES = 64 << 20
"""Largest answer read, after unpacking: 64 MiB, a hundred times the largest honest one (guess)."""


class Reply(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes


class Transport(Protocol):
    """Sends requests on the event loop it was made on."""

    async def post(self, url: str, body: bytes, timeout_s: float) -> Reply:
        """Send `body` as JSON.

        Raises:
            PolicyUnavailable: No whole answer within `timeout_s` seconds, counted from sending to the last byte.
            MalformedCompletion: The body is larger than `MAX_BODY_BYTES` or cannot be unpacked.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class AiohttpTransport:
    """Transport over one aiohttp session, shared by all requests of an engine.

    Args:
        headers: Sent with every request, the key among them.
        connections: Most connections open at once.
    """

    def __init__(self, headers: Mapping[str, str], connections: int) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ttl_dns_cache=60, keepalive_timeout=30),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json", "Accept": "application/json", **headers},
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=30),
            trust_env=False,
        )

    async def post(self, url: str, body: bytes, timeout_s: float) -> Reply:
        """See `Transport.post`."""
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.post(url, data=body, allow_redirects=False) as response,
            ):
                return Reply(response.status, response.headers, await _capped(response))
        except TimeoutError as error:
            raise PolicyUnavailable(f"no whole answer within {timeout_s:g} s") from error
        # None of these is chained: the client's errors may hold the headers of the request.
        except (aiohttp.ContentTypeError, aiohttp.ClientPayloadError):
            raise PolicyUnavailable("the answer was cut off or could not be unpacked") from None
        except aiohttp.ClientConnectorError as error:
            raise PolicyUnavailable(f"cannot connect: {error.os_error.strerror or 'no route'}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise PolicyUnavailable(f"the connection broke ({type(error).__name__})") from None

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._session.close()


async def _capped(response: aiohttp.ClientResponse) -> bytes:
    """Read the body, giving up as soon as it unpacks to more than the cap."""
    if (response.content_length or 0) > MAX_BODY_BYTES:
        raise MalformedCompletion(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB", status=response.status)
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            response.close()
            raise MalformedCompletion(f"the answer is larger than {MAX_BODY_BYTES >> 20} MiB", status=response.status)
        chunks.append(chunk)
    return b"".join(chunks)
