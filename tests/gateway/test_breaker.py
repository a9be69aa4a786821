"""What takes an engine out for all requests, and what brings it back: the circuit breaker."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.test_engine_faults import ERROR, error_at_the_end
from tests.helpers.gateway import HELLO, naming_models, running
from tests.helpers.processes import eventually
from tests.helpers.truth import TruthEngine

SILENT = {"fault": "silent", "ttft_s": 0}


@pytest.mark.parametrize(
    ("plan", "reason", "said"),
    [
        ({"fault": "500"}, "status 500", "come back later"),
        ({"raw": [ERROR], "ttft_s": 0}, "error event", "the KV cache is full"),
        ({"raw": ["event: error\n" + ERROR], "ttft_s": 0}, "error event", "the KV cache is full"),
    ],
    ids=["status 500", "data only", "event: error"],
)
def test_an_error_that_an_engine_tells_of_takes_it_out_for_nobody(
    one: TruthEngine, tmp_path: Path, plan: dict[str, Any], reason: str, said: str
) -> None:
    """One client's request may be the reason: llama.cpp answers 500 to roles that don't alternate."""
    with running(tmp_path, {"one": one.url}, breaker_failures=3, breaker_s=60) as gateway:
        for _ in range(4):
            answer = gateway.chat(stream=True, truth=plan)
            assert answer.status_code == 502
            assert answer.json()["error"]["message"].endswith(f": {said}."), "the client learns the engine's reason"
        assert gateway.count("engine_failures_total", engine="one", reason=reason) == 4
        assert gateway.count("engine_up", engine="one") == 1
        assert gateway.chat().status_code == 200
        assert said not in gateway.log.read_text(), "an engine's words may quote the prompt"


@pytest.mark.parametrize("plan", [{"fault": "503"}, SILENT], ids=["status 503", "no answer"])
def test_an_engine_that_gives_no_answer_is_taken_out(one: TruthEngine, tmp_path: Path, plan: dict[str, Any]) -> None:
    with running(tmp_path, {"one": one.url}, breaker_failures=3, breaker_s=60) as gateway:
        assert [gateway.chat(truth=plan).status_code for _ in range(4)] == [502, 502, 502, 503]
        assert gateway.count("engine_up", engine="one") == 0


def test_an_engine_is_back_when_an_answer_begins_and_out_again_after_one_more_failure(
    one: TruthEngine, tmp_path: Path
) -> None:
    with running(tmp_path, {"one": one.url}, breaker_failures=2, breaker_s=2) as gateway:
        assert [gateway.chat(truth=SILENT).status_code for _ in range(3)] == [502, 502, 503]
        assert eventually(lambda: gateway.client.get("/ready").status_code == 200), "one request may try it"
        long = {**HELLO, "stream": True, "max_tokens": 400, "truth": {"gap_s": 0.05}}
        with gateway.client.stream("POST", "/v1/chat/completions", json=long) as answer:
            blocks = answer.iter_raw()  # kept: httpx closes the connection when this is collected
            next(blocks)
            assert gateway.count("engine_up", engine="one") == 1
            assert gateway.chat(truth=SILENT).status_code == 502, "it was asked, while the long answer goes on"
            assert gateway.count("engine_up", engine="one") == 0


def test_an_answer_that_takes_longer_than_the_total_limit_is_no_failure_of_its_engine(
    one: TruthEngine, tmp_path: Path
) -> None:
    limits: dict[str, Any] = {"total_s": 2.15, "idle_s": 2, "breaker_failures": 1, "breaker_s": 60}
    with running(tmp_path, {"one": one.url}, **limits) as gateway:

        def endless(_: int) -> dict[str, Any]:
            return error_at_the_end(gateway.chat(stream=True, max_tokens=10_000, truth={"gap_s": 0.05}))

        with ThreadPoolExecutor(4) as threads:
            errors = list(threads.map(endless, range(4)))
        assert {error["code"] for error in errors} == {"engine_timeout"}
        assert all("total_s" in error["message"] for error in errors), errors
        assert gateway.count("engine_failures_total", reason="timeout") == 0
        assert gateway.count("engine_up", engine="one") == 1
        assert gateway.chat().status_code == 200


def test_no_engine_is_asked_in_the_last_moment_of_a_request(one: TruthEngine, two: TruthEngine, tmp_path: Path) -> None:
    """Timers come a little early. The rest of the time is too short for an answer, and would name the second engine."""
    engines = {"one": one.url, "two": two.url}
    with running(tmp_path, engines, seats=16, total_s=0.3) as gateway, ThreadPoolExecutor(8) as at_once:
        for _ in range(5):
            asked = [at_once.submit(gateway.chat, truth={"ttft_s": 60}) for _ in range(8)]
            assert {one.result().json()["error"]["code"] for one in asked} == {"engine_timeout"}
        assert gateway.count("requests_retried_total") == 0


def test_an_engine_that_hangs_delays_no_other_ones_health_check(tmp_path: Path) -> None:
    """The checks of a paused engine end only by their limit of 5 s. Three that wait for them take 10 s or more."""
    with socket.create_server(("127.0.0.1", 0)) as hung, naming_models() as good:
        engines = {"hung": f"http://127.0.0.1:{hung.getsockname()[1]}", "good": f"http://127.0.0.1:{good.server_port}"}
        with running(tmp_path, engines, health_every_s=0.1, breaker_failures=3) as gateway:
            assert gateway.count("engine_up", engine="good") == 1
            good.shutdown()
            good.server_close()
            assert eventually(lambda: gateway.count("engine_up", engine="good") == 0, 8)
