"""A run's requests in Chrome's trace event format, as Perfetto reads it."""

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from shared import LabError, metrics, results
from shared.load import Run
from shared.report import timeline
from tests.helpers.ledger import fill, provenance, trace

KEY = "load/users-4/vllm/round-1"


def bars(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in told["traceEvents"] if event["ph"] == "X"]


def test_each_request_is_a_wait_and_a_decode_with_its_tokens() -> None:
    fill({"vllm": 20}, rounds=1)
    told = timeline.timeline("3.3.1", KEY)
    json.dumps(told)
    assert {event["ph"] for event in told["traceEvents"]} == {"M", "X", "i"}
    assert all(isinstance(event["ts"], int) and event["ts"] >= 0 for event in told["traceEvents"])
    assert all({"name", "ph", "ts", "pid", "tid"} <= set(event) for event in told["traceEvents"])
    waits = [bar for bar in bars(told) if bar["name"] == "queue and prefill"]
    decodes = [bar for bar in bars(told) if bar["name"] == "decode"]
    assert len(waits) == len(decodes) == 4
    assert waits[0]["dur"] == 50_500  # microseconds: the first token came after 50.5 ms
    assert waits[0]["args"]["input_tokens"] == 40
    assert sum(event["ph"] == "i" and event["name"] == "token" for event in told["traceEvents"]) == 4 * 8
    [process] = [event for event in told["traceEvents"] if event["name"] == "process_name"]
    assert process["args"]["name"] == KEY


def test_no_two_bars_of_a_row_overlap_and_events_are_in_order() -> None:
    traces = tuple(trace(start_ms=start) for start in (0, 30, 60, 130, 260, 261))  # each takes 121 ms
    run = Run(traces, 3, 8, "short", provenance("vllm"), 0.01)
    results.record("3.3.1", "load/x", metrics.summarise(run))
    told = timeline.timeline("3.3.1", "load/x")
    rows: dict[int, list[tuple[int, int]]] = {}
    for bar in bars(told):
        rows.setdefault(bar["tid"], []).append((bar["ts"], bar["ts"] + bar["dur"]))
    assert len(rows) == 3  # as many as were under way at once
    for row in rows.values():
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(sorted(row)))
    timed = [event["ts"] for event in told["traceEvents"] if event["ph"] != "M"]
    assert timed == sorted(timed)


def test_a_failed_request_is_seen() -> None:
    run = Run((trace(), trace(error="HTTP 500")), 2, 8, "short", provenance("vllm"), 0.01)
    results.record("3.3.1", "load/x", metrics.summarise(run))
    [failed] = [e for e in timeline.timeline("3.3.1", "load/x")["traceEvents"] if e["name"] == "failed"]
    assert failed["args"] == {"error": "HTTP 500"}


def test_two_runs_stand_below_each_other() -> None:
    fill({"vllm": 20, "sglang": 30}, rounds=1)
    told = timeline.timeline("3.3.1", KEY, KEY.replace("vllm", "sglang"))
    assert {event["pid"] for event in told["traceEvents"]} == {1, 2}


def test_the_command_writes_it_and_names_what_there_is() -> None:
    fill({"vllm": 20}, rounds=1)
    command = [sys.executable, "-m", "shared.report.timeline", "3.3.1"]
    told = subprocess.run([*command, KEY], capture_output=True, text=True, check=True)
    assert json.loads(told.stdout) == timeline.timeline("3.3.1", KEY)
    wrong = subprocess.run([*command, "load/none"], capture_output=True, text=True)
    assert wrong.returncode == 1
    assert "3.3.1 has no result 'load/none'" in wrong.stderr
    assert "load/users-" in wrong.stderr
    with pytest.raises(LabError, match="holds no requests"):
        timeline.write("3.3.1", "greedy/vllm")
    assert json.loads(timeline.write("3.3.1", KEY).read_text())["traceEvents"]
