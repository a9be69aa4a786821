"""The open loop of lab 3.3.2: how long a load lasts, what it delivered, and the check by Little's law."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from shared.course import checks, registry
from shared.course.batching import batch_plots, batch_tables, open_loop
from shared.load import Closed, Poisson, Run, Trace
from shared.metrics import Slo, Spread, summarise
from tests.helpers.ledger import trace


def every(gap_ms: int, count: int, **how: Any) -> list[Trace]:
    """Requests of an open loop, one every `gap_ms`."""
    found = [trace(start_ms=gap_ms * n, **how) for n in range(count)]
    return [replace(one, scheduled_ns=one.sent_ns) for one in found]


def entry(traces: list[Trace], rate_per_s: float, seconds: float) -> dict[str, Any]:
    wall_s = (max(t.end_ns for t in traces) - min(t.sent_ns for t in traces)) / 1e9
    tokens = sum(t.output_tokens or 0 for t in traces)
    values = {"output_tok_s": tokens / wall_s, "wall_s": wall_s, "queue_ms": None}
    return {"values": values, "provenance": {"load": {"rate_per_s": rate_per_s, "seconds": seconds}}}


def test_an_overload_lasts_until_half_of_its_requests_are_late() -> None:
    wait = open_loop.patience(seats=32, rate_per_s=4, percent=150, ttft_limit_s=2, at_most_s=100)
    assert wait.seats_full_s == 16  # an excess of 2 requests a second fills 32 seats
    assert wait.first_miss_s == 20  # then 8 requests in the queue are 2 seconds of work
    assert wait.load_s == 40
    assert open_loop.patience(32, 4, 150, 2, at_most_s=10).load_s == 10
    assert "full after about 16 s" in str(wait)


def test_a_steady_load_keeps_littles_law() -> None:
    steady = every(100, 100)  # 10 requests a second, each 121 ms long
    in_flight, by_law = open_loop.littles_law(steady, 10, 10)
    assert by_law == pytest.approx(1.21)
    assert in_flight == pytest.approx(by_law, rel=0.01)


def test_a_generator_that_sends_too_little_breaks_it() -> None:
    in_flight, by_law = open_loop.littles_law(every(200, 50), 10, 10)
    assert in_flight == pytest.approx(by_law / 2, rel=0.02)


@pytest.fixture
def found() -> list[open_loop.Point]:
    """Two loads: one is served at once; in the other, each request waits 50 ms longer than the one before it."""
    calm = every(500, 10)
    late = [replace(t, arrivals_ns=tuple(a + 50_000_000 * n for a in t.arrivals_ns), end_ns=t.end_ns + 50_000_000 * n)
            for n, t in enumerate(every(50, 40))]  # fmt: skip
    loads = {"open/percent-150": (late, 20.0, 2.0), "open/percent-80": (calm, 2.0, 5.0)}
    entries = {key: entry(*load) for key, load in loads.items()}
    return open_loop.points(entries, lambda key: loads[key][0], Slo(ttft_ms=100, tpot_ms=20))


def test_a_pause_of_the_machine_in_the_calm_load_does_not_change_the_rate_of_the_stalled_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The cell `run-stall`: by the time of the whole calm load, no request would fall into the load that follows."""
    [cell] = [c for c in checks.notebook(registry.find_lab("3.3.2"))["cells"] if c["id"] == "run-stall"]
    calm = [trace(ttft_ms=90, start_ms=101 * (n // 2), tokens=2, gap_ms=10) for n in range(8)]
    calm[-1] = replace(calm[-1], end_ns=calm[-1].end_ns + 60 * 10**9)
    rhythms: dict[str, Poisson] = {}

    def measure(key: str, one: Any, **_: Any) -> Any:
        if key == "stall/calm":
            return summarise(Run(tuple(calm), 2, 2, "short", {}, 0.01))
        return one()

    names: dict[str, Any] = {
        "lab": SimpleNamespace(measure=measure, traces=lambda key: every(100, 4)), "vllm": None, "Closed": Closed,
        "Poisson": Poisson, "batch_tables": batch_tables, "show": lambda table: None,
        "short_load": lambda server, rhythm, **_: rhythm,
    }  # fmt: skip
    body = cell["source"].replace("from shared.load import faults, run", "")
    names["faults"] = SimpleNamespace(stall=lambda *_, **__: nullcontext())
    names["run"] = lambda rhythm: rhythms.setdefault(type(rhythm).__name__, rhythm)
    exec(body, names)
    assert rhythms["Poisson"].rate_per_s == pytest.approx(1e3 / 101)
    assert len(rhythms["Poisson"].moments_s()) > 20


def test_failed_requests_were_offered_too() -> None:
    good = every(500, 10)
    lost = [replace(one, output_tokens=None, error="refused") for one in good]
    for traces in (good, [*good[:5], *lost[5:]]):
        point = open_loop.point("open/percent-80", entry(traces, 2.0, 5.0), traces, Slo(ttft_ms=100, tpot_ms=20))
        assert point.offered_tok_s == 2 * 8


def test_a_request_that_broke_off_has_no_latency() -> None:
    broken = [replace(one, error="reset") for one in every(500, 5, ttft_ms=900)]
    traces = [*every(500, 5), *broken]
    point = open_loop.point("open/percent-80", entry(traces, 2.0, 5.0), traces, Slo(ttft_ms=100, tpot_ms=20))
    assert (point.ttft_ms, point.tpot_ms) == (Spread(50, 50, 50, 5), Spread(10, 10, 10, 5))
    assert (point.missed_ttft, point.missed_tpot) == (5, 5)


def test_a_point_counts_which_promise_was_missed(found: list[open_loop.Point]) -> None:
    calm, late = found
    assert (calm.percent, late.percent) == (80, 150)
    assert (calm.kept_percent, calm.missed_ttft, calm.missed_tpot) == (100, 0, 0)
    assert calm.offered_tok_s == 16
    assert calm.goodput_tok_s == pytest.approx(calm.output_tok_s)
    assert (late.kept, late.missed_ttft, late.missed_tpot) == (2, 38, 0)
    assert late.goodput_tok_s == pytest.approx(late.output_tok_s / 20)
    [_, row] = open_loop.promise_table(found).rows
    assert row[:6] == ("150 %", "160", "40", "5 %", "38", "0")


def test_the_load_that_can_be_promised_is_named(found: list[open_loop.Point]) -> None:
    assert "up to 80 % of the capacity, which is 2.0 requests/s" in open_loop.carried(found)
    assert open_loop.carried(found[1:]).startswith("at none of these loads did 95 %")
    nearly = replace(found[0], requests=1000, kept=946)  # the table shows 95 %, and so must the sentence
    assert "up to 80 %" in open_loop.carried([nearly])


def test_the_title_states_a_collapse_only_where_there_is_one(found: list[open_loop.Point]) -> None:
    assert open_loop.finding(found) == "Beyond the capacity, throughput holds and goodput collapses"
    assert open_loop.finding(found[:1]) == "Throughput and goodput by offered load"
    slower = replace(found[1], output_tok_s=found[0].output_tok_s / 2)
    assert not open_loop.holds_and_collapses([found[0], slower])
    assert not open_loop.holds_and_collapses([replace(point, kept=0) for point in found]), "it was never good"
    plot = batch_plots.goodput(found, 100.0)
    assert plot.title.startswith("Beyond the capacity")
    assert [line.name for line in plot.figure.data] == ["offered", "throughput", "goodput"]
    assert len({(line.line.dash, line.line.color) for line in plot.figure.data}) == 3


def test_littles_table_shows_how_many_requests_came_of_those_expected(found: list[open_loop.Point]) -> None:
    calm, late = open_loop.little_table(found).rows
    assert calm[:3] == ("80 %", "10 / 10 ± 3", "+0 %")
    assert late[:3] == ("150 %", "40 / 40 ± 6", "+0 %")


def test_littles_difference_is_what_was_not_sent_and_what_ended_too_late(found: list[open_loop.Point]) -> None:
    for point in found:
        sent = point.requests / point.expected
        assert point.in_flight / point.rate_times_latency == pytest.approx(sent * point.share_inside)
    assert found[0].share_inside == pytest.approx(1)
    assert found[1].share_inside < 0.8, "many of its requests end after the last one was sent"
