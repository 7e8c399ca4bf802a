"""From an address to something that can be sampled, with nothing sent before it is needed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from rollouts.engine import Engine
from rollouts.errors import ConfigError
from rollouts.policy import Endpoint
from rollouts.policy.chat_completions import ChatCompletionsPolicy, served_models
from rollouts.policy.transport import AiohttpTransport
from rollouts.settings import EMBEDDED, CollectSettings

EMBEDDED_MODEL = "simulator"
"""Model name of the embedded policy."""
EMBEDDED_VERSION = "embedded-1"
"""Changes when the embedded policy would answer differently."""


def resolve_endpoint(
    url: str, model: str | None, version: str | None, api_key: SecretStr | None, key_name: str
) -> Endpoint:
    """Complete an address: check the URL, and ask the server for the model when none was named.

    Args:
        url: As the user gave it.
        model: As the user gave it.
        version: As the user gave it; the URL stands in for it.
        api_key: Key, already fetched from where it is kept.
        key_name: Where the key was looked for, for messages.

    Raises:
        ConfigError: The URL cannot be one, or the server lists more than one model.
        PolicyFatal: Nothing answers at the URL, or the key is refused.
    """
    if url == EMBEDDED:
        return Endpoint(url=EMBEDDED, model=model or EMBEDDED_MODEL, version=version or EMBEDDED_VERSION)
    api_key = _usable(api_key, key_name)
    url = url.rstrip("/")
    if not re.fullmatch(r"https?://[^\s/@]+(/[^\s?#@]*)?", url):
        raise ConfigError(
            "policy.url must look like http://host:8000/v1, without user, password or query. "
            f"Put a key into the environment variable {key_name} or a policy-server block"
        )
    if model is None:
        served = asyncio.run(served_models(url, api_key.get_secret_value() if api_key else None))
        if served is None or len(served) != 1:
            if served is None:
                raise ConfigError(
                    f"{url} keeps no list of models: does the URL end in /v1? If it is right, set policy.model"
                )
            listed = ", ".join(sorted(served)[:20]) or "none"
            raise ConfigError(f"policy.model must be set; served at {url}: {listed}")
        model = served[0]
    return Endpoint(url=url, model=model, version=version or url, api_key=api_key)


def _usable(api_key: SecretStr | None, key_name: str) -> SecretStr | None:
    """Strip the white space that keys in files end with; what cannot stand in a header is refused, unseen."""
    if api_key is None:
        return None
    key = api_key.get_secret_value().strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"the key in {key_name} holds characters that a key cannot have")
    return SecretStr(key) if key else None


@contextmanager
def open_engine(endpoint: Endpoint, settings: CollectSettings) -> Iterator[Engine]:
    """Start sampling at `endpoint`, starting the embedded policy first when that is what it names.

    Raises:
        PolicyFatal: The server cannot be sampled.
    """
    if endpoint.url == EMBEDDED:
        from rollouts.simulator.server import Simulator

        with Simulator(model=endpoint.model) as simulator, _engine(endpoint, simulator.url, settings) as engine:
            yield engine
        return
    with _engine(endpoint, endpoint.url, settings) as engine:
        yield engine


def _engine(endpoint: Endpoint, url: str, settings: CollectSettings) -> Engine:
    def make_policy() -> ChatCompletionsPolicy:
        key = endpoint.api_key.get_secret_value() if endpoint.api_key else None
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return ChatCompletionsPolicy(
            endpoint,
            AiohttpTransport(headers, settings.num_samples_in_parallel),
            url=url,
            sampling_id=settings.sampling_id(endpoint.model, endpoint.version),
            sampling_params=settings.sampling_params,
            seed=settings.seed,
            timeout_s=settings.request_timeout_s,
            max_attempts=settings.max_attempts,
        )

    return Engine(make_policy, settings.num_samples_in_parallel)
