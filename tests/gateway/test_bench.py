"""The gateways' benchmark: its arithmetic, and one small load straight to an engine and through our gateway."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import LabError
from tests.bench import gateway as bench
from tests.bench.gateway_loads import Outcome, Request, Sample, Target, plain, run, streams
from tests.bench.gateway_servers import OURS, Plan, started
from tests.helpers.truth import TruthEngine


def test_a_goal_is_judged_by_the_median_of_our_column() -> None:
    ours: bench.Cells = {"cpu_us": [40.0, 70.0, 50.0], "carried": [150.0], "idle": bench.NONE}
    columns = {"ours": ours, "other": {"cpu_us": "not run"}}
    rows = {row[0]: row[1:] for row in bench.table(columns, "ours").rows}
    assert rows["CPU per streamed token, µs"] == ["50 (40–70)", "not run", "≤ 60: met"]
    assert rows["streams of 50 tokens/s carried by one core"] == ["150", "", "≥ 200: NOT MET"]
    assert rows["idle streams held at once"] == [bench.NONE, "", "≥ 1000: NOT MET"]
    assert rows["start, s"] == ["", "", "≤ 1.5"]  # not measured, so not judged
    assert rows["answers whose bytes were changed, %"] == ["", "", ""]


def test_what_a_gateway_adds_is_the_difference_of_the_percentiles() -> None:
    direct, through = [float(i) for i in range(1, 101)], [i + 3.0 for i in range(1, 101)]
    assert bench.added(through, direct, 0.5) == bench.added(through, direct, 0.99) == 3


@pytest.mark.parametrize("limit", [0, 50, 75, 250, 400, 1000])
def test_search_finds_the_largest_step_that_is_carried(limit: int) -> None:
    steps, tried = range(50, 401, 50), []

    def carries(count: int) -> bool:
        tried.append(count)
        return count <= limit

    assert bench.search(steps, carries) == max([step for step in steps if step <= limit], default=0)
    assert len(tried) <= 4


def test_streams_held_at_once_overlap() -> None:
    assert bench.most_at_once([]) == 0
    assert bench.most_at_once([(0, 5), (1, 3), (4, 9), (5, 6)]) == 2  # a stream that ends makes room at once


def test_shares_are_of_one_core_since_the_sample_before() -> None:
    assert Sample(12.0, 3.0, 1.5, 2.0, 9.0).shares_since(Sample(10.0, 1.0, 1.0, 2.0, 8.0)) == [1.0, 0.25, 0.0, 0.5]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def direct(truth: TruthEngine) -> Outcome:
    return run(Target(truth), streams(3, 5, 0.05))


def test_a_small_load_direct_and_through_our_gateway(truth: TruthEngine, direct: Outcome) -> None:
    original = plain(direct.answers[0].body)
    with bench.opened(OURS, truth, 0) as gateway:
        through = run(Target(truth, gateway, numbers=1000), streams(3, 5, 0.05))
        left = run(Target(truth, gateway, numbers=2000), [Request(0, 500, leave_after_s=1)]).answers[0]
    for outcome in (direct, through):
        assert outcome.faults() == []
        assert outcome.tokens == 15
        assert outcome.changed(original) == 0
        assert [len(answer.sent_ns) for answer in outcome.answers] == [5, 5, 5]
        assert all(ms > 0 for answer in outcome.answers for ms in [answer.first_added_ms(), *answer.delays_ms()])
    assert through.samples[-1].gateway_s > 0
    assert through.rss_mb > 1
    assert left.record
    assert left.left_ns
    assert left.left_ns < left.record["closed_ns"]


def test_lost_tokens_changed_bytes_and_lateness_are_too_much(direct: Outcome) -> None:
    whole = direct.answers[0]
    original = plain(whole.body)
    assert whole.record

    def but(**changes: object) -> Outcome:
        return dataclasses.replace(direct, answers=[dataclasses.replace(whole, **changes)])  # type: ignore[arg-type]

    lost = dataclasses.replace(whole.trace, arrivals_ns=whole.trace.arrivals_ns[:-1])
    late = dataclasses.replace(whole.trace, arrivals_ns=tuple(ns + 10**9 for ns in whole.trace.arrivals_ns))
    slow = [[ns + i * 10**8, chunks] for i, (ns, chunks) in enumerate(whole.record["sends"])]
    behind = [ns for ns, chunks in slow for _ in range(chunks)]
    assert "5 sent, 4 received" in bench.too_much(but(trace=lost), None)
    assert "other bytes" in bench.too_much(but(body=whole.body.replace(b"wave", b"")[:-1]), original)
    assert "delay" in bench.too_much(but(trace=late), original)
    paced = dataclasses.replace(whole.trace, arrivals_ns=tuple(behind))
    assert "fell behind" in bench.too_much(but(trace=paced, record={**whole.record, "sends": slow}), original)


def test_goodput_counts_whole_answers_that_came_in_time(direct: Outcome) -> None:
    whole = direct.answers[0]
    waited = dataclasses.replace(whole, due_ns=whole.due_ns - 2 * 10**9)
    refused = dataclasses.replace(whole, trace=dataclasses.replace(whole.trace, error="HTTP 429"))
    free = dataclasses.replace(whole, request=dataclasses.replace(whole.request, key="free"))
    outcome = dataclasses.replace(direct, answers=[whole, waited, refused, free])
    assert (bench.goodput(outcome), bench.goodput(outcome, "paid")) == (10, 5)


def test_a_gateway_that_does_not_start_is_named_with_its_last_lines(tmp_path: Path) -> None:
    plan = Plan(["sh", "-c", "echo no such model; exit 3"], {}, "/health")
    with pytest.raises(LabError, match="no such model"), started(plan, 1, tmp_path, 0):
        pass
