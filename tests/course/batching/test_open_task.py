"""The open task: what the goal is, which flags were changed, and what does not answer it."""

from dataclasses import replace
from typing import Any

import pytest

from shared.course.batching import open_task
from shared.load import Trace
from tests.helpers.ledger import trace

TODAY: dict[str, Any] = {
    "values": {"requests": 4, "failed": 0, "wall_s": 5.0, "ttft_ms": {"median": 1000.0}, "tpot_ms": {"median": 30.0}},
    "provenance": {
        "model": "small", "precision": "BF16", "max_tokens": 8, "load": {"kind": "closed"},
        "flags": {"--max-num-seqs": 1, "--no-enable-prefix-caching": True, "--enforce-eager": True},
    },
}  # fmt: skip


def tried(flags: dict[str, object], rate_per_s: float = 0.96, **source: Any) -> dict[str, Any]:
    return {
        "values": {},
        "provenance": {**TODAY["provenance"], "flags": flags, "load": {"rate_per_s": rate_per_s}, **source},
    }


def answers(count: int, **how: Any) -> list[Trace]:
    found = [trace(start_ms=1000 * n, **how) for n in range(count)]
    return [replace(one, scheduled_ns=one.sent_ns) for one in found]


def test_the_goal_is_a_fifth_more_requests_and_three_times_the_latency() -> None:
    goal = open_task.goal(TODAY)
    assert goal.capacity_per_s == 0.8
    assert goal.rate_per_s == pytest.approx(0.96)
    assert (goal.slo.ttft_ms, goal.slo.tpot_ms) == (3000, 90)
    assert "carries 0.80 requests/s; the goal is 0.96, with the first token within 3000 ms" in str(goal)


def test_a_failed_request_is_no_capacity() -> None:
    lossy = {**TODAY, "values": {**TODAY["values"], "failed": 1}}
    assert open_task.goal(lossy).capacity_per_s == 0.6
    assert "1 of 4 requests to today's server failed" in open_task.fault(lossy, tried({}), answers(12))


def test_a_flag_set_to_false_is_left_out() -> None:
    before = {"--max-num-seqs": 1, "--no-enable-prefix-caching": True}
    assert open_task.merged(before, {"--no-enable-prefix-caching": False}) == {"--max-num-seqs": 1}
    assert open_task.merged(before, {}) == before


def test_changes_are_named_as_they_are_typed() -> None:
    caching = tried({"--max-num-seqs": 8, "--enforce-eager": True})
    assert open_task.changes(TODAY, caching) == "--max-num-seqs 8, no --no-enable-prefix-caching"
    assert open_task.changes(TODAY, TODAY) == "none"


@pytest.mark.parametrize(
    ("mine", "found", "reason"),
    [
        (tried({}), answers(12), ""),
        (tried({}), answers(12)[:11] + answers(1, gap_ms=200), ""),
        (tried({}), answers(10) + answers(2, gap_ms=200), "kept for 10 of 12 requests"),
        (tried({}), answers(12, gap_ms=200), "kept for 0 of 12 requests"),  # a prompt is computed among the streams
        (tried({}), answers(10) + answers(2, error="refused"), "kept for 10 of 12 requests"),
        (tried({}, rate_per_s=0.8), answers(12), "0.80 requests/s were sent, but 0.96 are asked for"),
        (tried({}, model="another"), answers(12), "more than flags: model"),
        (tried({}, max_tokens=1), answers(12), "more than flags: max_tokens"),
        (tried({}), answers(2), "only 2 requests"),
    ],
)
def test_what_answers_the_task(mine: dict[str, Any], found: list[Trace], reason: str) -> None:
    fault = open_task.fault(TODAY, mine, found)
    assert reason in fault
    assert bool(fault) == bool(reason)


def test_a_request_that_broke_off_has_no_latency_in_the_table() -> None:
    broken = answers(6, ttft_ms=900, gap_ms=70, error="reset")
    loads = {open_task.TODAY: answers(4), open_task.MINE: answers(6) + broken}
    [_, mine] = open_task.table({open_task.TODAY: TODAY, open_task.MINE: tried({})}, loads.__getitem__).rows
    assert mine[3:] == ("6 of 12", "50", "10")


def test_the_table_has_a_row_for_each_server_that_was_tried() -> None:
    loads = {open_task.TODAY: answers(4), open_task.MINE: answers(12)}
    entries = {open_task.TODAY: TODAY, open_task.MINE: tried({"--max-num-seqs": 1, "--enforce-eager": True})}
    today, mine = open_task.table(entries, loads.__getitem__).rows
    assert today[:4] == ("today", "none", "one user", "4 of 4")
    assert mine[:4] == ("yours", "no --no-enable-prefix-caching", "0.96", "12 of 12")
