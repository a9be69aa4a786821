"""The tables and plots of lab 3.3.3."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from shared.course.prefill import arithmetic, curve
from shared.course.prefill.ahead_of_time.build import Engine
from shared.course.prefill.tensorrt.flows import Step
from shared.metrics.roofline import Ceilings
from shared.metrics.spread import number
from shared.report.plots import LOOK, Plot, bars, layout
from shared.report.table import Table
from shared.results.reading import Entry

# Colour, marker and dash of what is no engine with a server; those keep the look that they have in all labs.
LOOKS = (
    ("#24292f", "circle", "solid"),
    ("#999999", "diamond", "dot"),
    ("#0072B2", "square", "solid"),
    ("#E69F00", "triangle-up", "dash"),
    ("#009E73", "x", "longdash"),
)


def curve_plot(times: curve.Times) -> Plot:
    """The prefill curve in prompt tokens per second: median and interval of each runner at each length."""
    title, unit = "Prefill speed by prompt length", "tok/s"
    figure = go.Figure(layout=layout(title, "prompt tokens", unit))
    lengths = sorted({n for course in times.values() for n in course})
    cells: dict[int, list[str]] = {n: [number(n)] for n in lengths}
    for place, (name, course) in enumerate(times.items()):
        colour, marker, dash = LOOK.get(name) or LOOKS[place % len(LOOKS)]
        found = curve.medians(course)
        speed = {n: 1e3 * n / one.median for n, one in found.items()}
        figure.add_scatter(
            x=list(speed),
            y=list(speed.values()),
            name=name,
            mode="lines+markers",
            error_y={
                "type": "data",
                "symmetric": False,
                "thickness": 1.5,
                "width": 5,
                "array": [1e3 * n / one.low - speed[n] for n, one in found.items()],
                "arrayminus": [speed[n] - 1e3 * n / one.high for n, one in found.items()],
            },
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"symbol": marker, "size": 9},
        )
        for n in lengths:
            cells[n].append(number(speed[n]) if n in speed else "–")
    figure.update_xaxes(type="log", tickvals=lengths, ticktext=[number(n) for n in lengths])
    figure.update_yaxes(rangemode="tozero")
    return Plot(title, ("prompt tokens", *(f"{name}, {unit}" for name in times)), list(cells.values()), figure)


def parts_plot(shape: arithmetic.Shape, lengths: Sequence[int]) -> Plot:
    """Operations per token by part at each length, in million."""
    rows: dict[str, dict[str, float | None]] = {}
    for n in lengths:
        parts = arithmetic.operations(shape, n)
        named = {"projections": parts.projections, "attention": parts.attention, "MLP": parts.mlp}
        rows[number(n)] = {name: value / n / 1e6 for name, value in (*named.items(), ("output", parts.output))}
    return bars("Operations per prompt token", "million operations", rows, stacked=True)


def gains(times: curve.Times, baseline: str = "eager") -> Table:
    """How often each runner fits into the baseline's time, with the interval of the rounds' ratios."""
    others = [name for name in times if name != baseline]
    rows = [
        (number(n), *(str(curve.against(times, name, baseline, n)) for name in others if n in times[name]))
        for n in sorted(times[baseline])
    ]
    return Table(f"Times as fast as {baseline}", ("prompt tokens", *others), rows)


def share_table(shares: Mapping[str, Mapping[int, arithmetic.Achieved]], here: Ceilings) -> Table:
    """The share of the measured peak of each runner at each length; more than the peak is marked."""
    lengths = sorted({n for course in shares.values() for n in course})
    rows = [(number(n), *(_share(course[n]) if n in course else "–" for course in shares.values())) for n in lengths]
    title = f"Share of the peak of {here.peak_tflop_s:.3g} TFLOP/s ({here.kind})"
    return Table(title, ("prompt tokens", *shares), rows)


def _share(one: arithmetic.Achieved) -> str:
    return f"{one.share:.0%}" + (" — more than is possible" if one.suspicious else "")


def engine_table(entries: Mapping[str, Entry]) -> Table:
    """What was built: seconds, size, load time, operators and kernels, agreement with eager."""
    rows = []
    for key, entry in entries.items():
        v = entry["values"]
        rows.append(
            (
                key.removeprefix("build/"), f"{v['build_s']:.0f}", f"{v['size_mb']:.0f}", f"{v['load_s']:.1f}",
                f"{v['operators']} → {v['kernels']}", f"{v['same_argmax']} of {v['prompts']}",
                f"{v['max_difference']:.2g}",
            )
        )  # fmt: skip
    header = ("engine", "build, s", "size, MB", "load, s", "operators → kernels", "same token", "largest difference")
    return Table("Engines built ahead of time", header, rows)


def fusion_table(engine: Engine, most: int = 8) -> Table:
    """The commonest operators before and kernels after the optimizer."""
    rows = []
    before, after = (
        sorted(engine.fusion[when].items(), key=lambda item: -item[1])[:most] for when in ("before", "after")
    )
    for place in range(max(len(before), len(after))):
        left = before[place] if place < len(before) else ("", 0)
        right = after[place] if place < len(after) else ("", 0)
        rows.append((*_named(left), *_named(right)))
    return Table(f"{engine.folder.name}", ("operator before", "calls", "kernel after", "calls"), rows)


def _named(item: tuple[str, int]) -> tuple[str, str]:
    name, count = item
    return (name if len(name) <= 60 else name[:57] + "…", str(count) if count else "")


def step_table(title: str, steps: Sequence[Step]) -> Table:
    """The commands of a flow, each flag with its reason."""
    rows = [(step.title, name, why) for step in steps for name, why in step.why.items()]
    return Table(title, ("step", "flag", "why"), rows)


def disk_table(engines: Sequence[Engine]) -> Table:
    """The engines on this disk with their size; `engine.remove()` deletes one."""
    rows = [(one.folder.name, f"{one.bytes / 1e6:.0f}") for one in engines]
    return Table("Engines on this disk", ("folder", "MB"), rows)
