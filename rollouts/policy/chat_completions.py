"""Sampling through `/v1/chat/completions`, the interface vLLM, SGLang, llama.cpp and hosted models share.

This client is the only owner of retries for a request: bounded attempts, exponential back-off with jitter, a server's
Retry-After obeyed. Optional fields that a server refuses by name (`return_token_ids`, `logprobs`, `seed`) are left out
from then on; the rollouts say so in their flags.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import msgspec
import tenacity

from rollouts.errors import ErrorRecord, PolicyError, PolicyFatal, PolicyUnavailable, RequestRefused
from rollouts.identity import derived_seed, rollout_id
from rollouts.policy import Endpoint, wire
from rollouts.policy.failures import failure
from rollouts.policy.transport import Transport
from rollouts.records import ModelCall, Prompt, Rollout, StopReason

logger = logging.getLogger(__name__)

OPTIONAL_FIELDS = ("return_token_ids", "logprobs", "seed")
"""Request fields that a server may refuse without the rollout being lost."""

_encoder = msgspec.json.Encoder()
_exponential = tenacity.wait_random_exponential(multiplier=0.5, min=0.1, max=60)


class _Answer(NamedTuple):
    completion: wire.ChatCompletion
    seed: int | None
    started_at: float
    latency_s: float


class ChatCompletionsPolicy:
    """Samples one model at one endpoint.

    Args:
        endpoint: Name of the address for records, model and key.
        transport: Sends the requests; closed with the policy.
        url: Where requests go; the endpoint's own URL, except for the embedded policy.
        sampling_id: Identity of the way of sampling, for rollout ids.
        sampling_params: Merges a prompt's own sampling settings with the run's.
        seed: Seed of the run, from which every rollout's is derived; `None` sends none.
        timeout_s: Seconds for one request, sending to last byte.
        max_attempts: Requests for one rollout.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: Transport,
        *,
        url: str,
        sampling_id: str,
        sampling_params: Callable[[dict[str, Any]], dict[str, Any]],
        seed: int | None,
        timeout_s: float,
        max_attempts: int,
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._url = url
        self._sampling_id = sampling_id
        self._sampling_params = sampling_params
        self._seed = seed
        self._timeout_s = timeout_s
        self._max_attempts = max_attempts
        self._refused_fields: set[str] = set()

    @property
    def _secret(self) -> str | None:
        return self._endpoint.api_key.get_secret_value() if self._endpoint.api_key else None

    async def probe(self) -> None:
        """See `Policy.probe`."""
        served = await served_models(self._url, self._secret)
        if served is not None and self._endpoint.model not in served:
            raise PolicyFatal(
                f"model {self._endpoint.model!r} is not served at {self._url}; "
                f"served there: {', '.join(sorted(served)[:20]) or 'nothing'}",
                status=404,
            )

    async def sample(self, prompt: Prompt, repeat_index: int) -> Rollout:
        """See `Policy.sample`."""
        seed = None if self._seed is None else derived_seed(self._seed, prompt.prompt_id, repeat_index)
        sampling = self._sampling_params(prompt.sampling)
        body = wire.request_body(self._endpoint.model, prompt, sampling, seed)
        started_at, clock = time.time(), time.perf_counter()
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, PolicyError) and error.retryable),
            stop=tenacity.stop_after_attempt(self._max_attempts),
            wait=_wait_s,
            reraise=True,
        )
        outcome: dict[str, Any]
        try:
            answer = await retrying(self._answer, body)
        except PolicyFatal:
            raise
        except PolicyError as error:
            outcome = {
                "messages": prompt.messages,
                "stop_reason": StopReason.ERROR,
                "error": ErrorRecord.of(error),
                "seed": seed,
            }
        else:
            outcome = self._completed(prompt, answer, retrying.statistics["attempt_number"])
        return Rollout(
            rollout_id=rollout_id(self._sampling_id, prompt.prompt_id, repeat_index),
            prompt_id=prompt.prompt_id,
            repeat_index=repeat_index,
            num_prompt_messages=len(prompt.messages),
            sampling=sampling,
            latency_s=time.perf_counter() - clock,
            attempts=retrying.statistics["attempt_number"],
            model_asked=self._endpoint.model,
            endpoint=self._endpoint.url,
            policy_version=self._endpoint.version,
            started_at=started_at,
            ended_at=time.time(),
            **outcome,
        )

    async def close(self) -> None:
        """See `Policy.close`."""
        await self._transport.close()

    async def _answer(self, body: dict[str, Any]) -> _Answer:
        """Send one request and time it."""
        started_at, clock = time.time(), time.perf_counter()
        completion, seed = await self._send(body)
        return _Answer(completion, seed, started_at, time.perf_counter() - clock)

    async def _send(self, body: dict[str, Any]) -> tuple[wire.ChatCompletion, int | None]:
        """Send one request, leaving out what the server refuses; returns the answer and the seed that was sent."""
        sent = {name: value for name, value in body.items() if name not in self._refused_fields}
        try:
            return await self._post(sent), sent.get("seed")
        except RequestRefused as error:
            refused = {name for name in OPTIONAL_FIELDS if name in str(error)} & sent.keys()
            if not refused:
                raise
            sent = {name: value for name, value in sent.items() if name not in refused}
        completion = await self._post(sent)  # only when this succeeds were those fields the reason
        logger.warning("The server refuses %s; sampling goes on without.", ", ".join(sorted(refused)))
        self._refused_fields |= refused
        return completion, sent.get("seed")

    async def _post(self, sent: dict[str, Any]) -> wire.ChatCompletion:
        """Send one request as it stands."""
        reply = await self._transport.post(f"{self._url}/chat/completions", _encoder.encode(sent), self._timeout_s)
        if reply.status == 200:
            completion = wire.decode(reply.body, self._secret)
            status = wire.error_status(completion)
            if status is None and wire.stop_reason(completion.choices[0]) is StopReason.ABORT:
                raise PolicyUnavailable(
                    f"the server gave the completion up (finish_reason {completion.choices[0].finish_reason!r})",
                    status=200,
                )
            if status is None:
                return completion
        else:
            status = reply.status
        raise failure(status, reply.headers, reply.body, self._secret)

    def _completed(self, prompt: Prompt, answer: _Answer, attempts: int) -> dict[str, Any]:
        """Fields of a rollout that got its completion."""
        completion = answer.completion
        choice = completion.choices[0]
        message = wire.assistant_message(choice)
        tokens = wire.sampled_tokens(completion, choice)
        usage = wire.usage(completion)
        flags = list(tokens.flags)
        if not message["content"] and "tool_calls" not in message:
            flags.append("empty")
        if completion.model is not None and completion.model != self._endpoint.model:
            flags.append("model_differs")
        if usage.completion_tokens is None:
            flags.append("usage_missing")
        call = ModelCall(
            message_index=len(prompt.messages),
            prompt_token_ids=tokens.prompt_token_ids,
            generation_token_ids=tokens.generation_token_ids,
            generation_log_probs=tokens.generation_log_probs,
            finish_reason=choice.finish_reason,
            response_id=completion.id,
            model=completion.model,
            usage=usage,
            started_at=answer.started_at,
            latency_s=answer.latency_s,
            attempts=attempts,
        )
        return {
            "messages": [*prompt.messages, message],
            "seed": answer.seed,
            "stop_reason": wire.stop_reason(choice),
            "calls": [call],
            "usage": usage,
            "model_answered": completion.model,
            "flags": sorted(flags),
        }


async def served_models(url: str, secret: str | None) -> list[str] | None:
    """Ask a server which models it serves.

    Returns:
        Model names, or `None` when the server answers but keeps no such list.

    Raises:
        PolicyFatal: Nothing answers, or the key is refused.
    """
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    try:
        async with httpx.AsyncClient(timeout=30, trust_env=False, headers=headers) as client:
            response = await client.get(f"{url}/models")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        # Not chained: the client's error may hold the headers of the request.
        raise PolicyFatal(f"no policy server answers at {url} ({type(error).__name__})") from None
    if response.status_code in (401, 403) or 300 <= response.status_code < 400:
        raise failure(response.status_code, response.headers, response.content, secret)
    if response.status_code != 200:
        return None
    try:
        return [str(model["id"]) for model in response.json()["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _wait_s(state: tenacity.RetryCallState) -> float:
    """Seconds before the next attempt: exponential with jitter, and never sooner than the server asked."""
    outcome = state.outcome
    error = outcome.exception() if outcome else None
    asked = error.retry_after_s if isinstance(error, PolicyError) else None
    backoff = _exponential(state)
    return backoff if asked is None else asked + min(backoff, 1.0)
