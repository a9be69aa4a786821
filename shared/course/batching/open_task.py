"""The open task of lab 3.3.2: hold a promise at 1.2 times the capacity of today's server, by its flags.

Today's server has one seat and no prefix cache. Its users all send the same long instructions before a short question.
More seats alone fail: the instructions are computed again for every request, and while one is computed, the streams of
all others pause.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from shared.course.evidence import measure_again
from shared.engines import Flags
from shared.load.client import Trace
from shared.metrics.spread import Spread
from shared.metrics.summary import Slo, late_ms
from shared.report.table import Table
from shared.results.reading import Entry

TODAY, MORE_SEATS, MINE = "task/today", "task/more-seats", "task/mine"
TIMES = 1.2  # today's capacity
SLOWER = 3  # times as slow as a request on today's server: the promise
ENOUGH_PERCENT = 90  # of the requests must keep the promise
TOKENS = 8  # of an answer
REQUESTS = {"full": 12, "quick": 6}
SAME = ("model", "model_sha256", "precision", "dtype", "cores", "prompts", "max_tokens")  # else it is another task

Traces = Callable[[str], list[Trace]]


@dataclass(frozen=True)
class Goal:
    """What is to be held: a rate of requests, and the promise."""

    capacity_per_s: float  # of today's server
    slo: Slo

    @property
    def rate_per_s(self) -> float:
        return TIMES * self.capacity_per_s

    def __str__(self) -> str:
        return (
            f"today's server carries {self.capacity_per_s:.2f} requests/s; the goal is {self.rate_per_s:.2f}, with the "
            f"first token within {self.slo.ttft_ms} ms and then one every {self.slo.tpot_ms} ms on average, "
            f"for {ENOUGH_PERCENT} % of the requests"
        )


def goal(today: Entry) -> Goal:
    """The goal that follows from today's server, whose one seat was always taken."""
    values = today["values"]
    slo = Slo(*(round(SLOWER * values[name]["median"]) for name in ("ttft_ms", "tpot_ms")))
    answered = values["requests"] - values["failed"]  # a request that failed was not carried
    return Goal(answered / values["wall_s"], slo)


def merged(flags: Flags, changed: Flags) -> dict[str, object]:
    """Flags with some changed. A flag that is set to False or None is left out, so its default applies."""
    return {flag: value for flag, value in {**flags, **changed}.items() if value is not False and value is not None}


def changes(today: Entry, other: Entry) -> str:
    """The flags in which two servers differ, as one types them."""
    before, after = (entry["provenance"]["flags"] for entry in (today, other))
    named = [f"{flag} {value}".removesuffix(" True") for flag, value in after.items() if before.get(flag) != value]
    return ", ".join([*named, *(f"no {flag}" for flag in before if flag not in after)]) or "none"


def kept(found: list[Trace], slo: Slo) -> int:
    return sum(slo.kept(trace) for trace in found)


def fault(today: Entry, mine: Entry, found: list[Trace]) -> str:
    """Why a result does not answer the task, or "": another model or load, or a promise that was not kept.

    Nothing answers it if requests of today's server failed: a wait that ended in an error would lower the goal.
    """
    values = today["values"]
    if values["failed"]:
        failed = f"{values['failed']} of {values['requests']} requests to today's server failed"
        return f"{failed}, so its capacity is not known: {measure_again(TODAY, 'task-today')}"
    was, now = today["provenance"], mine["provenance"]
    if other := [name for name in SAME if was.get(name) != now.get(name)]:
        return f"it differs from today's server in more than flags: {', '.join(other)}"
    asked, wanted = now["load"].get("rate_per_s", 0), goal(today)
    if asked < 0.999 * wanted.rate_per_s:
        return f"{asked:.2f} requests/s were sent, but {wanted.rate_per_s:.2f} are asked for"
    if len(found) < REQUESTS["quick"]:
        return f"only {len(found)} requests were sent"
    if 100 * kept(found, wanted.slo) < ENOUGH_PERCENT * len(found):
        return f"the promise was kept for {kept(found, wanted.slo)} of {len(found)} requests"
    return ""


def table(entries: Mapping[str, Entry], traces: Traces) -> Table:
    """The servers that were tried, at the rate that each was offered."""
    today = entries[TODAY]
    slo = goal(today).slo
    rows = []
    for name, key in (("today", TODAY), ("more seats", MORE_SEATS), ("yours", MINE)):
        if key in entries:
            rows.append((name, *row(today, entries[key], traces(key), slo)))
    header = ("server", "flags changed", "offered, requests/s", "kept the promise", "TTFT, ms", "TPOT, ms")
    return Table(f"The promise: TTFT {slo.ttft_ms} ms, TPOT {slo.tpot_ms} ms", header, rows)


def row(today: Entry, entry: Entry, found: list[Trace], slo: Slo) -> tuple[Any, ...]:
    rate = entry["provenance"]["load"].get("rate_per_s")
    answered = [trace for trace in found if trace.error is None]  # a failed one has no latency
    return (
        changes(today, entry),
        f"{rate:.2f}" if rate else "one user",
        f"{kept(found, slo)} of {len(found)}",
        str(Spread.of(trace.ttft_ms + late_ms(trace) for trace in answered if trace.ttft_ms is not None) or "–"),
        str(Spread.of(trace.tpot_ms for trace in answered) or "–"),
    )
