"""Single requests of lab 3.3.1: a failed one is no figure, and an engine that was stopped on purpose goes on."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from shared import LabError, paths
from shared.course.benchmark import experiments
from shared.files import held
from shared.load import prompts
from shared.load.loops import in_own_loop
from shared.processes import descendants
from tests.helpers.truth import MODEL, TruthEngine

QUESTION = prompts.chat(MODEL, "What is gravity?")


class Interrupted(TruthEngine):
    """Somebody presses Ctrl-C as soon as it stands still."""

    def pause(self) -> None:
        super().pause()
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def truth(tmp_path: Path) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path / "log") as engine:
        yield engine


def states(engine: TruthEngine) -> set[str]:
    return {psutil.Process(pid).status() for pid in descendants(engine.process.pid)}


def test_an_answer_is_a_trace(truth: TruthEngine) -> None:
    trace = asyncio.run(experiments.ask(truth, QUESTION, 4))
    assert (trace.output_tokens, trace.error) == (4, None)


def test_a_request_that_fails_is_an_error_and_no_trace(truth: TruthEngine) -> None:
    truth.plan(fault="500")
    with pytest.raises(LabError, match=r"A request to The truth server failed: HTTP 500.*\nFix: run the cell again"):
        asyncio.run(experiments.ask(truth, QUESTION, 4))


def test_an_engine_that_has_ended_gives_no_figure(truth: TruthEngine) -> None:
    """It refuses each connection in a millisecond, which would be the shortest latency of all."""
    truth.end()
    with pytest.raises(LabError, match="A request to The truth server failed"):
        asyncio.run(experiments.ask_through_a_stall(truth, MODEL))


def test_the_stall_delays_requests_and_ends(truth: TruthEngine) -> None:
    truth.plan(ttft_s=0.02)
    requests, limit_ms = in_own_loop(experiments.ask_through_a_stall(truth, MODEL))
    waits_ms = [(end_ns - scheduled_ns) / 1e6 for scheduled_ns, _, end_ns in requests]
    assert len(requests) == 16
    assert 0 < sum(wait > limit_ms for wait in waits_ms) < 16
    assert psutil.STATUS_STOPPED not in states(truth)


def test_after_ctrl_c_during_the_stall_the_engine_goes_on(tmp_path: Path) -> None:
    with Interrupted.start(tmp_path / "log") as engine:
        with pytest.raises(KeyboardInterrupt):
            in_own_loop(experiments.ask_through_a_stall(engine, MODEL))
        assert psutil.STATUS_STOPPED not in states(engine)
        assert asyncio.run(experiments.ask(engine, QUESTION, 4)).error is None


class Watching(TruthEngine):
    """It notes whether the lock of measurements is held while a request to it is made."""

    locked: list[bool]

    @property
    def served_name(self) -> str:
        self.locked.append(held(paths.measuring()))
        return "truth"


async def one_by_one(users: int, requests: int, send: Any) -> list[Any]:
    answers = []
    for number in range(requests):
        answers.append(await send(number))
        assert held(paths.measuring())  # between two requests, too
    return answers


def tokens_inside(*_: object, **more: object) -> Iterator[int]:
    while True:
        assert held(paths.measuring())
        yield 7


INSIDE = SimpleNamespace(reset=lambda: None, generate=tokens_inside)
SUPPLY = prompts.short(MODEL)


@pytest.mark.parametrize(
    "experiment",
    [
        lambda truth: experiments.ask(truth, QUESTION, 4),
        lambda truth: experiments.drive(one_by_one, truth, SUPPLY, 1, 2, 4),
        lambda truth: experiments.ask_through_a_stall(truth, MODEL),
        lambda truth: experiments.ask_through_pool(truth, islice(SUPPLY, 3), connections=2, tokens=4),
        lambda truth: experiments.library_and_server(INSIDE, truth, QUESTION, [1], rounds=1, tokens=4),
    ],
    ids=["ask", "drive", "stall", "pool", "library"],
)
def test_no_other_measurement_runs_beside_an_experiment(
    experiment: Callable[[TruthEngine], Awaitable[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    with Watching.start(tmp_path / "log") as engine:
        engine.locked = []
        in_own_loop(experiment(engine))  # type: ignore[arg-type]
        assert set(engine.locked) == {True}
    assert not held(paths.measuring())
