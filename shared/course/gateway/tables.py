"""The lab's tables and pictures, of results that are measured already."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from shared.course.gateway import naive_gateway
from shared.course.gateway.five_failures import FAILURES, Raw, Values
from shared.metrics.spread import Spread, number
from shared.report.plots import INK, Plot, layout
from shared.report.table import Table

NAIVE, YOURS, DIRECT = ("#D55E00", "x"), ("#24292f", "circle"), ("#0072B2", "diamond")
LOOKS = {"naive": NAIVE, "naïve gateway": NAIVE, "your gateway": YOURS, "engine, direct": DIRECT}


def source(*functions: Callable[..., Any]) -> str:
    """The source of these functions of the naive gateway."""
    return "\n\n".join(inspect.getsource(one).rstrip() for one in functions)


def version(name: str) -> str:
    """The source of one version of the naive gateway."""
    return source(naive_gateway.VERSIONS[name])


def waiting(title: str, raw: Raw) -> Plot:
    """Two streams and the health checks beside them, over time."""
    figure = go.Figure(layout=layout(title, "seconds after the first stream began", ""))
    rows = []
    for name, stamps in zip(("first stream", "second stream"), raw["streams"], strict=True):
        sent, first, end = stamps[0], stamps[1], stamps[-1]
        for phase, begin, stop, colour, pattern in (
            ("waits", sent, first, "#d8dee4", "/"), ("streams", first, end, "#0072B2", ""),
        ):  # fmt: skip
            figure.add_bar(
                y=[name], x=[(stop - begin) / 1e3], base=[begin / 1e3], orientation="h", name=phase, width=0.5,
                showlegend=name == "first stream",
                marker={"color": colour, "line": {"color": INK, "width": 0.5}, "pattern": {"shape": pattern}},
            )  # fmt: skip
        rows.append((name, f"{(first - sent) / 1e3:.2f}", f"{(end - sent) / 1e3:.2f}"))
    for asked, came, good in raw["checks"]:
        figure.add_scatter(
            y=["health checks"] * 2, x=[asked / 1e3, came / 1e3], mode="lines+markers", showlegend=False,
            line={"color": INK, "width": 1}, marker={"symbol": ["line-ns-open", "circle" if good else "x"], "size": 8},
        )  # fmt: skip
    longest = max(came - asked for asked, came, _ in raw["checks"])
    rows.append((f"{len(raw['checks'])} health checks", f"at most {longest / 1e3:.2f}", ""))
    figure.update_layout(barmode="overlay", height=300)
    figure.update_yaxes(categoryorder="array", categoryarray=["health checks", "second stream", "first stream"])
    return Plot(title, ("", "first byte after, s", "end after, s"), rows, figure)


def arrivals(title: str, answers: Mapping[str, Sequence[float]]) -> Plot:
    """How many chunks of an answer had come at each moment. answers: ms since the request was sent, by name."""
    figure = go.Figure(layout=layout(title, "ms after the request was sent", "chunks with text"))
    rows = []
    for name, stamps in answers.items():
        colour, marker = LOOKS[name]
        figure.add_scatter(
            x=list(stamps), y=list(range(1, len(stamps) + 1)), name=name, mode="lines+markers",
            line={"color": colour, "shape": "hv"}, marker={"symbol": marker, "size": 7},
        )  # fmt: skip
        rows.append((name, str(len(stamps)), number(stamps[0]), number(stamps[-1])))
    figure.update_yaxes(rangemode="tozero")
    figure.update_xaxes(rangemode="tozero")
    header = ("", "chunks", "first, ms", "last, ms")
    return Plot(title, header, rows, figure)


def failure(name: str, values: Values) -> Table:
    """What one experiment showed on the naive gateway."""
    one = FAILURES[name]
    rows = [("the naïve gateway", one.seen(values), verdict(one.mended(values)))]
    return Table(one.title, ("", "what happened", ""), rows)


def text_of(stream: str) -> str:
    """What the client read in this stream: its texts, a line for each beginning of an answer, and how it ended."""
    lines: list[str] = []
    for event in stream.split("\n\n"):
        data = event.partition("data: ")[2]
        if data.startswith("{"):
            found = json.loads(data)
            for choice in found.get("choices", ()):
                delta = choice.get("delta", {})
                if delta.get("role") or not lines:
                    lines.append("")
                lines[-1] += delta.get("content") or ""
    end = "[DONE]" if "data: [DONE]" in stream else "an error" if "event: error" in stream else "no end"
    return "\n".join([*(f"text: {line}" for line in lines), f"then: {end}"])


def beside(entries: Mapping[str, Any]) -> Table:
    """The five experiments on the naive gateway and on the student's."""
    rows = []
    for name, one in FAILURES.items():
        for gateway, title in (("naive", "naïve"), ("gateway", "yours")):
            values = entries[f"failure/{name}/{gateway}"]["values"]
            rows.append((one.title, title, one.seen(values), verdict(one.mended(values))))
    return Table("Five failures, measured on both gateways", ("failure", "gateway", "what happened", ""), rows)


def verdict(good: bool) -> str:
    return "✔ passed" if good else "✘ failed"


def gaps(stamps: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(stamps)]


def spread(values: Sequence[float]) -> str:
    return str(Spread.of(values) or "–")
