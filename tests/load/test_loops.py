"""Many users against the truth server: the number of requests, how many run at once, and how a load ends."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tqdm import TMonitor

from shared import LabError, load, metrics
from shared.load import Closed, Load, prompts
from shared.load.client import Limits
from shared.load.loops import SETTLING
from tests.helpers.processes import eventually
from tests.helpers.truth import MODEL, TruthEngine, judge

pytestmark = pytest.mark.alone  # it holds measured times against true ones

PROMPTS = prompts.short(MODEL)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TruthEngine]:
    """A new engine for each test, since tests count its requests."""
    with TruthEngine.start(tmp_path / "log") as engine:
        yield engine


def at_once(records: list[dict[str, Any]]) -> int:
    """The most answers that were under way at one moment, by the server's own record."""
    moments = sorted([(r["received_ns"], 1) for r in records] + [(r["closed_ns"], -1) for r in records])
    now = most = 0
    for _, step in moments:
        now += step
        most = max(most, now)
    return most


def threads() -> set[threading.Thread]:
    return {t for t in threading.enumerate() if not isinstance(t, TMonitor)}  # tqdm keeps one of its own


@pytest.mark.parametrize(("users", "requests"), [(1, 3), (4, 4), (4, 10), (16, 33)])
def test_exactly_so_many_requests_by_so_many_users(engine: TruthEngine, users: int, requests: int) -> None:
    engine.plan(ttft_s=0.5)  # so long that all users have asked before the first answer ends
    run = load.run(Load(engine, PROMPTS, Closed(users=users, requests=requests), max_tokens=5, warmup=False))
    records = engine.records()
    assert len(run.traces) == len(records) == requests
    assert at_once(records) == users
    assert all((t.error, t.output_tokens) == (None, 5) for t in run.traces)
    assert (run.users, run.max_tokens, run.prompts, run.engine) == (users, 5, "short", {"engine": "truth"})


def test_traces_agree_with_the_server_under_load(engine: TruthEngine) -> None:
    engine.plan(gap_s=0.02)
    run = load.run(Load(engine, PROMPTS, Closed(users=16, requests=32), max_tokens=10))
    records = engine.records()
    late = sorted(ms for t in run.traces for ms in judge(t, records).arrivals_ms)
    assert late[0] >= 0
    assert late[len(late) // 2] < 10
    assert 0 < run.client_cpu_share < 2


def test_one_user_waits_for_the_answer(engine: TruthEngine) -> None:
    run = load.run(Load(engine, PROMPTS, Closed(users=1, requests=4), max_tokens=4))
    assert all(earlier.end_ns <= later.sent_ns for earlier, later in pairwise(run.traces))


def test_warm_up_is_asked_and_not_counted(engine: TruthEngine) -> None:
    run = load.run(Load(engine, PROMPTS, Closed(users=3, requests=6), max_tokens=8))
    records = engine.records()
    assert (len(records), len(run.traces)) == (9, 6)
    assert max(r["closed_ns"] for r in records[:3]) <= min(t.sent_ns for t in run.traces)


@pytest.mark.parametrize(("warmup", "before"), [(False, 1), (True, 4)])
def test_what_settles_the_engine_is_short_comes_last_and_is_not_counted(
    engine: TruthEngine, warmup: bool, before: int
) -> None:
    run = load.run(Load(engine, PROMPTS, Closed(users=3, requests=3), max_tokens=8, warmup=warmup, settle=True))
    records = engine.records()
    assert (len(records), len(run.traces)) == (before + 3, 3)
    *warming, settling = records[:before]
    assert settling["asked"] == str(SETTLING)
    assert sum(tokens for _, tokens in settling["sends"]) == 1
    assert all(one["closed_ns"] <= settling["received_ns"] for one in warming)
    assert settling["closed_ns"] <= min(t.sent_ns for t in run.traces)


@pytest.mark.parametrize(("more", "recorded"), [({}, None), ({"temperature": 0.7}, 0.7)])
def test_answers_are_greedy_unless_the_load_has_a_temperature(
    engine: TruthEngine, more: dict[str, float], recorded: float | None
) -> None:
    run = load.run(Load(engine, PROMPTS, Closed(users=1, requests=1), max_tokens=2, warmup=False, **more))
    assert [record["temperature"] for record in engine.records()] == [recorded or 0]
    assert run.load.get("temperature") == recorded


def test_failures_are_kept_and_are_no_latencies(engine: TruthEngine) -> None:
    """Each third answer is an immediate error. If it counted, it would make the engine look fast."""
    engine.plan(fault="500", every=3, ttft_s=0.05)
    run = load.run(Load(engine, PROMPTS, Closed(users=2, requests=9), max_tokens=4, warmup=False))
    summary = metrics.summarise(run)
    assert (summary.requests, summary.failed) == (9, 3)
    assert summary.first_error is not None
    assert summary.first_error.startswith("HTTP 500")
    assert summary.ttft_ms is not None
    assert (summary.ttft_ms.n, summary.output_tokens) == (6, 24)
    assert summary.ttft_ms.low >= 50


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ({"tokens": 3, "finish_reason": "stop"}, r"answered 3 of 8 tokens \(finish_reason stop\)"),
        ({"tokens": 0, "finish_reason": "stop"}, r"answered 0 of 8 tokens"),
        ({"tokens": 9}, r"answered 9 of 8 tokens"),
        ({"finish_reason": "abort"}, r"the engine aborted it \(finish_reason abort\)"),
    ],
    ids=["too short", "empty", "too long", "aborted"],
)
def test_an_answer_of_another_length_than_asked_for_is_a_failed_request(
    engine: TruthEngine, plan: dict[str, object], why: str
) -> None:
    """Three tokens of 64 look like a fast engine, and a report that promises exactly 64 would be wrong."""
    engine.plan(**plan)
    with pytest.raises(LabError, match=why):
        load.run(Load(engine, PROMPTS, Closed(users=2, requests=4), max_tokens=8, warmup=False))


def test_an_engine_that_cannot_be_held_to_a_length_may_stop_earlier(engine: TruthEngine) -> None:
    """Ollama has no way to suppress the end of text."""
    engine.plan(tokens=3, finish_reason="stop")
    engine.spec = replace(engine.spec, exact_length={})
    run = load.run(Load(engine, PROMPTS, Closed(users=1, requests=2), max_tokens=8, warmup=False))
    assert [trace.error for trace in run.traces] == [None, None]


def test_a_hanging_answer_fails_and_the_others_go_on(engine: TruthEngine) -> None:
    engine.plan(fault="hang", every=4)
    run = load.run(
        Load(engine, PROMPTS, Closed(users=2, requests=8), max_tokens=6, warmup=False, limits=Limits(idle_s=1))
    )
    assert sorted(t.error or "" for t in run.traces) == [""] * 6 + ["no bytes for 1 s"] * 2


def test_nothing_but_failures_is_an_error(engine: TruthEngine) -> None:
    engine.plan(fault="429")
    with pytest.raises(LabError, match=r"No request of The truth server, 2 users succeeded.*HTTP 429"):
        load.run(Load(engine, PROMPTS, Closed(users=2, requests=4)))


@pytest.mark.parametrize(("users", "requests"), [(5, 4), (0, 4), (-1, 4), (1, 0)])
def test_users_without_a_request_are_refused(engine: TruthEngine, users: int, requests: int) -> None:
    with pytest.raises(LabError, match=f"{requests} requests are too few for {users}" if users > 0 else "at least 1"):
        load.run(Load(engine, PROMPTS, Closed(users=users, requests=requests)))
    assert engine.records() == []


@pytest.mark.parametrize("every", [1, 7], ids=["warm-up", "later"])
def test_a_dying_engine_is_said_with_its_last_words(engine: TruthEngine, every: int) -> None:
    engine.plan(fault="die", every=every)
    with pytest.raises(
        load.Died, match=r"ended during the load. Its exit code is \d+(.|\n)*fatal: the truth is out of memory"
    ) as found:
        load.run(Load(engine, PROMPTS, Closed(users=4, requests=40), max_tokens=6))
    assert not engine.alive
    assert found.value.run.users == 4
    failed = [trace.error for trace in found.value.run.traces if trace.error]
    assert 0 < len(failed) <= 2 * 4  # a user who is refused asks no more: not all 40 are sent to nobody


def test_an_engine_that_dies_with_the_last_requests_is_said(engine: TruthEngine) -> None:
    """Eight good answers don't hide it. After them the connections break before the watchdog notices."""
    engine.plan(fault="die", every=10)
    with pytest.raises(load.Died, match="ended during the load") as found:
        load.run(Load(engine, PROMPTS, Closed(users=2, requests=10), max_tokens=6, warmup=False))
    ended = [trace.error for trace in found.value.run.traces]
    assert 8 <= ended.count(None) < len(ended) <= 10


def test_the_stop_button_leaves_nothing_behind(engine: TruthEngine) -> None:
    before = threads()
    engine.plan(gap_s=0.05)

    def press() -> None:
        if eventually(lambda: len(engine.records()) == 4):  # each user has asked
            os.kill(os.getpid(), signal.SIGINT)

    stop = threading.Thread(target=press)
    stop.start()
    with pytest.raises(KeyboardInterrupt):
        load.run(Load(engine, PROMPTS, Closed(users=4, requests=8), max_tokens=1000, warmup=False))
    stop.join()
    assert threads() == before
    assert eventually(lambda: all(r["closed_ns"] for r in engine.records())), "the engine still works for it"
    assert len(engine.records()) == 4
    engine.plan()
    assert len(load.run(Load(engine, PROMPTS, Closed(users=2, requests=2), max_tokens=4)).traces) == 2


def failing(engine: TruthEngine) -> None:
    engine.plan(fault="500")
    with pytest.raises(LabError):
        load.run(Load(engine, PROMPTS, Closed(users=2, requests=2)))


def succeeding(engine: TruthEngine) -> None:
    load.run(Load(engine, PROMPTS, Closed(users=2, requests=2), max_tokens=4))


@pytest.mark.parametrize("work", [failing, succeeding])
def test_no_thread_and_no_file_is_left_open(engine: TruthEngine, work: Callable[[TruthEngine], None]) -> None:
    work(engine)  # the first one opens what Python keeps
    before = threads(), len(os.listdir("/proc/self/fd"))
    work(engine)
    assert (threads(), len(os.listdir("/proc/self/fd"))) == before


def test_it_works_inside_a_running_loop(engine: TruthEngine) -> None:
    """As in a notebook, whose cells run on an event loop."""

    async def cell() -> load.Run:
        return load.run(Load(engine, PROMPTS, Closed(users=2, requests=4), max_tokens=4))

    run = asyncio.run(cell())
    assert [t.output_tokens for t in run.traces] == [4] * 4
