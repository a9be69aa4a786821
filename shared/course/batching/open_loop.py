"""The open loop: how long a load must last, what each load delivered within the promise, and whether it was sent right.

wait = open_loop.patience(seats=32, rate_per_s=3.9, percent=150, ttft_limit_s=2.5, at_most_s=45)
points = open_loop.points(lab.results(), lab.traces, slo)
show(open_loop.promise_table(points))
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.load.client import Trace
from shared.metrics.spread import Spread
from shared.metrics.summary import Slo, late_ms
from shared.report.table import Table
from shared.results.reading import Entry

PREFIX = "open/percent-"
HOLDS, COLLAPSES = 0.8, 0.6  # of the best throughput; of the best share of requests that kept the promise


@dataclass(frozen=True)
class Patience:
    """How an overload builds up, in seconds from its beginning, and how long the load lasts because of it."""

    seats_full_s: float
    first_miss_s: float
    load_s: float

    def __str__(self) -> str:
        return (
            f"at the highest rate the seats are full after about {self.seats_full_s:.0f} s, and new requests wait "
            f"longer than promised after about {self.first_miss_s:.0f} s; each load lasts {self.load_s:.0f} s"
        )


def patience(seats: int, rate_per_s: float, percent: float, ttft_limit_s: float, at_most_s: float) -> Patience:
    """How long a load of `percent` of the capacity must last until its queue shows.

    rate_per_s: the capacity in requests per second. The excess is (percent / 100 - 1) × rate. It first fills the
    seats, then the queue. A request waits longer than the limit once the queue holds rate × limit requests. The load
    lasts twice as long as that takes, so that about half of its requests are late, but at most `at_most_s`.
    """
    excess_per_s = (percent / 100 - 1) * rate_per_s
    seats_full_s = seats / excess_per_s
    first_miss_s = seats_full_s + ttft_limit_s * rate_per_s / excess_per_s
    return Patience(seats_full_s, first_miss_s, round(min(2 * first_miss_s, at_most_s), 1))


@dataclass(frozen=True)
class Point:
    """What one load of the open loop gave."""

    percent: int  # of the capacity
    rate_per_s: float  # requests per second, as scheduled
    offered_tok_s: float  # requests per second, as scheduled, × tokens of an answer
    output_tok_s: float
    goodput_tok_s: float
    requests: int
    expected: float  # requests, by the rate and the time of the load
    kept: int
    missed_ttft: int
    missed_tpot: int
    ttft_ms: Spread | None  # from the schedule
    tpot_ms: Spread | None
    queue_ms: float | None  # the mean by the engine's metrics
    in_flight: float  # mean number of requests under way while requests were still sent
    rate_times_latency: float  # the same by Little's law
    share_inside: float  # of the time that requests were under way: while others were still sent

    @property
    def kept_percent(self) -> float:
        return 100 * self.kept / self.requests


def points(entries: Mapping[str, Entry], traces: Callable[[str], list[Trace]], slo: Slo) -> list[Point]:
    """A point for each load under `open/`, in the order of their rates."""
    keys = [key for key in entries if key.startswith(PREFIX)]
    return [point(key, entries[key], traces(key), slo) for key in sorted(keys, key=percent_of)]


def percent_of(key: str) -> int:
    return int(key.removeprefix(PREFIX))


def point(key: str, entry: Entry, traces: Sequence[Trace], slo: Slo) -> Point:
    values, asked = entry["values"], entry["provenance"]["load"]
    good = [trace for trace in traces if slo.kept(trace)]
    answered = [trace for trace in traces if trace.error is None]  # a failed one has no latency
    answers = [trace.output_tokens or 0 for trace in answered]  # a failed one was offered as well
    only_ttft, only_tpot = Slo(ttft_ms=slo.ttft_ms), Slo(tpot_ms=slo.tpot_ms)
    expected = asked["rate_per_s"] * asked["seconds"]
    in_flight, by_law = littles_law(traces, asked["rate_per_s"], asked["seconds"])
    return Point(
        percent=percent_of(key),
        rate_per_s=asked["rate_per_s"],
        offered_tok_s=asked["rate_per_s"] * sum(answers) / max(1, len(answers)),
        output_tok_s=values["output_tok_s"],
        goodput_tok_s=sum(trace.output_tokens or 0 for trace in good) / values["wall_s"],
        requests=len(traces),
        expected=expected,
        kept=len(good),
        missed_ttft=sum(not only_ttft.kept(trace) for trace in traces),
        missed_tpot=sum(not only_tpot.kept(trace) for trace in traces),
        ttft_ms=Spread.of(t.ttft_ms + late_ms(t) for t in answered if t.ttft_ms is not None),
        tpot_ms=Spread.of(t.tpot_ms for t in answered),
        queue_ms=values["queue_ms"],
        in_flight=in_flight,
        rate_times_latency=by_law,
        share_inside=in_flight / by_law * expected / len(traces),
    )


def littles_law(traces: Sequence[Trace], rate_per_s: float, seconds: float) -> tuple[float, float]:
    """Mean number of requests in flight, and rate × mean latency; equal in a steady state (J. D. C. Little, 1961).

    The first is counted from the stamps, over the `seconds` in which requests were sent. The second takes the rate
    that was asked for, so a load generator that leaves requests out shows as a difference. Latencies count from the
    schedule, so requests that are sent late lengthen both sides.
    """
    starts = [t.sent_ns if t.scheduled_ns is None else t.scheduled_ns for t in traces]
    begin, end = min(starts), min(starts) + int(seconds * 1e9)
    inside_ns = sum(max(0, min(t.end_ns, end) - start) for t, start in zip(traces, starts, strict=True))
    latency_s = sum(t.end_ns - start for t, start in zip(traces, starts, strict=True)) / len(traces) / 1e9
    return inside_ns / (end - begin), rate_per_s * latency_s


def promise_table(found: Sequence[Point]) -> Table:
    """Which promise was missed at which load, and why."""
    rows = [
        (
            f"{p.percent} %",
            f"{p.offered_tok_s:.0f}",
            str(p.requests),
            f"{p.kept_percent:.0f} %",
            str(p.missed_ttft),
            str(p.missed_tpot),
            str(p.ttft_ms or "–"),
            str(p.tpot_ms or "–"),
            "–" if p.queue_ms is None else f"{p.queue_ms:.0f}",
        )
        for p in found
    ]
    header = (
        "% of capacity", "offered, tok/s", "requests", "kept both", "missed TTFT", "missed TPOT", "TTFT, ms",
        "TPOT, ms", "mean wait in the queue, ms",
    )  # fmt: skip
    return Table("Which promise broke at which load", header, rows)


def little_table(found: Sequence[Point]) -> Table:
    """The load generator, checked by Little's law."""
    rows = [
        (
            f"{p.percent} %",
            f"{p.requests} / {p.expected:.0f} ± {p.expected**0.5:.0f}",
            f"{100 * (p.requests / p.expected - 1):+.0f} %",
            f"{100 * (p.share_inside - 1):+.0f} %",
            f"{p.in_flight:.1f}",
            f"{p.rate_times_latency:.1f}",
            f"{100 * (p.in_flight / p.rate_times_latency - 1):+.0f} %",
        )
        for p in found
    ]
    header = (
        "% of capacity",
        "requests: sent / expected",
        "too many or few",
        "cut off at the end",
        "requests in flight, mean",
        "rate × mean latency",
        "difference",
    )
    return Table("Little's law: two counts of the requests in flight", header, rows)


def holds_and_collapses(found: Sequence[Point]) -> bool:
    """Whether throughput held beyond the capacity while goodput collapsed.

    Goodput can only collapse if most requests kept the promise at some lower load.
    """
    last, best_kept = found[-1], max(p.kept_percent for p in found)
    held = last.output_tok_s >= HOLDS * max(p.output_tok_s for p in found)
    return last.percent > 100 and held and best_kept > 50 and last.kept_percent <= COLLAPSES * best_kept


def another_promise(found: Sequence[Point]) -> str:
    """The end of a sentence: what to choose where a promise is so strict or so lax that no load shows a collapse."""
    best_kept = max(p.kept_percent for p in found)
    if best_kept <= 50:
        return "; the promise is too strict for every load: choose a longer one in the cell `choose-slo`"
    if found[-1].kept_percent > COLLAPSES * best_kept:
        return "; the promise is kept even at the highest load: choose a shorter one in the cell `choose-slo`"
    return ""


def carried(found: Sequence[Point], at_least_percent: float = 95) -> str:
    """Up to which load nearly all requests kept the promise, as a sentence."""
    # Rounded as in the table: a row of 95 % counts as 95 %.
    good = list(itertools.takewhile(lambda point: round(point.kept_percent) >= at_least_percent, found))
    if not good:
        return f"at none of these loads did {at_least_percent:.0f} % of the requests keep the promise"
    last = good[-1]
    return (
        f"at least {at_least_percent:.0f} % of the requests kept the promise up to {last.percent} % of the capacity, "
        f"which is {last.rate_per_s:.1f} requests/s"
    )


def finding(found: Sequence[Point]) -> str:
    """The title of the picture: what these loads show."""
    if holds_and_collapses(found):
        return "Beyond the capacity, throughput holds and goodput collapses"
    return "Throughput and goodput by offered load"
