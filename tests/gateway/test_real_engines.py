"""Real engines behind the gateway: the same text, the same counts, and what happens when they die or clients leave."""

import contextlib
import functools
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.engines.http import counters
from shared.launch import launch
from shared.launch.running import Engine
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.models import ModelChoice
from shared.processes import descendants
from tests.helpers.gateway import MANY, Gateway, running, write_keys
from tests.helpers.processes import eventually

pytestmark = pytest.mark.programs
CHAT = "/v1/chat/completions"
soon = functools.partial(eventually, limit_s=30)  # an engine looks at its connections between two steps


@pytest.fixture(scope="module")
def llamacpp(model: ModelChoice) -> Iterator[Engine]:
    """llama.cpp with one slot."""
    with launch("llamacpp", model, {"-np": 1, "-c": 2048, "-b": 64}, cores=1, quiet=True) as engine:
        yield engine


@pytest.fixture(scope="module")
def ollama(model: ModelChoice) -> Iterator[Engine]:
    with launch(
        "ollama", model, {"OLLAMA_NUM_PARALLEL": 1, "OLLAMA_CONTEXT_LENGTH": 1024}, cores=1, quiet=True
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def both(llamacpp: Engine, ollama: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("both")
    write_keys(folder / "keys.toml", {"llamacpp": {}, "ollama": {}})
    engines = {"llamacpp": llamacpp.url, "ollama": ollama.url}
    with running(folder, engines, seats=1, **{**MANY, "keys_file": str(folder / "keys.toml")}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def one_slot(llamacpp: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("one_slot"), {"llamacpp": llamacpp.url}, seats=1, **MANY) as gateway:
        yield gateway


def body(engine: Engine, max_tokens: int, **fields: Any) -> dict[str, Any]:
    question = chat(engine.model, CHECK_QUESTIONS[0])
    return {"model": engine.served_name, "messages": question, "max_tokens": max_tokens, "temperature": 0, **fields}


def said(answer: httpx.Response) -> tuple[str, Mapping[str, int]]:
    """The text of an answer, streamed or not, and the engine's usage."""
    assert answer.status_code == 200, answer.text
    if not answer.headers["content-type"].startswith("text/event-stream"):
        whole = answer.json()
        return whole["choices"][0]["message"]["content"], whole["usage"]
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: {")]
    chunks = [httpx.Response(200, text=line).json() for line in lines]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    return text, chunks[-1]["usage"]


@pytest.mark.parametrize("name", ["llamacpp", "ollama"])
def test_text_and_counts_are_the_engines_own(both: Gateway, name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    headers = {"authorization": f"Bearer sk-{name}"}
    names = ("prompt_tokens", "completion_tokens")
    counted = {"prompt_tokens": 0, "completion_tokens": 0}
    for max_tokens, stream in ((12, True), (8, False)):
        options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        asked = body(engine, max_tokens, **options)
        direct = said(httpx.post(engine.url + CHAT, json=asked, trust_env=False, timeout=60))
        through = said(both.client.post(CHAT, json=asked, headers=headers))
        assert through[0] == direct[0] != ""
        assert {n: through[1][n] for n in names} == {n: direct[1][n] for n in names}
        counted = {n: counted[n] + direct[1][n] for n in names}
    quiet = both.client.post(CHAT, json=body(engine, 5, stream=True), headers=headers)  # usage that nobody asked for
    assert '"usage":{' not in quiet.text
    counted = {"prompt_tokens": counted["prompt_tokens"] + direct[1]["prompt_tokens"],
               "completion_tokens": counted["completion_tokens"] + 5}  # fmt: skip
    assert both.count("prompt_tokens_total", key=name) == counted["prompt_tokens"]
    assert both.count("generation_tokens_total", key=name) == counted["completion_tokens"]
    assert both.count("answers_without_usage_total", engine=name) == 0


# A client leaves


class Client:
    """A client of its own connection, which can leave at any moment."""

    def __init__(self, gateway: Gateway, asked: Mapping[str, Any]) -> None:
        request = gateway.client.build_request("POST", CHAT, json=asked)
        self.socket = socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])), timeout=20)
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        self.socket.sendall(f"POST {CHAT} HTTP/1.1\r\n{head}\r\n".encode() + request.content)

    def first_token(self) -> None:
        heard = b""
        while b'"content":"' not in heard:
            heard += self.socket.recv(4096)

    def leave(self) -> None:
        self.socket.close()


def busy(engine: Engine) -> float:
    """Requests that the engine computes, and those that wait inside of it."""
    seen = counters(engine)
    return seen["running"] + seen["waiting"]


def idle(engine: Engine) -> bool:
    """Whether the engine becomes idle.

    While llama.cpp has no token to send, it looks at a connection only after a second in which no result of any kind
    came. An answer to /metrics is one, so this asks less often.
    """
    for _ in range(20):
        time.sleep(1.5)
        if busy(engine) == 0:
            return True
    return False


LONG = {"max_tokens": 1900, "ignore_eos": True}  # keeps the slot for many seconds


@pytest.mark.parametrize("moment", ["queued", "before the first token", "streaming", "without streaming"])
def test_the_engines_only_slot_is_free_after_a_client_has_left(
    one_slot: Gateway, llamacpp: Engine, moment: str
) -> None:
    before = counters(llamacpp)
    clients = [Client(one_slot, body(llamacpp, **LONG, stream=True))] if moment in ("queued", "streaming") else []
    for client in clients:
        client.first_token()
    if moment == "queued":
        clients.insert(0, Client(one_slot, body(llamacpp, **LONG, stream=True)))
        assert soon(lambda: one_slot.count("num_requests_waiting") == 1)
        clients.pop(0).leave()
        assert soon(lambda: one_slot.count("num_requests_waiting") == 0)
        assert busy(llamacpp) == 1, "the engine has only ever seen the other one"
    elif moment == "before the first token":
        long_prompt = [{"role": "user", "content": "wave " * 1500}]
        clients = [Client(one_slot, {**body(llamacpp, 100), "messages": long_prompt, "stream": True})]
    elif moment == "without streaming":
        clients = [Client(one_slot, body(llamacpp, **LONG))]
    assert soon(lambda: busy(llamacpp) == 1)
    clients.pop().leave()
    assert idle(llamacpp), "the engine has ended its work"
    after = counters(llamacpp)
    generated = after["generated_tokens"] - before["generated_tokens"]
    assert generated < (1 if moment == "before the first token" else 1900), "it did not come to its end"
    assert one_slot.count("num_requests_running") == 0
    assert said(one_slot.client.post(CHAT, json=body(llamacpp, 4)))[1]["completion_tokens"] == 4


# An engine dies


def kill(engine: Engine) -> None:
    """kill -9 of the engine itself, as the kernel does when memory runs out."""
    os.kill(descendants(engine.process.pid)[-1], signal.SIGKILL)


def test_a_killed_engine_ends_its_streams_and_is_taken_back_when_it_runs_again(
    model: ModelChoice, llamacpp: Engine, ollama: Engine, tmp_path: Path
) -> None:
    """The last test of llama.cpp's first process."""
    copied = httpx.post(  # so that both serve a model of the same name
        f"{ollama.url}/api/copy",
        json={"source": ollama.served_name, "destination": llamacpp.served_name},
        trust_env=False,
        timeout=60,
    )
    assert copied.status_code == 200
    engines = {
        "llamacpp": {"url": llamacpp.url, "models": [llamacpp.served_name]},
        "ollama": {"url": ollama.url, "models": [llamacpp.served_name, "spare"]},
    }
    settings = {"breaker_failures": 2, "breaker_s": 0.5, "health_every_s": 0.2, **MANY}
    with running(tmp_path, engines, seats=2, **settings) as gateway:
        asked = body(llamacpp, **LONG, stream=True)
        streams: list[httpx.Response] = []

        def read() -> None:
            streams.append(httpx.post(gateway.url + CHAT, json=asked, trust_env=False, timeout=60))

        reader = threading.Thread(target=read)
        reader.start()
        assert soon(lambda: counters(llamacpp)["running"] == 1)
        assert soon(lambda: gateway.count("time_to_first_token_seconds_count") == 1)
        kill(llamacpp)
        reader.join(20)
        assert [answer.status_code for answer in streams] == [200]
        assert "event: error\ndata: {" in streams[0].text
        assert "[DONE]" not in streams[0].text
        assert soon(lambda: gateway.count("engine_up", engine="llamacpp") == 0), "its breaker is open"
        for _ in range(3):
            assert said(gateway.client.post(CHAT, json=body(llamacpp, 4)))[0], "the other engine answers"
        assert gateway.count("num_requests_running", engine="llamacpp") == 0
        port = llamacpp.port
        llamacpp.end()
        with launch(
            "llamacpp", model, {"-np": 1, "-c": 2048, "-b": 64, "--seed": 7}, cores=1, port=port, quiet=True
        ) as again:
            assert soon(lambda: gateway.count("engine_up", engine="llamacpp") == 1), "the breaker closes again"
            before = counters(again)["generated_tokens"]
            assert said(gateway.client.post(CHAT, json=body(again, 4)))[1]["completion_tokens"] == 4
            assert counters(again)["generated_tokens"] > before, "it is asked again"
    with contextlib.suppress(httpx.HTTPError):
        httpx.request(
            "DELETE", f"{ollama.url}/api/delete", json={"model": llamacpp.served_name}, trust_env=False, timeout=20
        )
