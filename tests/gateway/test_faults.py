"""Every way in which engines and clients fail, over real sockets: what the other side of the gateway sees of it."""

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.helpers.gateway import HELLO, Gateway, running
from tests.helpers.truth import TruthEngine


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("other") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(truth: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One engine; limits so short that a test can wait for them; a breaker that never opens."""
    limits = {"first_byte_s": 1, "idle_s": 1, "header_s": 1, "breaker_failures": 10**6}
    with running(tmp_path_factory.mktemp("gateway"), {"truth": truth.url}, **limits) as gateway:
        yield gateway


def events(answer: httpx.Response) -> list[str]:
    return [event for event in answer.text.split("\n\n") if event.strip()]


def test_a_stream_is_passed_on_byte_for_byte(gateway: Gateway, truth: TruthEngine) -> None:
    asked = {**HELLO, "stream": True, "stream_options": {"include_usage": True}, "truth": {"fault": "split"}}
    direct = httpx.post(truth.url + "/v1/chat/completions", json=asked, trust_env=False).content
    through = gateway.client.post("/v1/chat/completions", json=asked).content
    number = direct.index(b"#")
    assert direct[:number] == through[:number]
    assert direct[number + 7 :] == through[number + 7 :]  # between them is the number of the answer


def test_the_usage_is_counted_and_left_out_where_it_was_not_asked_for(gateway: Gateway) -> None:
    before = gateway.count("generation_tokens_total")
    said = events(gateway.chat(stream=True))
    assert said[-1] == "data: [DONE]"
    assert not any('"usage"' in event for event in said)
    assert gateway.count("generation_tokens_total") - before == 8


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("500", 502, "engine_failed"), ("503", 502, "engine_failed"), ("429", 429, "engine_busy"),
     ("silent", 502, "engine_failed")],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_a_failure_before_the_first_byte_is_a_plain_error(
    gateway: Gateway, fault: str, status: int, code: str, stream: bool
) -> None:
    answer = gateway.chat(stream=stream, truth={"fault": fault, "ttft_s": 0.01})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 429)


def test_an_engine_that_answers_too_late_is_a_timeout(tmp_path: Path, other: TruthEngine) -> None:
    """A stream must begin within first_byte_s. An answer that isn't streamed may take total_s."""
    with running(tmp_path, {"one": other.url}, first_byte_s=0.3, total_s=1) as gateway:
        for stream in (True, False):
            began = time.monotonic()
            answer = gateway.chat(stream=stream, truth={"fault": "late_headers", "ttft_s": 9})
            assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")
            assert time.monotonic() - began >= (0.3 if stream else 1)


@pytest.mark.parametrize("fault", ["reset", "cut", "hang", "no_done"])
def test_a_stream_that_breaks_ends_with_an_error_and_without_done(gateway: Gateway, fault: str) -> None:
    said = events(gateway.chat(stream=True, truth={"fault": fault}))
    assert said[-1].startswith("event: error\ndata: {")
    assert json.loads(said[-1].partition("data: ")[2])["error"]["type"] == "server_error"
    assert "data: [DONE]" not in said


def test_openais_client_raises_for_a_broken_stream(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=gateway.url + "/v1", api_key="x", max_retries=0)
    stream = client.chat.completions.create(**HELLO, stream=True, extra_body={"truth": {"fault": "reset"}})
    with pytest.raises(openai.APIError):
        list(stream)


def test_another_engine_answers_where_the_first_died(tmp_path: Path, other: TruthEngine) -> None:
    with (
        TruthEngine.start(tmp_path / "log") as dying,
        running(tmp_path, {"one": dying.url, "two": other.url}, health_every_s=60) as gateway,
    ):
        assert gateway.chat().status_code == 200
        dying.stop()
        for stream in (True, False, True, False):
            assert gateway.chat(stream=stream).status_code == 200
        assert gateway.count("requests_retried_total", engine="one") == 3, "then its breaker is open"
        assert gateway.count("engine_up", engine="one") == 0


def test_a_client_that_leaves_frees_the_seat_at_every_moment(tmp_path: Path, other: TruthEngine) -> None:
    with running(tmp_path, {"one": other.url}, seats=1) as gateway:
        slow = {"ttft_s": 9, "gap_s": 0.2, "tokens": 100}

        async def leave(after_s: float, stream: bool) -> None:
            async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=after_s) as client:
                asked = {**HELLO, "stream": stream, "truth": slow}
                with contextlib.suppress(httpx.TimeoutException, TimeoutError):
                    async with asyncio.timeout(after_s), client.stream("POST", "/v1/chat/completions", json=asked) as s:
                        await s.aread()
                        raise AssertionError("the whole answer came")

        async def everyone() -> None:
            await asyncio.gather(leave(1.5, True), leave(1.5, False), leave(1.5, True))

        asyncio.run(everyone())
        end = time.monotonic() + 5
        while gateway.count("num_requests_running") and time.monotonic() < end:
            time.sleep(0.02)
        assert gateway.count("num_requests_running") == 0
        assert gateway.count("num_requests_waiting") == 0
        assert gateway.count("clients_left_total") == 3
        assert gateway.chat().status_code == 200, "the seat is free again"


def test_header_floods_and_slow_senders_are_refused(gateway: Gateway) -> None:
    port = int(gateway.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as flood:
        flood.sendall(
            b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"".join(b"a%d: %b\r\n" % (i, b"x" * 900) for i in range(60))
        )
        assert b" 431 " in flood.recv(4096)
    with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
        slow.sendall(b"GET /health HTTP/1.1\r\n")
        assert b" 408 " in slow.recv(4096)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(gateway: Gateway) -> None:
    answer = gateway.client.post("/v1/chat/completions", content=b"x" * 50_000_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_sigterm_lets_streams_end(tmp_path: Path, other: TruthEngine) -> None:
    with running(tmp_path, {"one": other.url}, seats=32) as gateway:
        answers: list[httpx.Response] = []
        plan = {"tokens": 20, "gap_s": 0.05}
        threads = [
            threading.Thread(target=lambda: answers.append(httpx.post(
                gateway.url + "/v1/chat/completions", json={**HELLO, "stream": True, "truth": plan}, trust_env=False)))
            for _ in range(20)
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        while gateway.count("num_requests_running") < 20:
            time.sleep(0.02)
        gateway.terminate()
        for thread in threads:
            thread.join(20)
        assert [events(answer)[-1] for answer in answers] == ["data: [DONE]"] * 20
