"""One look for every figure: a fixed colour *and* marker per engine, units on the axes, and a table beside it.

    show(plots.by_users(load_results("3.3.1"), "output_tok_s", "Output throughput", "tok/s"))

`show` displays the interactive figure. Where a Chromium is installed, it adds a static picture (for GitHub and for
paper). It always displays the numbers as a table, so that no value has to be read off a curve.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from IPython.display import display

from shared.engines import ENGINES
from shared.errors import LabError
from shared.hardware.host import browser
from shared.metrics.spread import Spread, number
from shared.report.pictures import HEIGHT, WIDTH, picture
from shared.report.table import Table
from shared.results.query import Rounds, rounds
from shared.results.reading import Entries

# Okabe and Ito's palette, which colour-blind readers can distinguish. Marker and dash show the engine as well.
LOOK = {
    "llamacpp": ("#0072B2", "circle", "solid"),
    "vllm": ("#D55E00", "square", "dash"),
    "ollama": ("#009E73", "diamond", "dot"),
    "sglang": ("#CC79A7", "triangle-up", "dashdot"),
    "trtllm": ("#56B4E9", "x", "longdash"),
}
# For parts of a whole, or predicted beside measured: a colour and a pattern.
PARTS = (("#0072B2", ""), ("#E69F00", "/"), ("#999999", "x"), ("#009E73", "\\"))
INK, GRID = "#24292f", "#d8dee4"


@dataclass(frozen=True)
class Plot(Table):
    """A figure, and the same numbers as a table."""

    figure: go.Figure

    def png(self) -> bytes | None:
        """The static picture; None if no browser is found or the browser fails."""
        path = browser()
        return picture(self.figure.to_json(), path) if path else None


Limit = tuple[str, Mapping[int, float]]  # its name, and its value at each x


def by_users(entries: Entries, value: str, title: str, unit: str, limit: Limit | None = None) -> Plot:
    """One line per engine over the number of users: the median of the rounds, with whiskers from least to most.

    `limit` draws a dotted line, such as the physical limit at each number of users.
    """
    return lines(rounds(entries, value), title, unit, ("users", "users at once"), limit, "run-load")


def by_prompt(entries: Entries, value: str, title: str, unit: str, limit: Limit | None = None) -> Plot:
    """One line per engine over the length of the prompt, for one user, on logarithmic axes."""
    data = rounds(entries, value, "prompt/", "input_tokens")
    plot = lines(data, title, unit, ("prompt tokens", "prompt tokens"), limit, "run-prompts")
    # A proportional cost is a straight line if both axes are logarithmic. Plotly's own ticks show only the first digit.
    ticks = [digit * 10**zeros for zeros in range(7) for digit in (1, 2, 5)]
    plot.figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    return plot


def lines(data: Rounds, title: str, unit: str, x: tuple[str, str], limit: Limit | None, cell: str) -> Plot:
    """One line per engine. `x` has the name of the x values in the table, and on the axis. Raises LabError, with the
    cell that measures them, if there are no data."""
    if not data:
        raise LabError(f"There are no results to draw for “{title}”.", f"run the cell {cell} first")
    engines = [name for name in ENGINES if any(e == name for e, _ in data)]
    places = sorted({place for _, place in data})
    figure = go.Figure(layout=layout(title, x[1], unit))
    for name in engines:
        here = [place for place in places if (name, place) in data]
        spreads = [Spread.of(data[name, place]) for place in here]
        known = [s for s in spreads if s]
        colour, marker, dash = LOOK[name]
        figure.add_scatter(
            x=here,
            y=[s.median for s in known],
            error_y={
                "type": "data",
                "symmetric": False,
                "thickness": 1.5,
                "width": 5,
                "array": [s.high - s.median for s in known],
                "arrayminus": [s.median - s.low for s in known],
            },
            name=ENGINES[name].title,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"symbol": marker, "size": 10},
        )
    header = (x[0], *(f"{ENGINES[name].title}, {unit}" for name in engines))
    cells = [(str(at), *(str(Spread.of(data.get((name, at), [])) or "–") for name in engines)) for at in places]
    if limit:
        name, known_at = limit
        figure.add_scatter(
            x=list(known_at),
            y=list(known_at.values()),
            name=name,
            mode="lines",
            line={"color": "#6e7781", "dash": "dot", "width": 2},
        )
        header = (*header, f"{name}, {unit}")
        cells = [(*row, number(known_at[at]) if at in known_at else "–") for row, at in zip(cells, places, strict=True)]
    figure.update_xaxes(type="log", tickvals=places, ticktext=[str(at) for at in places])
    figure.update_yaxes(rangemode="tozero")
    return Plot(title, header, cells, figure)


def bars(title: str, unit: str, rows: Mapping[str, Mapping[str, float | None]], stacked: bool = False) -> Plot:
    """{what: {part: value}} as bars: a group of bars for each `what`, or one stacked bar. None has no bar, and "–" in
    the table."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    figure = go.Figure(layout=layout(title, "", unit))
    for part, (colour, pattern) in zip(parts, PARTS, strict=False):
        values = [row.get(part) for row in rows.values()]
        figure.add_bar(
            x=list(rows),
            y=values,
            name=part,
            text=["" if v is None else number(v) for v in values],
            textposition="inside" if stacked else "outside",
            textangle=0,
            cliponaxis=False,
            marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "white", "fgopacity": 0.6}},
        )
    figure.update_layout(barmode="stack" if stacked else "group")
    header = ("", *(f"{part}, {unit}" for part in parts))
    cells = [
        (what, *("–" if (v := row.get(part)) is None else number(v) for part in parts)) for what, row in rows.items()
    ]
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
        "height": HEIGHT,
    }


def show(item: Table) -> None:
    """Display a table in a notebook, or a figure with its static picture and its table."""
    if isinstance(item, Plot):
        bundle: dict[str, Any] = {
            "application/vnd.plotly.v1+json": json.loads(item.figure.to_json()),
            "text/plain": item.title,
        }
        picture = item.png()
        if picture:
            bundle["image/png"] = base64.b64encode(picture).decode()
        # nbconvert reads `alt`, JupyterLab reads `width`. The picture itself has twice as many points.
        about = {"alt": f"{item.title}: a figure whose numbers are in the table below.", "width": WIDTH}
        display(bundle, raw=True, metadata={"image/png": about} if picture else {})
    display({"text/html": item.html(), "text/plain": item.markdown()}, raw=True)
