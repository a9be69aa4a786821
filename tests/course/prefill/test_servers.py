"""Servers on the prefill curve: what is refused, the time in a queue, and llama.cpp's real answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shared.course.prefill import curve, experiments, servers
from shared.errors import LabError
from shared.launch import launch
from shared.load import Trace
from shared.models import ModelChoice
from tests.helpers.tiny_llama import CONFIGS, tiny
from tests.helpers.truth import TruthEngine

MS = 1_000_000


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    """A server that counts 11 prompt tokens, 3 of them from a cache, whatever it is sent."""
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


@pytest.mark.parametrize("tokens", [11, 12])
def test_an_engine_that_computed_other_tokens_is_refused(truth: TruthEngine, tokens: int) -> None:
    truth.plan()
    with pytest.raises(LabError, match=rf"was sent {tokens} tokens; it counted 11, 3 of them from a cache"):
        servers.Served(truth).time_s([5] * tokens)


def test_a_failed_request_is_no_time(truth: TruthEngine) -> None:
    truth.plan(fault="503")
    with pytest.raises(LabError, match="didn't answer a prompt of 11 tokens"):
        servers.Served(truth).time_s([5] * 11)


def trace(sent_ms: float, first_ms: float, end_ms: float) -> Trace:
    return Trace(int(sent_ms * MS), (int(first_ms * MS),), ("x",), int(end_ms * MS), 400, 1, 0, "length", None)


# Three users on one seat: each request is served when the one before it has ended.
THREE = [trace(0, 90, 100), trace(1, 190, 200), trace(2, 290, 300), trace(101, 390, 400), trace(450, 540, 550)]


def test_the_time_in_the_queue_ends_when_the_answer_before_has_ended() -> None:
    assert experiments.queue_ms([THREE[i] for i in (2, 0, 4, 1, 3)]) == [0, 99, 198, 199, 0]


def test_queue_and_fit_are_compared_with_the_requests_that_waited() -> None:
    exact = experiments.queued(THREE, 400, curve.Fit(90.0, 0.0, 0.0))
    assert exact["requests"] == 3
    assert exact["error_percent"] == pytest.approx([0, 0, 0])
    assert (exact["queue_ms"], exact["ttft_ms"]) == (198, 288)  # of the same three requests
    too_long = experiments.queued(THREE, 400, curve.Fit(180.0, 0.0, 0.0))
    assert too_long["error_percent"][0] == pytest.approx(100 * 90 / 288)


def test_a_batch_computes_every_prompt() -> None:
    llama = tiny(CONFIGS["llama"])[0]
    asked: list[tuple[int, ...]] = []
    forward = llama.forward
    llama.forward = lambda rows, cache: asked.append(tuple(rows.shape)) or forward(rows, cache)  # type: ignore[method-assign, func-returns-value]
    with torch.inference_mode():
        assert len(experiments.Batch(llama, 4).time_s([1, 2, 3], repeats=2)) == 2
    assert asked == [(4, 3), (4, 3)]


@pytest.mark.engine
def test_llamacpp_is_timed_by_two_clocks(model: ModelChoice, tmp_path: Path) -> None:
    ids = curve.random_ids(200, 40_000, 0)
    with launch("llamacpp", model, servers.FLAGS["llamacpp"], quiet=True) as engine:
        served = servers.Served(engine)
        times = served.time_s(ids, repeats=2)  # the same prompt again: no cache may help
    assert len(times) == len(served.own_ms[200]) == 2
    assert all(1e3 * took_s > own for took_s, own in zip(times, served.own_ms[200], strict=True))
