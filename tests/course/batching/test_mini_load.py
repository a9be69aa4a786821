"""A load on the student's engine is a Run like any other: summarised, recorded, believed."""

import asyncio
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from shared import LabError, metrics, paths, results
from shared.course.batching import batch_plots, mini_load
from shared.course.batching.mini_engine import MiniEngine
from shared.course.batching.mini_load import Job, Own, book_among_streams, closed, open_loop, provenance, step_model
from shared.course.batching.paged_kv import PagedKV
from shared.course.evidence import Evidence
from shared.files import held
from shared.load import Trace, prompts
from shared.load.client import exchange
from shared.metrics.roofline import Work
from shared.models import ModelChoice
from shared.models.llama import Llama
from shared.processes import free_port
from shared.report import timeline
from shared.results.ledger import reusable
from tests.helpers.scheduler import reference
from tests.helpers.truth import TruthEngine


@pytest.fixture(scope="module")
def llama(model: ModelChoice) -> Llama:
    return Llama.load(model.weights("hf"), torch.float32)


def engine(llama: Llama, **settings: Any) -> MiniEngine:
    return MiniEngine(PagedKV(llama, 24), reference(), max_running=3, token_budget=16, **settings)


PROMPTS = itertools.cycle(([5, 6, 7], list(range(30, 50)), [9]))


def test_a_closed_load_keeps_its_users_busy(llama: Llama) -> None:
    run = closed(engine(llama), PROMPTS, users=3, requests=7, max_tokens=3)
    found = metrics.summarise(run)
    assert (found.requests, found.failed, found.output_tokens, found.users) == (7, 0, 21, 3)
    assert max(timeline.rows(run.traces)) == 3
    assert run.counted["steps"] == len(run.load["steps"]["ms"])
    assert sum(run.load["steps"]["served"]) == 21
    assert sum(run.load["steps"]["tokens"]) == sum(t.input_tokens + 2 for t in run.traces if t.input_tokens)
    for trace in run.traces:
        assert trace.timings is not None
        assert 0 <= trace.timings["admitted_ns"] <= trace.arrivals_ns[0] - trace.sent_ns
        assert trace.itl_ms is not None
    results.record("3.3.2", "own/schedule/x", found)
    evidence = Evidence("3.3.2")
    assert evidence.refused == {}
    assert [Trace.restore(t) for t in evidence.raw("own/schedule/x")] == list(run.traces)
    assert reusable("3.3.2", "own/schedule/x", {**Own(engine(llama)).provenance(), "max_tokens": 3}) is not None


def test_an_open_load_counts_from_the_schedule(llama: Llama) -> None:
    jobs = [Job(0.3, [5, 6], 2), Job(0.0, [7], 4), Job(0.0, list(range(40)), 1)]
    run = open_loop(engine(llama), jobs)
    first = min(t.sent_ns for t in run.traces)
    offsets = sorted(round((t.sent_ns - first) / 1e9, 3) for t in run.traces)
    assert offsets == [0.0, 0.0, 0.3]
    assert all(t.scheduled_ns == t.sent_ns for t in run.traces)
    figure = batch_plots.gantt("x", {"way": run.traces})
    assert figure.rows[0][0] == "way"
    assert [bar.name for bar in figure.figure.data] == list(batch_plots.PHASES)
    assert "long prompt ▶" in figure.figure.layout.yaxis.ticktext


def test_its_version_is_the_hash_of_its_code(llama: Llama) -> None:
    found = provenance(engine(llama))
    assert (found["engine"], found["dtype"], len(found["engine_version"])) == ("yours", "float32", 12)
    assert found["flags"]["blocks"] == 24


def test_the_step_model_finds_what_steps_are_made_of() -> None:
    """Made-up steps of 3 ms overhead, 20 GB/s and 0.1 TFLOP/s, which the fit must find again."""

    def steps(users: int) -> list[tuple[Work, float]]:
        work = Work(4e8, 2.7e8 * users, users)
        return [(work, 3 + 4e8 / 20e6 + 2.7e8 * users / 0.1e9)] * 5

    fit, errors, rows = step_model({u: steps(u) for u in (1, 8, 16, 32)}, 20.0, fitted=(8, 16))
    assert fit.overhead_ms == pytest.approx(3, rel=1e-3)
    assert fit.peak_tflop_s == pytest.approx(0.1, rel=1e-3)
    assert max(map(abs, errors.values())) < 1e-3
    assert [row[0] for row in rows] == ["1", "8", "16", "32"]
    with pytest.raises(LabError, match="at least four"):
        step_model({8: steps(8)[:1], 16: steps(16)[:1]}, 20.0, fitted=(8, 16))


def test_lines_carry_their_numbers_in_a_table() -> None:
    plot = batch_plots.lines("t", "users", "tok/s", {"a": {1: [10.0, 12.0], 4: [30.0]}, "b": {4: [5.0]}})
    assert plot.header == ("users", "a, tok/s", "b, tok/s")
    assert plot.rows == [("1", "11 (10–12)", "–"), ("4", "30", "5")]


def test_pauses_count_from_the_long_prompt() -> None:
    plot = batch_plots.pauses("t", {"whole": [[0, 10_000_000, 90_000_000]]}, {"whole": 10_000_000})
    assert plot.rows == [("whole", "45 (10–80)", "80")]
    assert list(plot.figure.data[0].x) == [0.0, 0.08]


def test_vllm_looks_the_same_in_every_figure() -> None:
    from shared.report.plots import LOOK

    vllm, own, other, more = batch_plots.looks(["vLLM", "your engine", "goodput", "x"])
    assert vllm == LOOK["vllm"]
    assert len({vllm, own, other, more}) == 4
    assert not {look[0] for look in (own, other)} & {look[0] for look in LOOK.values()}


def test_a_server_that_takes_no_connection_is_told_and_not_waited_for(model: ModelChoice) -> None:
    server: Any = SimpleNamespace(
        url=f"http://127.0.0.1:{free_port()}", served_name="small", spec=SimpleNamespace(exact_length={})
    )
    work = book_among_streams(server, prompts.short(model), prompts.long(model, 100), streams=2, max_tokens=9)
    with pytest.raises(LabError, match="A request among the streams failed: no connection to"):
        asyncio.run(asyncio.wait_for(work, 15))


def test_the_long_prompt_waits_for_every_stream(
    tmp_path: Path, model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if one stream's first token is late, and the other has then delivered all that was asked for in total."""
    engine = TruthEngine.start(tmp_path / "log")
    try:
        engine.plan(ttft_s=0.5, gap_s=0.01, fault="late", every=2)
        work = book_among_streams(engine, prompts.short(model), prompts.long(model, 100), streams=2, max_tokens=300)
        under_lock = []

        async def watched(*arguments: Any, **more: Any) -> Any:
            under_lock.append(held(paths.measuring()))
            return await exchange(*arguments, **more)

        monkeypatch.setattr(mini_load, "exchange", watched)
        streams, book = asyncio.run(work)
        assert under_lock == [True] * 3
        assert all(one.arrivals_ns[0] < book.sent_ns < one.end_ns for one in streams)
        engine.plan(gap_s=0.001)
        with pytest.raises(LabError, match="ended before the long prompt"):
            asyncio.run(
                book_among_streams(engine, prompts.short(model), prompts.long(model, 100), streams=2, max_tokens=2)
            )
    finally:
        engine.stop()
