import asyncio
import json
import math
import threading
import time
import warnings

import httpx
import pytest

from rollouts.errors import ConfigError
from rollouts.simulator import BUNDLED_PROMPTS, Script, Simulator
from rollouts.simulator.script import ConstantLatency
from rollouts.simulator.tokens import IM_END, decode, render_chat

QUESTION = [{"role": "user", "content": "What is 7 + 22?"}]


def ask(simulator: Simulator, headers: dict | None = None, **body: object) -> httpx.Response:
    return httpx.post(
        f"{simulator.url}/chat/completions", json={"messages": QUESTION, **body}, headers=headers, timeout=10
    )


def wait_for_flights(simulator: Simulator, count: int) -> None:
    until = time.monotonic() + 10
    while simulator.requests.in_flight != count:
        assert time.monotonic() < until, f"{simulator.requests.in_flight} in flight, expected {count}"
        time.sleep(0.01)


def error_of(response: httpx.Response) -> dict:
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.json()["error"]


def test_an_answer_has_the_shape_of_vllm() -> None:
    with Simulator() as simulator:
        body = ask(
            simulator, model="simulator", seed=1, logprobs=True, top_logprobs=3, return_token_ids=True, temperature=0.8
        ).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "simulator"
    assert body["id"].startswith("chatcmpl-")
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["stop_reason"] is None
    assert choice["token_ids"][-1] == IM_END
    assert decode(choice["token_ids"], skip_special_tokens=True) == choice["message"]["content"]
    assert body["prompt_token_ids"] == render_chat(QUESTION)
    assert body["usage"]["prompt_tokens"] == len(body["prompt_token_ids"])
    assert body["usage"]["completion_tokens"] == len(choice["token_ids"])
    entries = choice["logprobs"]["content"]
    assert len(entries) == len(choice["token_ids"])
    for entry, token in zip(entries, choice["token_ids"], strict=True):
        assert entry["logprob"] <= 0
        assert entry["bytes"] == ([token] if token < 256 else list(b"<|im_end|>"))
        assert 1 <= len(entry["top_logprobs"]) <= 3
        assert math.fsum(math.exp(option["logprob"]) for option in entry["top_logprobs"]) <= 1 + 1e-9


def test_token_ids_and_log_probabilities_come_only_when_asked_for() -> None:
    with Simulator() as simulator:
        body = ask(simulator).json()
    assert body["prompt_token_ids"] is None
    assert body["choices"][0]["token_ids"] is None
    assert body["choices"][0]["logprobs"] is None


def test_several_choices_are_independent_and_the_first_is_the_one_of_a_single_request() -> None:
    with Simulator() as simulator:
        several = ask(simulator, n=8, seed=11).json()
        single = ask(simulator, seed=11).json()
        assert simulator.requests.generated == 9
    texts = [choice["message"]["content"] for choice in several["choices"]]
    assert [choice["index"] for choice in several["choices"]] == list(range(8))
    assert len(set(texts)) > 1
    assert texts[0] == single["choices"][0]["message"]["content"]


def test_the_token_limit_cuts_and_says_so() -> None:
    with Simulator() as simulator:
        for name in ("max_tokens", "max_completion_tokens"):
            body = ask(simulator, **{name: 4}).json()
            assert body["choices"][0]["finish_reason"] == "length"
            assert body["usage"]["completion_tokens"] == 4


def test_the_bundled_prompts_are_all_answered() -> None:
    rows = [json.loads(line) for line in BUNDLED_PROMPTS.read_text(encoding="utf-8").splitlines()]
    with Simulator() as simulator, httpx.Client() as client:
        for row in rows[:60]:
            answer = client.post(f"{simulator.url}/chat/completions", json={"messages": row["messages"], "seed": 1})
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "gpt"}, 404, "The model `gpt` does not exist."),
        ({"messages": []}, 400, "length >= 1"),
        ({"messages": "hi"}, 400, "array"),
        ({"messages": [{"content": "hi"}]}, 400, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text only"),
        ({"temperature": -1}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"stream": True}, 400, "Streaming"),
        ({"stop": ["\n"]}, 400, "Stop sequences"),
        ({"top_logprobs": 2}, 400, "logprobs"),
        ({"temperature": 0, "n": 2}, 400, "greedy"),
    ],
)
def test_a_request_with_a_mistake_gets_an_error_that_names_it(body: dict, status: int, words: str) -> None:
    with Simulator() as simulator:
        answer = ask(simulator, **body)
        assert answer.status_code == status
        assert words in error_of(answer)["message"]
        assert simulator.requests.answered == {"/v1/chat/completions": {status: 1}}


def test_a_prompt_that_does_not_fit_is_refused_in_the_words_of_vllm() -> None:
    with Simulator(max_model_len=100) as simulator:
        prompt_tokens = len(render_chat(QUESTION))
        assert ask(simulator, max_tokens=100 - prompt_tokens).status_code == 200
        refused = ask(simulator, max_tokens=101 - prompt_tokens)
        long = ask(simulator, messages=[{"role": "user", "content": "x" * 500}])
    assert refused.status_code == long.status_code == 400
    assert f"You passed {prompt_tokens} input tokens" in error_of(refused)["message"]
    assert "context length is only 100 tokens" in error_of(long)["message"]
    assert error_of(long)["type"] == "BadRequestError"


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"messages": [{"role": "user", "content": "\\ud800"}']
)
def test_a_body_that_is_no_json_object_is_refused(content: bytes) -> None:
    with Simulator() as simulator:
        answer = httpx.post(f"{simulator.url}/chat/completions", content=content)
    assert answer.status_code == 400
    assert error_of(answer)["code"] == 400


def test_a_key_is_needed_where_one_is_set_and_is_never_repeated() -> None:
    with Simulator(api_key="correct") as simulator:
        assert ask(simulator, headers={"Authorization": "Bearer correct"}).status_code == 200
        wrong = ask(simulator, headers={"Authorization": "Bearer sk-secret"})
        assert ask(simulator, headers={"Authorization": b"Bearer \xff\xfe"}).status_code == 401
        assert httpx.get(f"{simulator.url}/models").status_code == 401
        assert httpx.get(simulator.url.removesuffix("/v1") + "/health").status_code == 200
    assert wrong.status_code == 401
    assert error_of(wrong)["code"] == "invalid_api_key"
    assert "secret" not in wrong.text
    assert "correct" not in wrong.text.replace("Incorrect", "")


def test_models_health_and_metrics_answer_like_vllm() -> None:
    with Simulator(model='my "model"', max_model_len=512) as simulator:
        root = simulator.url.removesuffix("/v1")
        (card,) = httpx.get(f"{simulator.url}/models").json()["data"]
        health, metrics = httpx.get(f"{root}/health"), httpx.get(f"{root}/metrics")
    assert (card["id"], card["max_model_len"]) == ('my "model"', 512)
    assert (health.status_code, health.text) == (200, "")
    assert 'vllm:num_requests_running{engine="0",model_name="my \\"model\\""} 0.0' in metrics.text
    assert "vllm:num_requests_waiting" in metrics.text


def test_unknown_paths_and_methods_are_answered_in_json() -> None:
    with Simulator() as simulator:
        assert error_of(httpx.get(f"{simulator.url}/nothing"))["code"] == 404
        wrong_method = httpx.get(f"{simulator.url}/chat/completions")
        assert error_of(wrong_method)["code"] == 405
        assert wrong_method.headers["Allow"] == "POST"


async def test_requests_in_flight_are_counted_and_seen_in_the_metrics() -> None:
    with Simulator(script=Script(latency=ConstantLatency(seconds=0.4))) as simulator:
        root = simulator.url.removesuffix("/v1")
        async with httpx.AsyncClient() as client:
            asked = [
                asyncio.create_task(client.post(f"{simulator.url}/chat/completions", json={"messages": QUESTION}))
                for _ in range(6)
            ]
            await asyncio.to_thread(wait_for_flights, simulator, 6)
            assert "} 6.0" in (await client.get(f"{root}/metrics")).text
            answers = await asyncio.gather(*asked)
            counts = (await client.get(f"{root}/simulator/requests")).json()
    assert {answer.status_code for answer in answers} == {200}
    assert simulator.completions == 6
    assert simulator.requests.peak_in_flight == counts["peak_in_flight"] == 6
    assert simulator.requests.in_flight == counts["in_flight"] == 0
    assert counts["answered"]["/v1/chat/completions"] == {"200": 6}


async def test_more_requests_than_the_limit_are_turned_away() -> None:
    script = Script(latency=ConstantLatency(seconds=0.3), max_concurrent=2, retry_after_s=1.5)
    with Simulator(script=script) as simulator:
        async with httpx.AsyncClient() as client:
            answers = await asyncio.gather(
                *(client.post(f"{simulator.url}/chat/completions", json={"messages": QUESTION}) for _ in range(5))
            )
    assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
    assert {answer.headers.get("Retry-After") for answer in answers if answer.status_code == 429} == {"1.5"}
    assert simulator.requests.peak_in_flight == 2


def test_a_client_that_leaves_frees_its_place() -> None:
    with Simulator(script=Script(latency=ConstantLatency(seconds=30))) as simulator:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{simulator.url}/chat/completions", json={"messages": QUESTION}, timeout=0.2)
        wait_for_flights(simulator, 0)
        assert simulator.requests.answered == {"/v1/chat/completions": {0: 1}}


def test_stopping_answers_who_waits_and_leaves_nothing_behind() -> None:
    before = threading.active_count()
    answers: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Simulator(script=Script(latency=ConstantLatency(seconds=60))) as simulator:
            waiting = threading.Thread(target=lambda: answers.append(ask(simulator).status_code))
            waiting.start()
            wait_for_flights(simulator, 1)
            started = time.monotonic()
        assert time.monotonic() - started < 3
    waiting.join()
    assert answers == [503]
    assert threading.active_count() == before
    with pytest.raises(httpx.ConnectError):
        ask(simulator)


def test_a_port_that_is_taken_is_named_and_a_freed_one_can_be_used_again() -> None:
    with Simulator() as first, pytest.raises(ConfigError, match=str(first.port)), Simulator(port=first.port):
        pass
    with Simulator(port=first.port) as second:
        assert ask(second).status_code == 200


def test_a_simulator_serves_once() -> None:
    simulator = Simulator()
    with pytest.raises(ConfigError, match="not started"):
        _ = simulator.requests
    with simulator:
        pass
    with pytest.raises(ConfigError, match="once"), simulator:
        pass
