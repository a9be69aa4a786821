"""All native engines side by side: the same prompt, and no processor time when idle."""

import asyncio
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared import load, metrics
from shared.course.batching import mini_load
from shared.engines import ENGINES
from shared.engines.http import counters, greedy_tokens
from shared.launch import alone, launch, stop_all
from shared.launch.running import Engine
from shared.load import Closed, Load, prompts
from shared.load.prompts import CHECK_QUESTIONS, OPENING_TOKENS, chat
from shared.models import ModelChoice
from shared.processes import descendants
from shared.report import live_panel

pytestmark = pytest.mark.engine

FLAGS: dict[str, dict[str, object]] = {
    "ollama": {"OLLAMA_NUM_PARALLEL": 4, "OLLAMA_CONTEXT_LENGTH": 1024},
    "llamacpp": {"-np": 4, "-c": 4096},
    "vllm": {"--max-num-seqs": 4, "--max-model-len": 1024, "--enforce-eager": True},
    "sglang": {"--max-running-requests": 4, "--max-total-tokens": 4096, "--disable-radix-cache": True},
}
NAMES = tuple(FLAGS)


@pytest.fixture(scope="module")
def engines(model: ModelChoice) -> Iterator[dict[str, Engine]]:
    try:
        with ThreadPoolExecutor(len(NAMES)) as all_at_once:  # most of a start is Python's imports, on one core
            started = all_at_once.map(lambda name: launch(name, model, FLAGS[name], quiet=True), NAMES)
            found = dict(zip(NAMES, started, strict=True))
        yield found
    finally:
        stop_all()


def cpu_s(engine: Engine) -> float:
    """Processor time of every process of the engine so far."""
    ticks = 0
    for pid in descendants(engine.process.pid):
        with open(f"/proc/{pid}/stat") as f:
            ticks += sum(int(n) for n in f.read().rsplit(")", 1)[1].split()[11:13])
    return ticks / os.sysconf("SC_CLK_TCK")


def cpu_shares(engines: dict[str, Engine], seconds: float) -> dict[str, float]:
    """The share of one core that each engine used, all in the same window."""
    before = {name: cpu_s(engine) for name, engine in engines.items()}
    time.sleep(seconds)
    return {name: (cpu_s(engine) - before[name]) / seconds for name, engine in engines.items()}


def test_every_native_engine_is_here() -> None:
    assert set(NAMES) == {name for name, spec in ENGINES.items() if spec.native}


def test_all_see_the_same_prompt(engines: dict[str, Engine], model: ModelChoice) -> None:
    for question in CHECK_QUESTIONS:
        seen = {name: greedy_tokens(engine, chat(model, question), 2)[0] for name, engine in engines.items()}
        assert len({tuple(ids) for ids in seen.values()}) == 1, seen


def test_idle_engines_take_no_processor(engines: dict[str, Engine]) -> None:
    # The best of three, because SGLang tidies up now and then. A share of all cores that the engine was given.
    shares = [cpu_shares(engines, 5) for _ in range(3)]
    best = {name: min(share[name] for share in shares) / engines[name].cores for name in NAMES}
    assert all(share < 0.02 for share in best.values()), best


@pytest.mark.parametrize("name", NAMES)
def test_a_load_is_counted_by_the_engine_too(engines: dict[str, Engine], model: ModelChoice, name: str) -> None:
    run = load.run(Load(engines[name], prompts.short(model), Closed(users=2, requests=4), max_tokens=16))
    summary = metrics.summarise(run)
    assert (summary.requests, summary.failed) == (4, 0)
    assert summary.cached_tokens is not None
    assert summary.cached_tokens <= (4 * OPENING_TOKENS if name == "ollama" else 0)
    # SGLang's counters grow only some time after an answer has ended.
    deadline = time.monotonic() + 20
    while counters(engines[name])["running"] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert counters(engines[name])["running"] == counters(engines[name])["waiting"] == 0
    if ENGINES[name].exact_length:
        assert summary.output_tokens == 4 * 16
        assert run.counted["generated_tokens"] == pytest.approx(4 * 16, abs=4)  # some leave the first out


@pytest.mark.parametrize("name", NAMES)
def test_a_paused_engine_stands_still_and_goes_on(engines: dict[str, Engine], model: ModelChoice, name: str) -> None:
    engine, other = engines[name], engines["llamacpp" if name != "llamacpp" else "ollama"]
    with alone(other):
        states = [stat(pid) for pid in descendants(engine.process.pid)]
        assert set(states) == {"T"}
        assert "T" not in [stat(pid) for pid in descendants(other.process.pid)]
        assert greedy_tokens(other, chat(model, "Hi"), 2)[1]
    assert greedy_tokens(engine, chat(model, "Hi"), 2)[1]


def stat(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def test_the_panel_sees_the_queue_of_a_real_engine(engines: dict[str, Engine], model: ModelChoice) -> None:
    with live_panel.watch(engines["vllm"], step_s=0.05) as seen:
        run = load.run(Load(engines["vllm"], prompts.short(model), Closed(users=8, requests=8), max_tokens=16))
    assert run.counted["generated_tokens"] == 8 * 16
    assert seen.most("running") == 4
    assert 4 <= (seen.most("waiting") or 0) < 8  # a request stops waiting when the prefill of its prompt begins
    assert 0 < (seen.most("kv_use") or 0) <= 1
    assert seen.most("preemptions") == 0
    assert run.counted["prefills"] == 8
    assert run.counted["cache_queries"] > 0


def test_a_long_prompt_arrives_while_streams_flow(engines: dict[str, Engine], model: ModelChoice) -> None:
    work = mini_load.book_among_streams(
        engines["vllm"], prompts.short(model), prompts.long(model, 200), streams=2, max_tokens=96
    )
    streams, book = asyncio.run(work)
    assert [trace.output_tokens for trace in (*streams, book)] == [96, 96, 4]
    assert book.input_tokens == 200
    assert all(trace.arrivals_ns[0] < book.sent_ns < trace.end_ns for trace in streams)
