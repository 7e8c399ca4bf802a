"""The policy: the model that is sampled, behind one or several servers.

One protocol; a file for each way of speaking to a server. A policy makes one request at a time and turns the answer into
rollouts. It raises what went wrong; whether, when and where a failed request is made again is the engine's matter:

    class Parrot:
        async def probe(self) -> None: ...
        async def sample(self, wanted: Wanted, tries: Tries) -> list[Rollout]: ...
        def failed(self, wanted: Wanted, tries: Tries, error: PolicyError) -> list[Rollout]: ...
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
from pydantic import SecretStr

from rollouts.errors import PolicyError
from rollouts.records import Prompt, Rollout


class Endpoint(msgspec.Struct, frozen=True):
    """Where a policy answers, with its key. Never stored, never logged."""

    url: str
    """Base URL ending in /v1, without credentials."""
    model: str
    """Model name to ask for."""
    version: str
    """What stands for the checkpoint in identities: the name the user gave, or the URLs."""
    api_key: SecretStr | None = None
    """Key for the Authorization header."""
    weight: float = 1.0
    """Share of the work among several endpoints, > 0."""


class Wanted(NamedTuple):
    """What one request asks for: one sample or several of one prompt."""

    prompt: Prompt
    repeats: tuple[int, ...]
    """Repeat indices, at least one."""


class Tries(NamedTuple):
    """What has been tried for the samples of a request, this time included."""

    number: int
    """Requests sent, from 1."""
    started_at: float
    """When the first was sent, UNIX seconds."""
    clock: float
    """The same moment on the monotonic clock (`time.perf_counter`)."""


class Policy(Protocol):
    """Samples one model at one endpoint. All methods run on the engine's event loop."""

    async def probe(self) -> None:
        """Ask the server whether it is there, takes the key and knows the model.

        Raises:
            PolicyFatal: It refuses the key or does not know the model; the message says what to change.
            PolicyUnavailable: Nothing answers.
        """
        ...

    async def sample(self, wanted: Wanted, tries: Tries) -> list[Rollout]:
        """Make one request.

        Returns:
            Rollouts of the first repeats of `wanted`, at least one; fewer than asked for when the server sent fewer.

        Raises:
            PolicyFatal: No request of this run can succeed.
            PolicyError: This one failed.
        """
        ...

    def failed(self, wanted: Wanted, tries: Tries, error: PolicyError) -> list[Rollout]:
        """Make the records of samples that are given up: one rollout with the error for each repeat."""
        ...
