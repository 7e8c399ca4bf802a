"""The policy: the model that is sampled, behind a server.

One protocol; a file for each way of speaking to one. A policy turns a prompt and a repeat index into a rollout, owns
all retries of its requests, and stores a failure on the rollout. It raises only when no request of the run can
succeed:

    class Parrot:
        async def sample(self, prompt: Prompt, repeat_index: int) -> Rollout: ...
        async def probe(self) -> None: ...
        async def close(self) -> None: ...
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from pydantic import SecretStr

from rollouts.records import Prompt, Rollout


class Endpoint(msgspec.Struct, frozen=True):
    """Where a policy answers, with its key. Never stored, never logged."""

    url: str
    """Base URL ending in /v1, without credentials."""
    model: str
    """Model name to ask for."""
    version: str
    """What stands for the checkpoint in identities: the name the user gave, or the URL."""
    api_key: SecretStr | None = None
    """Key for the Authorization header."""


class Policy(Protocol):
    """Samples one model. All methods run on the engine's event loop."""

    async def probe(self) -> None:
        """Ask the server whether it is there, takes the key and knows the model.

        Raises:
            PolicyFatal: It does not; the message says what to change.
        """
        ...

    async def sample(self, prompt: Prompt, repeat_index: int) -> Rollout:
        """Sample one rollout; a failure after all attempts is a rollout with an error.

        Raises:
            PolicyFatal: No request of this run can succeed.
        """
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...
