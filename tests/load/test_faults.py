"""Trouble comes when it is asked for, and passes; what was measured until then is kept."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from shared import load, metrics
from shared.course.batching import mini_load
from shared.launch import launch
from shared.launch.running import Engine
from shared.load import Closed, Load, faults
from shared.load.prompts import long, short
from shared.models import ModelChoice
from shared.report import live_panel


class Stalling:
    """An engine that notes when it was held still."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def pause(self) -> None:
        self.seen.append("paused")

    def resume(self) -> None:
        self.seen.append("resumed")


def test_a_stall_ends_by_itself_or_with_the_block() -> None:
    engine = Stalling()
    with faults.stall(engine, after_s=0.02, for_s=0.02):  # type: ignore[arg-type]
        time.sleep(0.2)
        assert engine.seen == ["paused", "resumed"]
    engine = Stalling()
    with faults.stall(engine, after_s=0.01, for_s=60):  # type: ignore[arg-type]
        time.sleep(0.1)
    assert engine.seen == ["paused", "resumed"]
    engine = Stalling()
    with faults.stall(engine, after_s=60, for_s=1):  # type: ignore[arg-type]
        pass
    assert engine.seen == []


@pytest.fixture(scope="module")
def vllm(model: ModelChoice) -> Iterator[Engine]:
    flags = {"--max-num-seqs": 4, "--max-model-len": 512, "--max-num-batched-tokens": 64, "--enforce-eager": True}
    with launch("vllm", model, flags, quiet=True) as engine:
        yield engine


@pytest.mark.engine
def test_the_panel_sees_the_queue_of_a_real_engine(vllm: Engine, model: ModelChoice) -> None:
    with live_panel.watch(vllm, step_s=0.05) as seen:
        run = load.run(Load(vllm, short(model), Closed(users=8, requests=8), max_tokens=16))
    assert run.counted["generated_tokens"] == 8 * 16
    assert seen.most("running") == 4
    assert 4 <= (seen.most("waiting") or 0) < 8  # a seat is taken once its prompt is being computed
    assert 0 < (seen.most("kv_use") or 0) <= 1
    assert seen.most("preemptions") == 0
    assert run.counted["prefills"] == 8
    assert run.counted["cache_queries"] > 0


@pytest.mark.engine
def test_a_long_prompt_arrives_while_streams_flow(vllm: Engine, model: ModelChoice) -> None:
    work = mini_load.book_among_streams(vllm, short(model), long(model, 200), streams=2, max_tokens=32)
    streams, book = asyncio.run(work)
    assert [trace.output_tokens for trace in (*streams, book)] == [32, 32, 4]
    assert book.input_tokens == 200
    assert all(trace.arrivals_ns[0] < book.sent_ns < trace.end_ns for trace in streams)


@pytest.mark.engine
def test_a_load_on_an_engine_that_dies_keeps_its_partial_result(vllm: Engine, model: ModelChoice) -> None:
    with faults.death(vllm, after_tokens=24), pytest.raises(load.Died, match="died under the load") as died:
        load.run(Load(vllm, short(model), Closed(users=2, requests=100), max_tokens=8))
    assert not vllm.alive
    found = metrics.summarise(died.value.run)
    assert 0 < found.failed < 20  # of 100: what was under way, and what a server without its engine still refused
    assert 24 // 8 - 2 <= found.requests - found.failed < 100
    assert found.first_error
    assert found.output_tokens == 8 * (found.requests - found.failed)
