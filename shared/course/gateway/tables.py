"""The lab's tables and pictures, of results that are measured already."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from shared.course.gateway import naive_gateway
from shared.course.gateway.five_failures import FAILURES, Raw, Values
from shared.course.gateway.grade_run import CHECKS, Check, error_of
from shared.course.gateway.overload import AT_LEAST_PERCENT, counted, good_tokens, promise, share_percent
from shared.course.labs import OpenLab
from shared.metrics.spread import Spread, interval, number
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
    checks = len(raw["checks"])
    rows.append((f"{checks} health check{'s' * (checks != 1)}", f"at most {longest / 1e3:.2f}", ""))
    figure.update_layout(barmode="overlay", height=300)
    figure.update_yaxes(categoryorder="array", categoryarray=["health checks", "second stream", "first stream"])
    return Plot(title, ("", "first byte, s after its request", "end, s after its request"), rows, figure)


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
    header = ("", "chunks with text", "first, ms", "last, ms")
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


def grade(lab: OpenLab) -> Table:
    """Each check of the grade run: what was sent, and what came from the student's gateway and from the naive one."""
    found = {name: lab.raw(f"grade/{name}") for name in ("gateway", "naive")}
    rows = [
        (check.sent, *(f"{'✔' if check.passed(raw[key]) else '✘'} {came(check, raw[key])}" for raw in found.values()))
        for key, check in CHECKS.items()
    ]
    header = [f"{title}: {sum(row[place][0] == '✔' for row in rows)} of {len(rows)} passed"
              for place, title in ((1, "your gateway"), (2, "naïve gateway"))]  # fmt: skip
    return Table("Grade run", ("check", *header), rows)


def came(check: Check, raw: Raw) -> str:
    """What came, in a few words."""
    if check.came:
        return check.came(raw)
    parts = [f"status {raw['status']}" if raw["status"] else "no status"]
    if raw.get("retry_after"):
        parts.append(f"Retry-After {raw['retry_after']}")
    if error := error_of(raw["text"]):
        parts.append(f"error “{error.get('code')}”")
    if raw["status"] == 200:
        parts.append("[DONE]" if "[DONE]" in raw["text"] else "no [DONE]")
    if raw["end"] != "whole":
        parts.append(raw["end"])
    return ", ".join(parts) + f", {raw['ms']:,.0f} ms"


def added(lab: OpenLab) -> Table:
    """TTFT and ITL of one user, directly and through the gateway, over the rounds."""
    rows = []
    for figure, title in (("ttft_ms", "TTFT"), ("itl_ms", "ITL")):
        direct, through = (medians(lab.results(), f"added/{way}/", figure) for way in ("direct", "gateway"))
        both = [interval(direct), interval(through)]
        assert both[0] is not None, "nothing was measured directly"
        assert both[1] is not None, "nothing was measured through the gateway"
        apart = both[0].high < both[1].low or both[1].high < both[0].low
        difference = f"{both[1].median - both[0].median:+.1f} ms"
        note = "too few rounds for an interval" if both[0].level is None else "" if apart else "the intervals overlap"
        rows.append((title, str(both[0]), str(both[1]), difference, note))
    header = ("", "direct, ms", "through your gateway, ms", "difference of the medians", "")
    return Table("What the gateway adds for one user", header, rows)


def medians(entries: Mapping[str, Any], prefix: str, figure: str) -> list[float]:
    """The median of one figure in each round."""
    found = [entry["values"][figure] for key, entry in entries.items() if key.startswith(prefix)]
    return [one["median"] for one in found if one]


RUNS = {"alone": "paying key alone", "first": "first settings", "yours": "your settings"}


def overload(lab: OpenLab, names: Sequence[str]) -> Table:
    """What both keys got in each run."""
    slo, rows = promise(lab.raw("overload/alone")), []
    for name in names:
        raw = lab.raw(f"overload/{name}")
        for key, values in counted(raw).items():
            first = Spread.of(row["ttft_ms"] for row in raw[key] if row["error"] is None)
            sent, got = values["requests"], values["answered"]
            gave_up = sent - got - values["refused"]
            cells = (str(sent), str(got), str(values["refused"]), str(gave_up), str(first or "–"))
            rows.append((RUNS[name], key, *cells, str(good_tokens(raw[key], slo))))
    header = ("", "key", "sent", "answered", "refused", "gave up", "TTFT of the answered, ms", "tokens within the SLO")
    title = f"The SLO: first token within {slo.ttft_ms:,.0f} ms, then on average one every {slo.tpot_ms:,.0f} ms"
    return Table(title, header, rows)


def kept(lab: OpenLab, names: Sequence[str]) -> Plot:
    """The tokens within the SLO that the paying key keeps in each run, in percent of those that it gets alone."""
    alone = lab.raw("overload/alone")
    shares = {RUNS[name]: share_percent(alone, lab.raw(f"overload/{name}")) for name in names}
    title = "The paying key's tokens within the SLO"
    figure = go.Figure(layout=layout(title, "", "% of what it gets alone"))
    marker = {
        "color": ["#8c959f", "#D55E00", "#0072B2"][: len(shares)],
        "pattern": {"shape": ["", "/", "x"][: len(shares)]},
    }
    percents = [f"{one:.0f} %" for one in shares.values()]
    figure.add_bar(x=list(shares), y=list(shares.values()), text=percents, textposition="outside", marker=marker)
    line = {"color": INK, "dash": "dot", "width": 1.5}
    figure.add_hline(y=AT_LEAST_PERCENT, line=line, annotation_text=f"{AT_LEAST_PERCENT} %")
    figure.update_yaxes(range=[0, 1.15 * max(100.0, *shares.values())])
    return Plot(title, ("", "% of what it gets alone"), [(name, f"{one:.0f}") for name, one in shares.items()], figure)


def verdict(good: bool) -> str:
    return "✔ passed" if good else "✘ failed"
