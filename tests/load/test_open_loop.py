"""Requests are sent on schedule, whether or not the server keeps up; and a client detects that it is too slow."""

import random
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import LabError, load
from shared.load import Closed, Load, Poisson, Run, prompts
from shared.load.prompts import PromptSet
from shared.metrics import Slo, late_ms, summarise
from shared.metrics.validity import bottleneck
from tests.helpers.processes import eventually
from tests.helpers.truth import MODEL, TruthEngine

pytestmark = pytest.mark.alone  # it holds measured times against true ones

PROMPTS = prompts.short(MODEL)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path / "log") as engine:
        yield engine


def test_a_schedule_is_drawn_once_and_has_its_rate() -> None:
    moments = Poisson(rate_per_s=50, seconds=100, seed=3).moments_s()
    assert moments == Poisson(rate_per_s=50, seconds=100, seed=3).moments_s()
    assert moments != Poisson(rate_per_s=50, seconds=100, seed=4).moments_s()
    assert len(moments) == pytest.approx(5000, rel=0.06)  # 4 standard deviations of a Poisson count
    gaps = [b - a for a, b in zip([0.0, *moments], moments, strict=False)]
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # exponential: as wide as its mean
    assert Poisson(rate_per_s=4, requests=3, even=True).moments_s() == [0.25, 0.5, 0.75]
    assert max(moments) < 100


def test_requests_are_sent_on_schedule_however_slow_the_answers(engine: TruthEngine) -> None:
    engine.plan(ttft_s=0.4)  # at 40 a second 16 are under way at any time
    run = load.run(Load(engine, PROMPTS, Poisson(rate_per_s=40, requests=40, even=True), max_tokens=2))
    assert len(run.traces) == 40
    assert statistics.median(abs(late_ms(t)) for t in run.traces) < 5
    assert 14 <= run.users < 30  # of 40: the machine may hold some answers up
    received = sorted(r["received_ns"] for r in engine.records()[4:])  # after the warm-up
    assert (received[-1] - received[0]) / 1e9 == pytest.approx(39 / 40, abs=0.3)
    summary = summarise(run)
    assert summary.scheduled_e2e_ms
    assert summary.e2e_ms
    assert summary.scheduled_e2e_ms.median >= summary.e2e_ms.median > 400
    assert summary.run.load == {
        "about_cache": False,
        "kind": "open",
        "rate_per_s": 40,
        "requests": 40,
        "seconds": None,
        "seed": 0,
        "even": True,
    }


def stalled(engine: TruthEngine, after: int, for_s: float) -> threading.Thread:
    """Pause the engine once it has been asked so many times from now on, in a thread."""
    before = len(engine.records())

    def stall() -> None:
        eventually(lambda: len(engine.records()) >= before + after)
        engine.pause()
        time.sleep(for_s)
        engine.resume()

    thread = threading.Thread(target=stall)
    thread.start()
    return thread


def test_a_stall_that_a_closed_loop_hides_shows_in_an_open_one(engine: TruthEngine) -> None:
    """Coordinated omission: while the server stalls, the one user of a closed loop sends no request."""
    engine.plan(ttft_s=0.005, gap_s=0.001)

    def hurt(run: Run) -> float:
        return sum(t.e2e_ms + late_ms(t) > 150 for t in run.traces) / len(run.traces)

    thread = stalled(engine, 15, 0.6)
    closed = load.run(Load(engine, PROMPTS, Closed(users=1, seconds=1.2), max_tokens=3))
    thread.join()
    thread = stalled(engine, 15, 0.6)
    opened = load.run(Load(engine, PROMPTS, Poisson(rate_per_s=50, seconds=1.2, even=True), max_tokens=3))
    thread.join()
    assert hurt(closed) < 0.1  # one request of many
    assert hurt(opened) > 0.25  # all that came in half of the time


def test_a_load_by_time_stops_asking_and_waits_for_what_is_under_way(engine: TruthEngine) -> None:
    engine.plan(ttft_s=1.2)
    began = time.monotonic()
    run = load.run(Load(engine, PROMPTS, Closed(users=2, seconds=2), max_tokens=2, warmup=False))
    assert 2.4 <= time.monotonic() - began < 10
    assert len(run.traces) == 4
    assert all(t.error is None for t in run.traces)


def test_a_user_who_thinks_asks_less(engine: TruthEngine) -> None:
    engine.plan(ttft_s=0.01, gap_s=0.001)
    run = load.run(Load(engine, PROMPTS, Closed(users=1, requests=4, think_s=0.2), max_tokens=2))
    gaps = [(b.sent_ns - a.end_ns) / 1e9 for a, b in zip(run.traces, run.traces[1:], strict=False)]
    assert all(gap >= 0.19 for gap in gaps)


def test_a_load_needs_exactly_one_end(engine: TruthEngine) -> None:
    with pytest.raises(LabError, match="a number of requests or of seconds, but neither was given"):
        load.run(Load(engine, PROMPTS, Closed(users=1)))
    with pytest.raises(
        LabError, match=r"a number of requests or of seconds, but requests=\d+ and seconds=\d+ were given"
    ):
        load.run(Load(engine, PROMPTS, Poisson(rate_per_s=1, requests=2, seconds=3)))
    with pytest.raises(LabError, match="rate_per_s is 0, but must be above 0"):
        load.run(Load(engine, PROMPTS, Poisson(rate_per_s=0, requests=2)))
    with pytest.raises(LabError, match=r"No request falls into 0\.01 s"):
        load.run(Load(engine, PROMPTS, Poisson(rate_per_s=0.001, seconds=0.01)))


class Slow(PromptSet):
    """Prompts that keep the event loop busy while they are made, as a tokenizer does."""

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        for messages in super().__iter__():
            time.sleep(0.03)
            yield messages


def test_a_client_that_is_too_slow_says_so(engine: TruthEngine) -> None:
    engine.plan(ttft_s=0.01, gap_s=0.002)
    clean = load.run(Load(engine, PROMPTS, Poisson(rate_per_s=20, requests=20), max_tokens=4))
    slow = load.run(
        Load(engine, Slow("slow", MODEL, prompts.SHORT_QUESTIONS), Poisson(rate_per_s=40, requests=60), max_tokens=4)
    )
    assert slow.client_lag_ms
    assert slow.client_lag_ms["p99"] > 25
    assert "the client's event loop woke up" in (summarise(slow).client_bottleneck or "")
    late = summarise(slow)
    assert late.scheduled_e2e_ms
    assert late.e2e_ms
    assert late.scheduled_e2e_ms.high > late.e2e_ms.high + 100  # sent late: only the schedule tells
    assert clean.client_lag_ms
    assert clean.client_lag_ms["p50"] < 5


def test_what_makes_a_client_the_bottleneck() -> None:
    def run(share: float, p99: float) -> Run:
        return Run((), 1, 1, "none", {}, share, client_lag_ms={"p50": 0, "p99": p99, "max": p99})

    assert bottleneck(run(0.2, 3), 100) is None
    assert bottleneck(run(0.2, 15), 1000) is None  # 1.5 % of what is measured
    assert bottleneck(run(0.2, 15), 100) == "the client's event loop woke up 15 ms late at p99"
    assert bottleneck(run(0.9, 1), 100) == "the client kept a core busy for 90 % of the time"


def test_an_slo_counts_from_the_schedule_and_keeps_no_failed_request(engine: TruthEngine) -> None:
    engine.plan(ttft_s=0.05, gap_s=0.001, fault="reset", every=4)
    run = load.run(
        Load(engine, PROMPTS, Poisson(rate_per_s=40, requests=40, even=True, seed=random.randint(0, 9)), max_tokens=5)
    )
    good = [t for t in run.traces if t.error is None]
    assert 0 < len(good) < 40
    for slo, kept in (
        (Slo(), len(good)),
        (Slo(ttft_ms=40), 0),
        (Slo(ttft_ms=5000, tpot_ms=5000, e2e_ms=5000), len(good)),
    ):
        assert sum(slo.kept(trace) for trace in run.traces) == kept
