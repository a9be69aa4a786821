"""The requests of a run on a timeline: when each waited, when it was answered, and when each token arrived.

    python -m shared.report.timeline 3.3.1 load/users-4/vllm/round-1 > timeline.json

Open the file at https://ui.perfetto.dev ("Open trace file"; the browser reads it and sends it nowhere), or in
chrome://tracing. W and S zoom, A and D move; a click on a bar shows its numbers. Several keys appear below each other,
each from the start of its own run, for example two engines under the same load.

The format is Chrome's Trace Event Format: complete events ("X") and instants ("i"), in microseconds, with one process
per run. Perfetto shows the bars of a row only if none overlaps another, so each request takes the first row that is
free. In a closed loop there are as many rows as users, in an open loop as requests at once.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shared import files
from shared.errors import LabError, command
from shared.load.client import Trace
from shared.results import ledger
from shared.results.reading import Entry

Event = dict[str, Any]


def timeline(lab: str, *keys: str) -> dict[str, Any]:
    """The runs of these keys as one trace, ready for JSON. Raises LabError for a key that isn't a recorded load."""
    entries = ledger.load_results(lab, kind=None)
    events: list[Event] = []
    for pid, key in enumerate(keys, 1):
        if key not in entries:
            loads = [k for k in entries if k.startswith("load/")]
            fix = f"choose a recorded load, such as {', '.join(loads[:3])}" if loads else "run the lab first"
            raise LabError(f"{lab} has no result {key!r}.", fix)
        events += of_run(pid, entries[key], traces_of(lab, key))
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {k: about(entries[k]) for k in keys}}


def write(lab: str, key: str) -> Path:
    """Write the timeline of one run into a folder beside its results, and return the file."""
    file = ledger.folder_of(lab) / "timelines" / ledger.entry_file(lab, key).name
    files.write(file, json.dumps(timeline(lab, key)).encode())
    return file


def traces_of(lab: str, key: str) -> list[Trace]:
    raw = ledger.load_raw(lab, key)
    try:
        traces = [Trace.restore(plain) for plain in raw]
    except (TypeError, KeyError, AttributeError):
        traces = []
    if not traces:
        raise LabError(f"{key} holds no requests.", "choose a load, such as load/users-4/vllm/round-1")
    return traces


def about(entry: Entry) -> str:
    """The run's kind and provenance, which Perfetto shows under "Info and stats"."""
    source = entry["provenance"]
    return json.dumps({"kind": entry["kind"], **source})


def of_run(pid: int, entry: Entry, traces: Sequence[Trace]) -> list[Event]:
    """The events of one process: its name, the names of its rows, then all requests' events in order of time."""
    start = min(trace.sent_ns for trace in traces)
    measured = "" if entry["kind"] == "measured" else f" ({entry['kind']})"
    found = rows(traces)
    events = [named("process", entry["key"] + measured, pid, 0)]
    events += [named("thread", f"row {row}", pid, row) for row in range(1, max(found) + 1)]
    timed = [
        event
        for number, (trace, row) in enumerate(zip(traces, found, strict=True), 1)
        for event in of_request(number, trace, {"pid": pid, "tid": row}, start)
    ]
    return events + sorted(timed, key=lambda event: event["ts"])


def rows(traces: Sequence[Trace]) -> list[int]:
    """For each trace, the first row (from 1) on which no earlier request is under way."""
    ends: list[int] = []
    row = [0] * len(traces)
    for i in sorted(range(len(traces)), key=lambda i: traces[i].sent_ns):
        free = next((n for n, end in enumerate(ends) if end <= traces[i].sent_ns), len(ends))
        ends[free : free + 1] = [traces[i].end_ns]
        row[i] = free + 1
    return row


def of_request(number: int, trace: Trace, where: dict[str, int], start_ns: int) -> Iterator[Event]:
    """A bar until the first token, a bar of decoding, and an instant for each chunk of text."""

    def at(ns: int) -> int:  # whole microseconds, rounded before any difference, so a bar ends where the next begins
        return (ns - start_ns) // 1000

    def bar(name: str, begin_ns: int, end_ns: int, **args: object) -> Event:
        known = {k: v for k, v in {"request": number, **args}.items() if v is not None}
        return {
            "name": name,
            "cat": "request",
            "ph": "X",
            "ts": at(begin_ns),
            "dur": at(end_ns) - at(begin_ns),
            **where,
            "args": known,
        }

    def instant(name: str, ns: int, **args: object) -> Event:
        return {"name": name, "cat": "text", "ph": "i", "s": "t", "ts": at(ns), **where, "args": args}

    chunks = trace.chunks_ns
    first = chunks[0] if chunks else trace.end_ns
    # The client can't see when the engine took the request from its queue.
    yield bar(
        "queue and prefill",
        trace.sent_ns,
        first,
        input_tokens=trace.input_tokens,
        cached_tokens=trace.cached_tokens,
        ttft_ms=trace.ttft_ms,
    )
    if chunks:
        yield bar(
            "decode",
            first,
            trace.end_ns,
            output_tokens=trace.output_tokens,
            tpot_ms=trace.tpot_ms,
            finish_reason=trace.finish_reason,
        )
    # Each chunk is one token only if the engine counted as many tokens as there are chunks.
    unit = "token" if trace.output_tokens == len(chunks) else "chunk"
    for ns, text in zip(trace.reasoning_ns, trace.reasoning_texts, strict=True):
        yield instant(f"reasoning {unit}", ns, text=text)
    for ns, text in zip(trace.arrivals_ns, trace.texts, strict=True):
        yield instant(unit, ns, text=text)
    if trace.error is not None:
        yield instant("failed", trace.end_ns, error=trace.error)


def named(what: str, name: str, pid: int, tid: int) -> Event:
    """A metadata event with the name of a process or a row."""
    return {"name": f"{what}_name", "ph": "M", "ts": 0, "pid": pid, "tid": tid, "args": {"name": name}}


@command
def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m shared.report.timeline", description="Print a run's requests as JSON for ui.perfetto.dev."
    )
    parser.add_argument("lab", help="such as 3.3.1")
    parser.add_argument("keys", nargs="+", metavar="key", help="such as load/users-4/vllm/round-1")
    asked = parser.parse_args(arguments)
    json.dump(timeline(asked.lab, *asked.keys), sys.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
