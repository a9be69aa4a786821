"""The figures of lab 3.3.2: who ran when, and what load did to throughput, to waiting, and to promises kept."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import plotly.graph_objects as go

from shared.load.client import Trace
from shared.metrics.spread import Spread, number
from shared.report.plots import GRID, INK, LOOK, Plot, layout
from shared.report.timeline import rows

# Colour, marker and dash: vLLM's are those of every figure, the others' are no engine's.
YOURS, OTHERS = ("#24292f", "circle", "solid"), (("#E69F00", "x", "longdash"), ("#56B4E9", "triangle-up", "dashdot"))
PHASES = {"waiting": ("#d8dee4", "/"), "prefill": ("#E69F00", ""), "decode": ("#0072B2", "")}

Course = Mapping[float, Sequence[float]]  # load → the value in each round


def lines(
    title: str,
    x: str,
    unit: str,
    courses: Mapping[str, Course],
    *,
    log: bool = True,
) -> Plot:
    """One line for each course over the load: the median of its rounds, whiskers from least to most."""
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
    """A look for each name; a third unknown one would look like the first."""
    others = itertools.cycle(OTHERS)
    known = {"vLLM": LOOK["vllm"], "your engine": YOURS, "throughput": LOOK["vllm"], "whole prompt": LOOK["vllm"]}
    return [known.get(name) or next(others) for name in names]


def gantt(title: str, runs: Mapping[str, Sequence[Trace]]) -> Plot:
    """Each request a bar, in the order of arrival: waiting, prefill, decode. The runs stand below each other.

    Traces are those of shared.course.batching.mini_load, whose `timings` say when a request was admitted.
    """
    figure = go.Figure(layout=layout(title, "seconds", ""))
    bars: dict[str, list[tuple[str, float, float]]] = {phase: [] for phase in PHASES}
    names: list[str] = []
    table: list[tuple[str, ...]] = []
    for run, traces in runs.items():
        ordered = sorted(traces, key=lambda trace: trace.sent_ns)
        start = ordered[0].sent_ns
        for place, trace in enumerate(ordered, 1):
            name = f"{run} {place}"
            names.append(name)
            admitted = trace.sent_ns + int((trace.timings or {})["admitted_ns"])
            stamps = (trace.sent_ns, admitted, trace.arrivals_ns[0], trace.end_ns)
            for phase, begin, end in zip(PHASES, stamps, stamps[1:], strict=False):
                bars[phase].append((name, (begin - start) / 1e9, (end - begin) / 1e9))
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
    firsts = {run: f"{run} 1" for run in runs}
    figure.update_layout(barmode="overlay", height=160 + 11 * len(names))
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=names[::-1],
        gridcolor=GRID,
        showgrid=False,
        tickvals=list(firsts.values()),
        ticktext=list(firsts),
    )
    for first in list(firsts.values())[1:]:
        figure.add_hline(y=len(names) - names.index(first) - 0.5, line={"color": INK, "width": 1})
    header = ("", "output tok/s", "TTFT, ms", "longest pause in a stream, ms", "waiting or running, at most")
    return Plot(title, header, table, figure)


def figures(traces: Sequence[Trace]) -> tuple[str, str, str, str]:
    """Throughput, TTFT, the longest gap between two tokens of any stream, and requests under way at most."""
    took_s = (max(t.end_ns for t in traces) - min(t.sent_ns for t in traces)) / 1e9
    tokens = sum(t.output_tokens or 0 for t in traces)
    pause = max((gap for t in traces for gap in (t.itl_ms or ())), default=0.0)
    return number(tokens / took_s), str(Spread.of(t.ttft_ms for t in traces)), number(pause), str(max(rows(traces)))


def pauses(title: str, streams: Mapping[str, Sequence[Sequence[int]]], marks: Mapping[str, int]) -> Plot:
    """Every gap between two tokens, at the moment when it ended; `marks` says when the long prompt was sent.

    streams: for each configuration the stamps in ns of each stream's tokens.
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
    return Plot(title, ("", "gap, ms", "longest after it was sent, ms"), table, figure)
