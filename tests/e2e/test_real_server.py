"""The commands against a real model server, through a proxy that writes down every answer.

    make e2e POLICY_URL=http://127.0.0.1:8000/v1 POLICY_MODEL=my-model

With E2E_PROMPTS, a prompt file, and E2E_FLAGS, flags for it, the user's own prompts are sampled besides the bundled
additions.
"""

import asyncio
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import aiohttp
import pandas as pd
import pytest
from aiohttp import web

from rollouts.simulator import BUNDLED_PROMPTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

URL = os.environ.get("POLICY_URL", "")
MODEL = os.environ.get("POLICY_MODEL", "")


class RecordingProxy:
    """Passes everything on to the real server and keeps the chat completions it answered."""

    def __init__(self, target: str) -> None:
        self.answers: list[dict] = []
        self.requests = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True).start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._session = aiohttp.ClientSession()
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/v1/{path:.*}", self._pass_on)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        self._ready.set()
        await asyncio.Event().wait()

    async def _pass_on(self, request: web.Request) -> web.Response:
        path = request.match_info["path"]
        self.requests += 1
        url = f"{self._target}/{path}"
        async with self._session.request(
            request.method, url, data=await request.read(), headers={"Content-Type": "application/json"}
        ) as reply:
            body = await reply.read()
        if path == "chat/completions" and reply.status == 200:
            self.answers.append(json.loads(body))
        return web.Response(body=body, status=reply.status, content_type="application/json")


@pytest.fixture(scope="module")
def proxy() -> RecordingProxy:
    if not URL:
        pytest.skip("POLICY_URL is not set")
    return RecordingProxy(URL)


def collect(objective: str, proxy: RecordingProxy, *flags: str) -> tuple[dict, Path, float]:
    """Run a command; returns the manifest, the run's folder and the seconds it took."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    call = [str(Path(sys.executable).parent / f"collect-{objective}"), "--policy.url", proxy.url, *flags]
    call += ["--policy.model", MODEL, "--policy.version", "e2e"]
    started = time.monotonic()
    done = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip().splitlines()[-1].removeprefix("dataset").strip())
    return json.loads((folder / "manifest.json").read_text()), folder, time.monotonic() - started


def stored_rollouts(output: Path, manifest: dict) -> pd.DataFrame:
    return pd.concat([pd.read_parquet(output / shard["rollouts"]) for shard in manifest["shards"]])


@pytest.fixture(scope="module")
def additions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [line for line in BUNDLED_PROMPTS.read_text().splitlines() if '"addition"' in line]
    path = tmp_path_factory.mktemp("prompts") / "additions.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("objective", ["rl", "sft", "dpo"])
def test_additions_are_collected_with_the_ids_that_the_server_sent(
    objective: str, proxy: RecordingProxy, additions: Path, tmp_path: Path
) -> None:
    flags = ["--input", str(additions), "--output", str(tmp_path)]
    proxy.answers.clear()
    manifest, _, _ = collect(objective, proxy, *flags)
    rollouts = stored_rollouts(tmp_path, manifest)
    assert manifest["counts"]["rollouts_completed"] == len(rollouts) == len(proxy.answers)
    sent = {answer["id"]: answer for answer in proxy.answers}
    for calls in rollouts["calls"]:
        (call,) = calls
        answer = sent.pop(call["response_id"])
        choice = answer["choices"][0]
        assert list(call["prompt_token_ids"]) == answer["prompt_token_ids"]
        assert list(call["generation_token_ids"]) == choice["token_ids"]
        assert list(call["generation_log_probs"]) == [entry["logprob"] for entry in choice["logprobs"]["content"]]
    assert not sent
    before = proxy.requests
    again, _, seconds = collect(objective, proxy, *flags)
    assert proxy.requests == before, "the same command again asked the server"
    assert again == manifest
    print(f"{objective}: {len(rollouts)} rollouts, {manifest['counts']}; again: 0 requests, {seconds:.1f} s")


@pytest.mark.parametrize("objective", ["rl", "sft", "dpo"])
def test_prompts_of_the_users_own(objective: str, proxy: RecordingProxy, tmp_path: Path) -> None:
    if "E2E_PROMPTS" not in os.environ:
        pytest.skip("E2E_PROMPTS is not set")
    flags = [
        "--input",
        os.environ["E2E_PROMPTS"],
        "--output",
        str(tmp_path),
        *shlex.split(os.environ.get("E2E_FLAGS", "")),
    ]
    flags += {"rl": ["--no-drop-zero-variance"], "sft": ["--min-reward", "0"], "dpo": []}[objective]
    manifest, folder, _ = collect(objective, proxy, *flags)
    assert (folder / "report.html").stat().st_size > 10_000
    before, bytes_before = proxy.requests, (folder / "manifest.json").read_bytes()
    _, again, seconds = collect(objective, proxy, *flags)
    assert proxy.requests == before
    assert (again / "manifest.json").read_bytes() == bytes_before
    print(f"{objective}: {manifest['counts']}; again: 0 requests, {seconds:.1f} s")
