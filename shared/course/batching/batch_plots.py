"""The plots of lab 3.3.2: requests over time, and throughput, latency and goodput over the load."""

import itertools
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import plotly.graph_objects as go

from shared.course.batching.open_loop import Point, finding
from shared.load.client import Trace
from shared.metrics.spread import Spread, number
from shared.report.plots import GRID, INK, LOOK, Plot, layout
from shared.report.timeline import rows

# Colour, marker and dash. vLLM looks the same in every plot of the course. No other engine is drawn beside it here.
YOURS, OTHERS = ("#24292f", "circle", "solid"), (("#E69F00", "x", "longdash"), ("#56B4E9", "triangle-up", "dashdot"))
PAUSE_STEPS = 2  # a gap this many times the median gap is drawn as a pause
PAUSED = f"pause (over {PAUSE_STEPS} × the median gap)"
PHASES = {
    "waiting": ("#d8dee4", "/"),
    "prefill": ("#E69F00", ""),
    "decode": ("#0072B2", ""),
    PAUSED: ("#CC0000", "x"),
}

Course = Mapping[float, Sequence[float]]  # load → the value in each round


def lines(
    title: str,
    x: str,
    unit: str,
    courses: Mapping[str, Course],
    *,
    log: bool = True,
) -> Plot:
    """A line for each course over the load: the median of its rounds, with whiskers from the least to the most."""
    figure = go.Figure(layout=layout(title, x, unit))
    loads = sorted({load for course in courses.values() for load in course})
    for (name, course), (colour, marker, dash) in zip(courses.items(), looks(courses), strict=True):
        spreads = {load: spread for load in sorted(course) if (spread := Spread.of(course[load]))}
        figure.add_scatter(
            x=list(spreads),
            y=[s.median for s in spreads.values()],
            name=name,
            mode="lines+markers",
            error_y={
                "type": "data",
                "symmetric": False,
                "thickness": 1.5,
                "width": 5,
                "array": [s.high - s.median for s in spreads.values()],
                "arrayminus": [s.median - s.low for s in spreads.values()],
            },
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"symbol": marker, "size": 10},
        )
    figure.update_xaxes(type="log" if log else "linear", tickvals=loads, ticktext=[number(load) for load in loads])
    figure.update_yaxes(rangemode="tozero")
    cells = [
        (number(load), *(str(Spread.of(course.get(load, ())) or "–") for course in courses.values())) for load in loads
    ]
    return Plot(title, (x, *(f"{name}, {unit}" for name in courses)), cells, figure)


def looks(names: Iterable[str]) -> list[tuple[str, str, str]]:
    """A look for each name. Unknown names share two looks in turn."""
    others = itertools.cycle(OTHERS)
    known = {"vLLM": LOOK["vllm"], "your engine": YOURS, "whole prompt": LOOK["vllm"]}
    return [known.get(name) or next(others) for name in names]


def gantt(title: str, runs: Mapping[str, Sequence[Trace]]) -> Plot:
    """A bar for each request in the order of arrival: waiting, prefill, decode, and the pauses in its stream.

    The runs are drawn below each other, and the axis names the longest prompt of each. Traces are those of
    shared.course.batching.mini_load, whose `timings` hold the moment of admission.
    """
    figure = go.Figure(layout=layout(title, "seconds", ""))
    bars: dict[str, list[tuple[str, float, float]]] = {phase: [] for phase in PHASES}
    names: list[str] = []
    marks: dict[str, str] = {}  # the row → its label on the axis
    table: list[tuple[str, ...]] = []
    gaps = [gap for traces in runs.values() for trace in traces for gap in trace.itl_ms or ()]
    longest_ms = PAUSE_STEPS * statistics.median(gaps) if gaps else 0.0
    for run, traces in runs.items():
        ordered = sorted(traces, key=lambda trace: trace.sent_ns)
        start = ordered[0].sent_ns
        longest = max(ordered, key=lambda trace: trace.input_tokens or 0)
        for place, trace in enumerate(ordered, 1):
            name = f"{run} {place}"
            names.append(name)
            for phase, begin, end in spans(trace, longest_ms):
                bars[phase].append((name, (begin - start) / 1e9, (end - begin) / 1e9))
            if place == 1:
                marks[name] = run
            if trace is longest:
                marks[name] = "long prompt ▶"
        table.append((run, *figures(ordered)))
    for phase, (colour, pattern) in PHASES.items():
        figure.add_bar(
            y=[name for name, _, _ in bars[phase]],
            base=[begin for _, begin, _ in bars[phase]],
            x=[length for _, _, length in bars[phase]],
            orientation="h",
            name=phase,
            width=0.8,
            marker={
                "color": colour,
                "line": {"color": INK, "width": 0.3},
                "pattern": {"shape": pattern, "fgcolor": INK, "size": 4, "solidity": 0.2},
            },
        )
    figure.update_layout(barmode="overlay", height=160 + 11 * len(names))
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=names[::-1],
        gridcolor=GRID,
        showgrid=False,
        tickvals=list(marks),
        ticktext=list(marks.values()),
    )
    for first in [f"{run} 1" for run in list(runs)[1:]]:
        figure.add_hline(y=len(names) - names.index(first) - 0.5, line={"color": INK, "width": 1})
    header = ("", "output tok/s", "TTFT, ms", "longest pause in a stream, ms", "most requests under way")
    return Plot(title, header, table, figure)


def spans(trace: Trace, longest_ms: float) -> Iterator[tuple[str, int, int]]:
    """The phases of a request in ns: waiting, prefill, decode, and each gap longer than `longest_ms` on top."""
    admitted = trace.sent_ns + int((trace.timings or {})["admitted_ns"])
    stamps = (trace.sent_ns, admitted, trace.arrivals_ns[0], trace.end_ns)
    for phase, begin, end in zip(PHASES, stamps, stamps[1:], strict=False):
        yield phase, begin, end
    for begin, end in pairwise(trace.arrivals_ns):
        if (end - begin) / 1e6 > longest_ms:
            yield PAUSED, begin, end


def figures(traces: Sequence[Trace]) -> tuple[str, str, str, str]:
    """Throughput, TTFT, the longest gap between two tokens of a stream, and the most requests under way at once."""
    took_s = (max(t.end_ns for t in traces) - min(t.sent_ns for t in traces)) / 1e9
    tokens = sum(t.output_tokens or 0 for t in traces)
    pause = max((gap for t in traces for gap in (t.itl_ms or ())), default=0.0)
    return number(tokens / took_s), str(Spread.of(t.ttft_ms for t in traces)), number(pause), str(max(rows(traces)))


def pauses(title: str, streams: Mapping[str, Sequence[Sequence[int]]], marks: Mapping[str, int]) -> Plot:
    """Every gap between two tokens, at the moment at which it ended.

    streams: for each configuration, the stamps in ns of each stream's tokens. marks: when the long prompt was sent.
    """
    figure = go.Figure(layout=layout(title, "seconds after the long prompt was sent", "gap between two tokens, ms"))
    table = []
    for (name, stamps), (colour, marker, _) in zip(streams.items(), looks(streams), strict=True):
        gaps = [((b - marks[name]) / 1e9, (b - a) / 1e6) for one in stamps for a, b in pairwise(one)]
        figure.add_scatter(
            x=[at for at, _ in gaps],
            y=[gap for _, gap in gaps],
            name=name,
            mode="markers",
            marker={"color": colour, "symbol": marker, "size": 6, "opacity": 0.7},
        )
        after = [gap for at, gap in gaps if at > 0]
        table.append((name, str(Spread.of(gap for _, gap in gaps)), number(max(after, default=0.0))))
    figure.update_yaxes(rangemode="tozero")
    figure.add_vline(x=0, line={"color": INK, "dash": "dot", "width": 1.5}, annotation_text="long prompt sent")
    return Plot(title, ("", "gap, ms", "longest gap after it was sent, ms"), table, figure)


def goodput(found: Sequence[Point], capacity_tok_s: float) -> Plot:
    """Throughput and goodput over the offered load, with the capacity marked. Its title states what they show."""
    title = finding(found)
    offered = [p.offered_tok_s for p in found]
    figure = go.Figure(layout=layout(title, "offered, tok/s", "tok/s"))
    line = {"color": "#8c959f", "dash": "dot", "width": 1.5}
    figure.add_scatter(x=[0, *offered], y=[0, *offered], name="offered", mode="lines", line=line)
    for name, values, (colour, marker, dash), width in (
        ("throughput", [p.output_tok_s for p in found], LOOK["vllm"], 2.5),
        ("goodput", [p.goodput_tok_s for p in found], YOURS, 4),
    ):
        figure.add_scatter(
            x=offered,
            y=values,
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": width},
            marker={"symbol": marker, "size": 10},
        )
    text = f"capacity {number(capacity_tok_s)} tok/s"
    figure.add_vline(x=capacity_tok_s, line={"color": INK, "dash": "dot", "width": 1.5}, annotation_text=text)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    rows = [(f"{p.percent} %", number(p.offered_tok_s), number(p.output_tok_s), number(p.goodput_tok_s)) for p in found]
    return Plot(title, ("% of capacity", "offered, tok/s", "throughput, tok/s", "goodput, tok/s"), rows, figure)
