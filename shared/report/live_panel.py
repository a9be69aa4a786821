"""Watch an engine or a gateway while a load runs: running, waiting, tokens, cache hits, refusals, from its /metrics.

    with live_panel.watch(engine) as seen:
        run = load.run(Load(engine, ...))
    seen.rows()        # the samples as rows of a table

In JupyterLab the panel is a widget that changes twice a second. Where widgets don't work, it is a table (text and HTML)
that appears when the load is over. Each reading of /metrics costs the engine about a millisecond.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
from IPython.display import display

from shared.engines.http import counters
from shared.launch.running import Engine
from shared.report.table import Table

STEP_S = 0.5
BARS = "▁▂▃▄▅▆▇█"
TOTALS = ("preemptions", "generated_tokens", "good_tokens", "refused", "left", "cached_tokens", "cache_queries")
# The counters that are shown, by name: the title, and the format of a value.
SHOWN = {
    "running": ("running", "{:.0f} requests"),
    "waiting": ("waiting", "{:.0f} requests"),
    "kv_use": ("KV cache in use", "{:.0%}"),
    "preemptions": ("preemptions", "{:.0f}"),
    "generated_tokens": ("output tokens", "{:.0f}"),
    "good_tokens": ("output tokens within the SLO", "{:.0f}"),
    "refused": ("refused", "{:.0f} requests"),
    "left": ("clients that left", "{:.0f}"),
    "hit_rate": ("prefix cache hits", "{:.0%} of prompt tokens"),
}


@dataclass
class CounterSamples:
    """The samples of one load: seconds since its beginning, and the engine's counters."""

    title: str
    samples: list[tuple[float, Mapping[str, float]]] = field(default_factory=list)

    def add(self, at_s: float, sample: Mapping[str, float]) -> None:
        """Add a sample. Totals count from the first sample on. The hit rate stays unknown until there are queries."""
        now = dict(sample)
        if not self.samples:
            self._first = dict(sample)
        for name in TOTALS:
            if name in now:
                now[name] -= self._first.get(name, 0.0)
        if now.get("cache_queries"):
            now["hit_rate"] = now.get("cached_tokens", 0.0) / now["cache_queries"]
        self.samples.append((at_s, now))

    def series(self, name: str) -> list[float]:
        return [sample[name] for _, sample in self.samples if name in sample]

    def most(self, name: str) -> float | None:
        """The largest value of this counter; None if the engine never reported it."""
        return max(self.series(name), default=None)

    def rows(self) -> list[tuple[str, str, str, str]]:
        """For each counter that was reported: its title, the newest value, the largest, and its course."""
        out = []
        for name, (title, form) in SHOWN.items():
            if values := self.series(name):
                out.append((title, form.format(values[-1]), form.format(max(values)), spark(values)))
        return out

    def table(self) -> Table:
        return Table(self.title, ("", "now", "at most", "since the load began"), self.rows())

    def html(self) -> str:
        seconds = f"{self.samples[-1][0]:.1f} s" if self.samples else "no sample yet"
        return f"{self.table().html()}<p>{seconds}</p>"

    def text(self) -> str:
        return self.table().markdown()


def spark(values: Sequence[float], width: int = 40) -> str:
    """The course as bars of text, scaled to the largest value. Many values are merged; each bar shows the largest."""
    top = max(values, default=0.0)
    stretch = max(1, -(-len(values) // width))
    kept = [max(values[i : i + stretch]) for i in range(0, len(values), stretch)]
    return "".join(BARS[round(v / top * (len(BARS) - 1))] if top > 0 else BARS[0] for v in kept)


@contextmanager
def watch(engine: Engine, step_s: float = STEP_S) -> Iterator[CounterSamples]:
    """Sample the engine's counters while the block runs, and show them. A failed sample doesn't stop the load."""
    seen = CounterSamples(f"{engine.spec.title}, by its own /metrics")
    widget = ipywidgets.HTML(seen.html())
    handle = display(bundle(widget, seen), raw=True, display_id=True)
    over, began = threading.Event(), time.monotonic()

    def sample() -> None:
        while True:
            if counted := counters(engine):
                seen.add(time.monotonic() - began, counted)
                widget.value = seen.html()
            if over.wait(step_s):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
        if counted := counters(engine):
            seen.add(time.monotonic() - began, counted)
        widget.value = seen.html()
        if handle is not None:  # there is none outside a notebook
            handle.update(bundle(widget, seen), raw=True)


def bundle(widget: ipywidgets.HTML, seen: CounterSamples) -> dict[str, Any]:
    """The widget, with HTML and text for places where widgets don't work."""
    return {**(widget._repr_mimebundle_() or {}), "text/html": seen.html(), "text/plain": seen.text()}
