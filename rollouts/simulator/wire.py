"""The OpenAI chat-completions protocol as vLLM speaks it: what a request may hold, what answers and errors look like.

Shapes follow vLLM's `entrypoints/openai/chat_completion/protocol.py` and `renderers/params.py` (August 2026). Fields
that would change the text and are not understood here (`stream`, `stop`) are refused; any other unknown field is
ignored, as vLLM does.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec

from rollouts.simulator.language_model import Completion
from rollouts.simulator.tokens import SPECIAL_TOKENS

MAX_CHOICES = 1024
MAX_TOP_LOGPROBS = 20
"""vLLM's default of `--max-logprobs`."""


class WireError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self, status: int, message: str, *, type_: str, param: str | None = None, code: int | str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, type_=type_, param=param, code=code)


def error_body(
    status: int, message: str, *, type_: str, param: str | None = None, code: int | str | None = None
) -> dict[str, Any]:
    """Return an error object; `code` is the status where nothing else is given, as in vLLM."""
    return {
        "error": {"message": message, "type": type_, "param": param, "code": status if code is None else code},
    }


def bad_request(message: str, param: str | None = None) -> WireError:
    """Return the error for a request that can be read and not be served."""
    return WireError(HTTPStatus.BAD_REQUEST, message, type_="BadRequestError", param=param)


class ChatRequest(msgspec.Struct, frozen=True):
    """Body of a chat completion request. `None` stands for the default, as in vLLM."""

    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    model: str | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHOICES)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    return_token_ids: bool | None = None
    stream: bool | None = None
    stop: str | list[str] | None = None

    @property
    def choices(self) -> int:
        """Completions asked for."""
        return 1 if self.n is None else self.n

    @property
    def heat(self) -> float:
        """Sampling temperature."""
        return 1.0 if self.temperature is None else self.temperature

    @property
    def asked_tokens(self) -> int | None:
        """Longest completion asked for, in tokens; `None`: whatever fits. The newer name wins."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens


_decoder = msgspec.json.Decoder(ChatRequest)


def read_request(body: bytes) -> ChatRequest:
    """Read the body of a chat completion request.

    Raises:
        WireError: It is not JSON, a field is wrong, or it asks for something that is not simulated. Status 400.
    """
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(HTTPStatus.BAD_REQUEST, str(error), type_="Bad Request") from error
    if request.stream:
        raise bad_request("Streaming is not simulated; send the request with stream=false.", "stream")
    if request.stop:
        raise bad_request("Stop sequences are not simulated; send the request without 'stop'.", "stop")
    if request.top_logprobs and not request.logprobs:
        raise bad_request("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    if request.heat == 0 and request.choices > 1:
        # vLLM refuses this too: greedy decoding would give n equal texts.
        raise bad_request(f"n must be 1 when using greedy sampling, got {request.choices}.", "n")
    return request


def token_budget(request: ChatRequest, prompt_tokens: int, max_model_len: int) -> int:
    """Return how many tokens the completion may have, >= 1.

    Raises:
        WireError: Prompt and completion do not fit the context window. Status 400, in the words of vLLM.
    """
    asked = request.asked_tokens or 0
    if prompt_tokens + max(asked, 1) > max_model_len:
        raise bad_request(
            f"You passed {prompt_tokens} input tokens and requested {asked} output tokens. However, the model's "
            f"context length is only {max_model_len} tokens, resulting in a maximum input length of "
            f"{max_model_len - asked} tokens. Please reduce the length of the input prompt.",
            "input_tokens",
        )
    return asked or max_model_len - prompt_tokens


def _token_entry(token: int) -> dict[str, Any]:
    text = SPECIAL_TOKENS.get(token) or bytes([token]).decode("utf-8", errors="replace")
    # OpenAI defines `bytes` as the UTF-8 of a token, so that a character cut into several can be put together again.
    return {"token": text, "bytes": [token] if token < 256 else list(text.encode())}


_ENTRIES = [_token_entry(token) for token in range(256 + len(SPECIAL_TOKENS))]


def _logprobs(completion: Completion, top: int) -> dict[str, Any]:
    content = [
        {
            **_ENTRIES[token],
            "logprob": log_prob,
            "top_logprobs": [{**_ENTRIES[other], "logprob": value} for other, value in options[:top]] if top else [],
        }
        for token, log_prob, options in zip(
            completion.token_ids, completion.log_probs, completion.alternatives, strict=True
        )
    ]
    return {"content": content}


def _choice(index: int, completion: Completion, request: ChatRequest) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": completion.text, "refusal": None, "reasoning": None},
        "logprobs": _logprobs(completion, request.top_logprobs or 0) if request.logprobs else None,
        "finish_reason": completion.finish_reason,
        # `None` also when the end token ended it: vLLM names only stop strings and extra stop tokens here.
        "stop_reason": None,
        "token_ids": completion.token_ids if request.return_token_ids else None,
    }


def chat_response(
    request: ChatRequest,
    completions: list[Completion],
    prompt_ids: list[int],
    *,
    response_id: str,
    model: str,
    created: int,
) -> dict[str, Any]:
    """Return the body of an answered chat completion request.

    Args:
        request: What was asked; decides which of the optional parts are there.
        completions: One for each choice, in order.
        prompt_ids: Token ids of the rendered conversation.
        response_id: Id of the answer.
        model: Name of the model that answers.
        created: UNIX seconds.
    """
    generated = sum(len(completion.token_ids) for completion in completions)
    return {
        "id": response_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [_choice(index, completion, request) for index, completion in enumerate(completions)],
        "service_tier": None,
        "system_fingerprint": None,
        "usage": {
            "prompt_tokens": len(prompt_ids),
            "total_tokens": len(prompt_ids) + generated,
            "completion_tokens": generated,
            "prompt_tokens_details": None,
        },
        "prompt_logprobs": None,
        "prompt_token_ids": prompt_ids if request.return_token_ids else None,
        "kv_transfer_params": None,
    }
