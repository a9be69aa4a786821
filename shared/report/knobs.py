"""Sliders that recompute a table, to show how a result depends on a number.

    def kept(ttft_ms, tpot_ms):
        return Table("Within the promise", ...)

    turn(kept, ttft_ms=Knob(50, 2000, 400), tpot_ms=Knob(10, 200, 60))

The table is computed from stored results, so a slider measures nothing. Where widgets don't work, as on GitHub or on
paper, the table of the first values is shown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ipywidgets
from IPython.display import display

from shared.metrics.spread import number
from shared.report.table import Table

STEPS = 100  # of a slider, from one end to the other


@dataclass(frozen=True)
class Knob:
    """A number that a reader may change: its limits, and its first value."""

    low: float
    high: float
    value: float


def turn(compute: Callable[..., Table], **knobs: Knob) -> None:
    """Display a slider for each argument of `compute`, and the table that it returns for their values.

    Raises whatever `compute` raises for the first values. An error for later ones is shown in place of the table.
    """
    first = compute(**{name: knob.value for name, knob in knobs.items()})
    shown = ipywidgets.HTML(first.html())
    sliders = {name: slider(name, knob) for name, knob in knobs.items()}

    def renew(_: Any) -> None:
        try:
            shown.value = compute(**{name: one.value for name, one in sliders.items()}).html()
        except Exception as e:  # a widget's errors don't appear anywhere else
            shown.value = f"<pre>{type(e).__name__}: {e}</pre>"

    for one in sliders.values():
        one.observe(renew, "value")
    view = ipywidgets.VBox([*sliders.values(), shown])._repr_mimebundle_() or {}
    values = ", ".join(f"{words(name)} {number(knob.value)}" for name, knob in knobs.items())
    text = f"At {values}:\n\n{first.markdown()}"
    display({**view, "text/html": f"<p>At {values}:</p>{first.html()}", "text/plain": text}, raw=True)


def slider(name: str, knob: Knob) -> ipywidgets.FloatSlider:
    return ipywidgets.FloatSlider(
        description=words(name),
        min=knob.low,
        max=knob.high,
        value=knob.value,
        step=(knob.high - knob.low) / STEPS,
        readout_format=".4g",
        continuous_update=False,
        style={"description_width": "12em"},
        layout={"width": "36em"},
    )


def words(name: str) -> str:
    return name.replace("_", " ")
