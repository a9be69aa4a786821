"""One look for every figure: a fixed colour *and* marker per engine, units on the axes, a table beside it.

    show(plots.by_users(load_results("3.3.1"), "output_tok_s", "Output throughput", "tok/s"))

`show` displays the interactive figure together with a static picture (for GitHub and for paper) where a
Chromium is installed, and always the numbers as a table: nobody should have to read a value off a curve.
"""

import base64
import contextlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from IPython.display import display

from shared.engines import ENGINES
from shared.errors import LabError
from shared.hardware import browser
from shared.metrics import Spread, number
from shared.results import Entry

# Okabe and Ito's palette: told apart by colour-blind readers too. The marker says it again.
LOOK = {
    "llamacpp": ("#0072B2", "circle", "solid"),
    "vllm": ("#D55E00", "square", "dash"),
    "ollama": ("#009E73", "diamond", "dot"),
    "sglang": ("#CC79A7", "triangle-up", "dashdot"),
    "trtllm": ("#56B4E9", "x", "longdash"),
}
WIDTH = 760  # of a static picture
INK, GRID = "#24292f", "#d8dee4"

Rounds = dict[tuple[str, int], list[float]]


@dataclass(frozen=True)
class Table:
    """Numbers to be read."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(h)}</th>" for h in self.header)
        body = "".join("<tr>" + "".join(map(html_cell, row)) + "</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def html_cell(text: str) -> str:
    """Numbers stand to the right, where JupyterLab puts everything; words to the left."""
    left = "" if text[:1].isdigit() else " style='text-align:left'"
    return f"<td{left}>{html.escape(text)}</td>"


@dataclass(frozen=True)
class Plot(Table):
    """A figure, and the same numbers as a table."""

    figure: go.Figure

    def png(self) -> bytes | None:
        """The static picture; None where no browser is found: a student's cell never fails for that."""
        path = browser()
        if path is None:
            return None
        with contextlib.suppress(Exception):  # whatever a browser does, the interactive figure stands
            import kaleido

            picture: bytes = kaleido.calc_fig_sync(
                self.figure, opts={"format": "png", "width": WIDTH, "height": 420, "scale": 2}, kopts={"path": path}
            )
            return picture
        return None


def rounds(entries: Mapping[str, Entry], value: str, prefix: str = "load/") -> Rounds:
    """(engine, users) → the value in each round; `value` may name a spread's median: "ttft_ms"."""
    found: Rounds = {}
    for key, entry in entries.items():
        if key.startswith(prefix) and entry["values"].get(value) is not None:
            one = entry["values"][value]
            place = (entry["provenance"]["engine"], entry["values"]["users"])
            found.setdefault(place, []).append(one["median"] if isinstance(one, dict) else one)
    return found


def by_users(
    entries: Mapping[str, Entry], value: str, title: str, unit: str, ceiling: tuple[str, float] | None = None
) -> Plot:
    """One line per engine over the number of users: the median of the rounds, whiskers from least to most.

    `ceiling` (name, value) draws a dotted line, such as a physical limit.
    """
    data = rounds(entries, value)
    if not data:
        raise LabError(f"There is nothing to draw for “{title}”.", "run the cell that measures it first: run-load")
    engines = [name for name in ENGINES if any(e == name for e, _ in data)]
    users = sorted({u for _, u in data})
    figure = go.Figure(layout=layout(title, "users at once", unit))
    for name in engines:
        here = [u for u in users if (name, u) in data]
        spreads = [Spread.of(data[name, u]) for u in here]
        known = [s for s in spreads if s]
        colour, marker, dash = LOOK[name]
        figure.add_scatter(
            x=here,
            y=[s.median for s in known],
            error_y={
                "type": "data", "symmetric": False, "thickness": 1.5, "width": 5,
                "array": [s.high - s.median for s in known], "arrayminus": [s.median - s.low for s in known],
            },
            name=ENGINES[name].title, mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5}, marker={"symbol": marker, "size": 10},
        )  # fmt: skip
    if ceiling:
        name, limit = ceiling
        figure.add_scatter(
            x=[users[0], users[-1]], y=[limit, limit], name=f"{name}: {number(limit)} {unit}",
            mode="lines", line={"color": "#6e7781", "dash": "dot", "width": 2},
        )  # fmt: skip
    figure.update_xaxes(type="log", tickvals=users, ticktext=[str(u) for u in users])
    figure.update_yaxes(rangemode="tozero")
    header = ("users", *(f"{ENGINES[name].title}, {unit}" for name in engines))
    cells = [(str(u), *(str(Spread.of(data.get((name, u), [])) or "–") for name in engines)) for u in users]
    return Plot(title, header, cells, figure)


def layout(title: str, x: str, y: str) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "linecolor": INK, "ticks": "outside", "showline": True, "zeroline": False}
    return {
        "title": {"text": title, "x": 0.02, "xanchor": "left", "font": {"size": 17}},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif", "color": INK, "size": 13},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "template": None,
        "xaxis": {**axis, "title": x},
        "yaxis": {**axis, "title": y},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 24, "t": 96, "b": 56},
        "height": 420,
    }


def folded(texts: Mapping[str, str]) -> None:
    """Display long texts, each behind its title; a click opens it. As plain text they stand below each other."""
    page = "".join(
        f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>"
        for title, text in texts.items()
    )
    plain = "\n\n".join(f"{title}:\n{text}" for title, text in texts.items())
    display({"text/html": page, "text/plain": plain}, raw=True)


def show(item: Table) -> None:
    """Display a table, or a figure with its static picture and its table, in a notebook."""
    if isinstance(item, Plot):
        bundle: dict[str, Any] = {
            "application/vnd.plotly.v1+json": json.loads(item.figure.to_json()),
            "text/plain": item.title,
        }
        picture = item.png()
        if picture:
            bundle["image/png"] = base64.b64encode(picture).decode()
        # Where nbconvert looks for the one and JupyterLab for the other: the picture has twice as many points.
        about = {"alt": f"{item.title}: a figure whose numbers are in the table below.", "width": WIDTH}
        display(bundle, raw=True, metadata={"image/png": about} if picture else {})
    display({"text/html": item.html(), "text/plain": item.markdown()}, raw=True)
