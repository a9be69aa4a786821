"""The panel shows the counters that an engine reports, as a widget and as text, and no others."""

import threading
import time
from typing import Any

import pytest

from shared.engines import ENGINES
from shared.report import live_panel
from shared.report.live_panel import CounterSamples, spark
from tests.helpers.markdown import unaligned
from tests.helpers.processes import eventually


class Engine:
    spec = ENGINES["vllm"]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The bundle that was displayed first, and the updated one."""
    seen: list[dict[str, Any]] = []

    class Handle:
        def update(self, bundle: dict[str, Any], raw: bool) -> None:
            seen.append(bundle)

    def display(bundle: dict[str, Any], raw: bool, display_id: bool) -> Handle:
        seen.append(bundle)
        return Handle()

    monkeypatch.setattr(live_panel, "display", display)
    return seen


def test_it_samples_while_the_load_runs_and_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, shown: list[dict[str, Any]]
) -> None:
    said = {"running": 3.0, "waiting": 2.0, "kv_use": 0.25, "preemptions": 40.0, "generated_tokens": 100.0}
    monkeypatch.setattr(live_panel, "counters", lambda engine: dict(said))
    before = set(threading.enumerate())  # of which one may end meanwhile
    with live_panel.watch(Engine(), step_s=0.02) as seen:  # type: ignore[arg-type]
        assert eventually(lambda: len(seen.samples) > 3)
        said.update(waiting=7.0, preemptions=42.0, generated_tokens=160.0)
        assert eventually(lambda: seen.most("waiting") == 7)
        said.update(waiting=0.0)
        assert eventually(lambda: len(seen.samples) > 5)
    assert set(threading.enumerate()) <= before
    assert len(seen.samples) > 5
    assert seen.most("waiting") == 7
    assert seen.series("preemptions")[-1] == 2  # since the load began
    assert seen.series("generated_tokens")[-1] == 60
    first, last = shown
    assert "application/vnd.jupyter.widget-view+json" in first
    assert "no sample yet" in first["text/html"]
    assert "| waiting | 0 requests | 7 requests |" in unaligned(last["text/plain"])
    assert "KV cache in use" in last["text/html"]
    assert "prefix cache hits" not in last["text/plain"]  # it did not say


def test_an_engine_that_says_nothing_shows_nothing(monkeypatch: pytest.MonkeyPatch, shown: list[Any]) -> None:
    monkeypatch.setattr(live_panel, "counters", lambda engine: {})
    with live_panel.watch(Engine(), step_s=0.01) as seen:  # type: ignore[arg-type]
        time.sleep(0.03)
    assert seen.samples == []
    assert seen.most("running") is None
    assert seen.rows() == []


def test_a_hit_rate_is_of_what_was_asked_since_the_beginning() -> None:
    seen = CounterSamples("x")
    seen.add(0.0, {"cached_tokens": 50.0, "cache_queries": 100.0})
    assert seen.series("hit_rate") == []  # of nothing
    seen.add(1.0, {"cached_tokens": 80.0, "cache_queries": 140.0})
    assert seen.series("hit_rate") == [0.75]


def test_a_course_in_characters() -> None:
    assert spark([0, 1, 2, 4]) == "▁▃▅█"
    assert spark([0, 0]) == "▁▁"
    assert spark([]) == ""
    assert len(spark([float(n) for n in range(1000)])) <= 40


def test_a_gateway_is_watched_as_an_engine_is() -> None:
    seen = CounterSamples("The gateway")
    first = {"generated_tokens": 500.0, "good_tokens": 400.0, "refused": 7.0, "left": 1.0, "waiting": 0.0}
    seen.add(0, first)
    seen.add(1, {**first, "generated_tokens": 560.0, "good_tokens": 440.0, "refused": 9.0})
    newest = {title: now for title, now, *_ in seen.rows()}
    assert newest["output tokens"] == "60"
    assert newest["output tokens within the SLO"] == "40"
    assert newest["refused"] == "2 requests"
    assert newest["clients that left"] == "0"
