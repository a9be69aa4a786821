"""Engines that fail in every way: what a client sees of it, and how often each engine was asked."""

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.processes import free_port
from tests.helpers.gateway import HELLO, MANY, SHORT, Gateway, running
from tests.helpers.processes import eventually
from tests.helpers.truth import TruthEngine

CHUNK = 'data: {"choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
DONE = "data: [DONE]\n\n"
ERROR = 'data: {"error": {"message": "the KV cache is full", "code": 500}}\n\n'
ANSWER = '{"choices": [{"message": {"content": "naïve"}}], "usage": {"prompt_tokens": 11, "completion_tokens": 4}}'
JSON = {"kind": "application/json", "framing": "exact", "raw": [ANSWER.encode().decode("latin-1")], "ttft_s": 0}

# Everything that can go wrong before an engine has sent a byte of its answer.
BEFORE_THE_FIRST_BYTE: dict[str, dict[str, Any]] = {
    "status 500": {"fault": "500"},
    "status 429": {"fault": "429"},
    "ends without an answer": {"fault": "silent", "ttft_s": 0},
    "hangs before its headers": {"fault": "late_headers", "ttft_s": 60},
    "hangs after its headers": {"first": "none", "fault": "hang", "at": 0},
    "resets after its headers": {"first": "none", "fault": "reset", "at": 0},
    "event: error with status 200": {"raw": ["event: error\n" + ERROR], "ttft_s": 0},
    "an error as data with status 200": {"raw": [ERROR], "ttft_s": 0},
}


def asked_of(engine: TruthEngine) -> int:
    return len(engine.records())


def events(answer: httpx.Response) -> list[str]:
    return [event for event in answer.text.split("\n\n") if event.strip()]


def error_at_the_end(answer: httpx.Response) -> dict[str, Any]:
    """The error with which a broken stream ends, after which a client can't take it for a whole one."""
    last = events(answer)[-1]
    assert answer.status_code == 200
    assert last.startswith("event: error\ndata: {"), last
    assert not any(event.startswith("data: [DONE]") for event in events(answer))
    error: dict[str, Any] = json.loads(last.partition("data: ")[2])["error"]
    return error


@pytest.mark.parametrize(
    ("fault", "stream"),
    [(fault, True) for fault in BEFORE_THE_FIRST_BYTE]
    + [(fault, False) for fault in BEFORE_THE_FIRST_BYTE if not fault.startswith("hangs")],  # it may take long
)
def test_another_engine_answers_where_the_first_failed_before_the_first_byte(
    pair: Gateway, one: TruthEngine, two: TruthEngine, fault: str, stream: bool
) -> None:
    before = asked_of(one), asked_of(two), pair.count("requests_retried_total", engine="one")
    answer = pair.chat(stream=stream, truth={**BEFORE_THE_FIRST_BYTE[fault], "port": one.port})
    assert answer.status_code == 200
    assert events(answer)[-1] == "data: [DONE]"
    assert (asked_of(one), asked_of(two)) == (before[0] + 1, before[1] + 1)
    assert pair.count("requests_retried_total", engine="one") == before[2] + 1


@pytest.mark.parametrize("fault", BEFORE_THE_FIRST_BYTE)
def test_where_every_engine_fails_the_client_gets_a_plain_error(
    pair: Gateway, one: TruthEngine, two: TruthEngine, fault: str
) -> None:
    before = asked_of(one), asked_of(two)
    answer = pair.chat(stream=True, truth=BEFORE_THE_FIRST_BYTE[fault])
    assert answer.status_code == (429 if "429" in fault else 504 if "hangs" in fault else 502)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]["type"] == ("rate_limit_error" if "429" in fault else "server_error")
    assert (asked_of(one), asked_of(two)) == (before[0] + 1, before[1] + 1), "each engine was asked once"


@pytest.mark.parametrize("stream", [True, False])
def test_an_engine_that_drops_a_kept_connection_fails_no_request(single: Gateway, stream: bool) -> None:
    """llama.cpp's server does, now and then, in the moment in which a client sends the next request over it."""
    for _ in range(3):
        answer = single.chat(stream=stream, truth={"fault": "silent_again", "ttft_s": 0.01})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("fault", ["reset", "cut", "hang", "no_done"])
def test_no_other_engine_is_asked_after_the_first_byte(
    pair: Gateway, one: TruthEngine, two: TruthEngine, fault: str
) -> None:
    before = asked_of(one), asked_of(two)
    answer = pair.chat(stream=True, truth={"fault": fault, "port": one.port, "gap_s": 0.001})
    assert error_at_the_end(answer)["code"] == ("engine_timeout" if fault == "hang" else "engine_failed")
    assert (asked_of(one), asked_of(two)) == (before[0] + 1, before[1]), "a client would get the beginning twice"
    assert len(set(answer.text.split("#"))) == len(answer.text.split("#")), "no text came twice"
    assert eventually(lambda: pair.count("num_requests_running") == 0)
    assert eventually(lambda: one.records()[-1]["closed_ns"] is not None), "the engine's request has ended, too"


@pytest.mark.parametrize(
    "broken", [{"fault": "reset", "at": 1}, {"framing": "long"}], ids=["reset in mid-answer", "wrong content length"]
)
def test_an_answer_that_is_not_streamed_is_whole_or_an_error(
    pair: Gateway, one: TruthEngine, two: TruthEngine, broken: dict[str, Any]
) -> None:
    half = len(ANSWER) // 2
    whole = ANSWER.encode().decode("latin-1")
    before = asked_of(one), asked_of(two)
    answer = pair.chat(truth={**JSON, "raw": [whole[:half], whole[half:]], **broken})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert (asked_of(one), asked_of(two)) == (before[0] + 1, before[1] + 1), "the client had had nothing"
    if "fault" in broken:
        answer = pair.chat(truth={**JSON, "raw": [whole[:half], whole[half:]], **broken, "port": one.port})
        assert (answer.status_code, events(answer)[-1]) == (200, "data: [DONE]"), "the other engine's own answer"


def test_an_answer_that_is_not_streamed_is_the_engines_bytes_and_is_counted(single: Gateway) -> None:
    before = single.count("generation_tokens_total")
    for framing in ("exact", "chunked", "close"):
        answer = single.chat(truth={**JSON, "framing": framing})
        assert (answer.content, answer.headers["content-type"]) == (ANSWER.encode(), "application/json")
    assert single.count("generation_tokens_total") - before == 3 * 4


def test_more_bytes_than_were_announced_end_the_stream_with_an_error(single: Gateway) -> None:
    error_at_the_end(single.chat(stream=True, truth={"framing": "short"}))


def test_a_stream_that_had_its_done_is_whole_even_if_its_connection_breaks_then(single: Gateway) -> None:
    for plan in ({"framing": "long"}, {"fault": "no_last_chunk"}):
        before = single.count("generation_tokens_total")
        answer = single.chat(stream=True, truth=plan)
        assert events(answer)[-1] == "data: [DONE]", plan
        assert single.count("generation_tokens_total") - before == 8


@pytest.mark.parametrize("asked", [True, False], ids=["usage", "no usage"])
def test_half_a_character_is_no_error_of_the_gateways_own(single: Gateway, asked: bool) -> None:
    half = 'data: {"choices":[{"index":0,"delta":{"content":"\xf0\x9f'
    answer = single.chat(
        stream=True, stream_options={"include_usage": asked}, truth={"raw": [CHUNK, half], "framing": "close"}
    )
    sent = (CHUNK + half).encode("latin-1")
    assert answer.content.startswith(sent if asked else CHUNK.encode()), "an event is passed on whole, or as it came"
    assert error_at_the_end(answer)["code"] == "engine_failed"
    inside = CHUNK.replace("word", "\xf0\x9f")
    answer = single.chat(stream=True, truth={"raw": [inside, DONE]})
    assert answer.content == (inside + DONE).encode("latin-1"), "what no decoder accepts is passed on as it came"


@pytest.mark.parametrize("named", ["event: error\n", ""], ids=["event: error", "data only"])
def test_an_error_event_in_mid_stream_is_passed_on_and_the_stream_is_not_whole(single: Gateway, named: str) -> None:
    answer = single.chat(stream=True, truth={"raw": [CHUNK, named + ERROR], "ttft_s": 0})
    assert answer.text.startswith(CHUNK + named + ERROR)
    error_at_the_end(answer)


@pytest.mark.parametrize("usage", [True, False], ids=["usage", "no usage"])
@pytest.mark.parametrize("raw", [[CHUNK, ERROR, DONE], [CHUNK, ERROR + DONE]], ids=["apart", "in one block"])
def test_an_error_in_mid_stream_is_a_failure_although_done_follows_it(
    single: Gateway, raw: list[str], usage: bool
) -> None:
    """vLLM and SGLang send [DONE] in any case."""

    def counted() -> list[float]:
        failures = single.count("engine_failures_total", reason="error event")
        return [failures, *(single.count("requests_total", status=status) for status in ("broken", "200"))]

    before = counted()
    answer = single.chat(
        stream=True, stream_options={"include_usage": usage}, truth={"raw": raw, "ttft_s": 0, "gap_s": 0.05}
    )
    assert answer.text.startswith(CHUNK + ERROR)
    assert error_at_the_end(answer)["code"] == "engine_failed"
    assert counted() == [before[0] + 1, before[1] + 1, before[2]]


def test_the_word_done_in_a_text_is_not_the_end_of_a_stream(single: Gateway) -> None:
    for text in ("[DONE]", r"\n\ndata: [DONE]\n\n"):
        error_at_the_end(single.chat(stream=True, truth={"raw": [CHUNK.replace("word", text)] * 3, "ttft_s": 0}))


@pytest.mark.parametrize("wait", ["7", ""], ids=["Retry-After", "without"])
def test_a_busy_engines_429_tells_when_to_come_again(single: Gateway, wait: str) -> None:
    answer = single.chat(truth={"fault": "429", "retry_after": wait})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "engine_busy")
    assert answer.headers["retry-after"] == (wait or "1")
    assert single.count("engine_up", engine="one") == 1, "busy is not broken"


@pytest.mark.parametrize("status", ["400", "404", "422"])
def test_an_engines_refusal_of_a_request_is_passed_on_and_nobody_else_is_asked(
    pair: Gateway, one: TruthEngine, two: TruthEngine, status: str
) -> None:
    before = asked_of(one), asked_of(two), pair.count("engine_failures_total")
    answer = pair.chat(stream=True, truth={"fault": status})
    assert (answer.status_code, answer.json()["error"]["message"]) == (int(status), "come back later")
    assert (asked_of(one), asked_of(two), pair.count("engine_failures_total")) == (before[0] + 1, *before[1:])


def test_an_engine_can_not_send_the_gateway_elsewhere(single: Gateway, two: TruthEngine) -> None:
    before = asked_of(two)
    elsewhere = f"1\r\nLocation: {two.url}/v1/chat/completions"
    answer = single.chat(stream=True, truth={"fault": "307", "retry_after": elsewhere})
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_failed")
    assert asked_of(two) == before


def test_what_is_not_http_is_an_engine_that_failed(tmp_path: Path) -> None:
    """And an engine that nobody has started is asked again and again without harm."""
    with socket.create_server(("127.0.0.1", 0)) as odd:
        odd.settimeout(20)
        engines = {
            "odd": {"url": f"http://127.0.0.1:{odd.getsockname()[1]}", "models": ["truth"]},
            "refusing": {"url": f"http://127.0.0.1:{free_port()}", "models": ["truth"]},
        }
        with running(tmp_path, engines, ready=False, health_every_s=0.1) as gateway:
            for _ in range(6):
                connection, _ = odd.accept()
                connection.sendall(b"220 mail.example ESMTP\r\n")
                connection.close()
            answer = gateway.chat()
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_engine")
            assert int(answer.headers["retry-after"]) >= 1
            assert gateway.client.get("/ready").status_code == 503
            assert gateway.client.get("/health").status_code == 200, "the gateway itself is well"
            assert gateway.count("engine_failures_total", engine="odd") >= 3
            assert gateway.count("engine_failures_total", engine="refusing") >= 3


def test_another_engine_answers_where_the_first_died(two: TruthEngine, tmp_path: Path) -> None:
    with (
        TruthEngine.start(tmp_path / "log") as dying,
        running(tmp_path, {"one": dying.url, "two": two.url}, health_every_s=60) as gateway,
    ):
        assert gateway.chat().status_code == 200
        dying.stop()
        for stream in (True, False, True, False):
            assert gateway.chat(stream=stream).status_code == 200
        assert gateway.count("requests_retried_total", engine="one") == 3, "then its breaker is open"
        assert gateway.count("engine_up", engine="one") == 0


def test_a_failure_is_no_refusal_and_is_not_in_the_histogram_of_whole_answers(single: Gateway) -> None:
    """Refusals that take no time would make the engines look fast."""
    names = ("requests_refused_total", "e2e_request_latency_seconds_count")
    before = [single.count(name) for name in names]
    for fault in ("500", "429", "400", "no_done"):
        single.chat(stream=True, truth={"fault": fault})
    assert [single.count(name) for name in names] == before
    plans: list[dict[str, Any]] = [{}, JSON]
    for plan in plans:
        assert single.chat(stream=True, truth=plan).status_code == 200
    assert [single.count(name) for name in names] == [before[0], before[1] + 2]


def test_no_engine_gets_the_clients_key_and_each_gets_the_request_id(single: Gateway, one: TruthEngine) -> None:
    headers = {"authorization": "Bearer sk-mine", "x-request-id": "mine-4711", "cookie": "a=b"}
    answer = single.client.post("/v1/chat/completions", json=HELLO, headers=headers)
    head = one.records()[-1]["head"].lower()
    assert answer.headers["x-request-id"] == "mine-4711"
    assert "x-request-id: mine-4711" in head
    assert "sk-mine" not in head
    assert "cookie" not in head
    assert "gzip" not in head, "a compressed answer could not be passed on byte for byte"

    def logged() -> list[str]:
        return [line["request_id"] for line in single.logged() if line.get("request_id") == "mine-4711"]

    assert eventually(lambda: logged() == ["mine-4711"]), "the line is written after the answer"


def test_a_slow_engine_holds_nobody_up(single: Gateway) -> None:
    order: list[str] = []

    def slow() -> None:
        asked = {**HELLO, "truth": {"ttft_s": 6}}
        httpx.post(single.url + "/v1/chat/completions", json=asked, timeout=20, trust_env=False)
        order.append("slow")

    thread = threading.Thread(target=slow)
    thread.start()
    assert eventually(lambda: single.count("num_requests_running") == 1, 10)
    for _ in range(3):
        assert single.chat().status_code == 200
    order.append("quick")
    thread.join()
    assert order == ["quick", "slow"]


def test_the_total_limit_ends_a_stream_and_forbids_another_try(
    one: TruthEngine, two: TruthEngine, tmp_path: Path
) -> None:
    engines = {"one": one.url, "two": two.url}
    with running(tmp_path, engines, **{**SHORT, **MANY, "total_s": 1, "first_byte_s": 2}) as gateway:
        endless = gateway.chat(stream=True, max_tokens=10_000, truth={"gap_s": 0.05})
        assert error_at_the_end(endless)["code"] == "engine_timeout"
        hanging = gateway.chat(truth={"fault": "late_headers", "ttft_s": 60})
        assert (hanging.status_code, hanging.json()["error"]["code"]) == (504, "engine_timeout")
        before = asked_of(two)
        late = gateway.chat(stream=True, truth={"fault": "silent", "ttft_s": 1.2})
        assert late.status_code in (502, 504)
        assert asked_of(two) == before, "the time of this request was over"


def test_a_stream_slower_than_the_idle_limit_between_two_tokens_only_is_not_cut(single: Gateway) -> None:
    began = time.monotonic()
    answer = single.chat(stream=True, max_tokens=6, truth={"gap_s": 0.5})
    assert events(answer)[-1] == "data: [DONE]"
    assert time.monotonic() - began > SHORT["idle_s"], "the whole took longer than the limit on one pause"
