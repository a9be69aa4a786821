"""The relay between a page and Ollama: what it notes, what it plays, and that it leaves the engine with its client."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.course.webui.in_chromium.ollama_relay import OllamaRelay, pieces, said
from tests.helpers.webui import wait_for

BODY = {"model": "simulated", "messages": [{"role": "user", "content": "Hi"}]}
CALM: dict[str, Any] = {"timeout": 60, "trust_env": False}  # the tests' machine may be busy


@pytest.fixture
def engine() -> Iterator[OllamaRelay]:
    """A relay without an Ollama stands for one here."""
    with OllamaRelay() as engine:
        engine.script = lambda: pieces("Grüße, 世界!", 3)
        yield engine


@pytest.fixture
def relay(engine: OllamaRelay) -> Iterator[OllamaRelay]:
    with OllamaRelay(engine.url) as relay:
        yield relay


def test_an_answer_passes_unchanged_and_is_noted(relay: OllamaRelay, engine: OllamaRelay) -> None:
    direct, through = (httpx.post(f"{one.url}/api/chat", json=BODY, **CALM) for one in (engine, relay))
    assert through.content == direct.content
    assert through.headers["content-type"] == "application/x-ndjson"
    text = "".join(json.loads(line)["message"]["content"] for line in through.text.splitlines())
    assert text == "Grüße, 世界!"
    [asked] = relay.asked
    assert (asked.path, asked.body, asked.done, asked.left) == ("/api/chat", BODY, True, False)
    assert asked.first_s is not None
    assert asked.ended_s is not None
    assert asked.began_s <= asked.first_s <= asked.ended_s


def test_other_requests_pass_and_are_not_noted(relay: OllamaRelay) -> None:
    found = httpx.get(f"{relay.url}/api/tags?x=1", **CALM).json()
    assert [one["name"] for one in found["models"]] == ["simulated"]
    assert relay.asked == []


def test_a_client_that_leaves_leaves_the_engine(relay: OllamaRelay, engine: OllamaRelay) -> None:
    engine.script = lambda: pieces("word " * 1000, 5, 0.05)
    with httpx.Client(**CALM) as client, client.stream("POST", f"{relay.url}/api/chat", json=BODY) as answer:
        lines = answer.iter_lines()  # kept: without it the answer is closed
        assert json.loads(next(lines))["message"]["content"] == "word "
        assert (relay.open, engine.open) == (1, 1)
    wait_for(lambda: relay.open == engine.open == 0)
    for one in (*relay.asked, *engine.asked):
        assert (one.left, one.done) == (True, False)


def test_cut_ends_what_is_under_way(relay: OllamaRelay, engine: OllamaRelay) -> None:
    engine.script = lambda: pieces("word " * 1000, 5, 0.05)
    with httpx.Client(**CALM) as client, client.stream("POST", f"{relay.url}/api/chat", json=BODY) as answer:
        lines = answer.iter_lines()
        next(lines)
        relay.cut()
        assert relay.open == 0
        with pytest.raises(httpx.TransportError):
            list(lines)
    wait_for(lambda: engine.open == 0)


def test_a_script_is_played_in_place_of_the_engine(relay: OllamaRelay, engine: OllamaRelay) -> None:
    relay.script, relay.status = (lambda: pieces("Simulated.")), 201
    answer = httpx.post(f"{relay.url}/api/chat", json=BODY, **CALM)
    assert answer.status_code == 201
    assert answer.content.startswith(said("Simu"))
    assert len(relay.asked) == 1
    assert engine.asked == []


def test_an_ollama_that_does_not_run_is_an_error_of_its_own() -> None:
    with OllamaRelay("http://127.0.0.1:9") as relay:
        answer = httpx.get(f"{relay.url}/api/tags", **CALM)
        assert answer.status_code == 502
        assert "does not answer at http://127.0.0.1:9" in answer.json()["error"]


def test_it_ends_at_once_though_an_answer_is_under_way() -> None:
    with OllamaRelay() as relay, httpx.Client(**CALM) as client:
        with client.stream("POST", f"{relay.url}/api/chat", json=BODY) as answer:
            lines = answer.iter_lines()
            next(lines)
            began = time.monotonic()
            relay.stop()
            assert time.monotonic() - began < 8
        relay.start()
