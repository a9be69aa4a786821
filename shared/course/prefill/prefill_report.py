"""The tables and plots of lab 3.3.3."""

import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from shared.course.prefill import arithmetic, curve
from shared.course.prefill.ahead_of_time.build import Engine
from shared.course.prefill.ahead_of_time.loaded import PROGRAM
from shared.course.prefill.servers import OWN_CLOCK
from shared.course.prefill.tensorrt.flows import Step
from shared.engines import ENGINES
from shared.metrics.correctness import GAP_LIMIT_NATS
from shared.metrics.roofline import Ceilings
from shared.metrics.spread import interval, number
from shared.report.plots import LOOK, Plot, bars, layout
from shared.report.table import Table
from shared.results.reading import Entry

# Colour, marker and dash of what is no engine with a server; those keep the look that they have in all labs.
LOOKS = (
    ("#24292f", "circle", "solid"),
    ("#999999", "diamond", "dot"),
    ("#CC79A7", "square", "solid"),
    ("#E69F00", "triangle-up", "dash"),
    ("#009E73", "x", "longdash"),
)
ATTENTION = ("scaled_dot_product_attention", "ScaledDotProductAttention")  # as torch and OpenVINO name it


def label(name: str) -> str:
    """A runner's name in tables and pictures: that of a server with the clock that timed it."""
    engine = name.removesuffix(OWN_CLOCK)
    if engine not in ENGINES:
        return name
    return f"{ENGINES[engine].title} ({'its own' if engine != name else 'the client’s'} clock)"


def look(name: str, place: int) -> tuple[str, str, str]:
    """Colour, marker and dash of a line."""
    colour, marker, dash = LOOK.get(name.removesuffix(OWN_CLOCK)) or LOOKS[place % len(LOOKS)]
    return (colour, f"{marker}-open", "dot") if name.endswith(OWN_CLOCK) else (colour, marker, dash)


def curve_plot(times: curve.Times, model: str) -> Plot:
    """The prefill curve in prompt tokens per second: median and interval of each runner at each length."""
    title, unit = f"Prefill speed by prompt length, {model}", "tok/s"
    figure = go.Figure(layout=layout(title, "prompt tokens", unit))
    lengths = sorted({n for course in times.values() for n in course})
    cells: dict[int, list[str]] = {n: [number(n)] for n in lengths}
    for place, (name, course) in enumerate(times.items()):
        colour, marker, dash = look(name, place)
        found = curve.medians(course)
        speed = {n: 1e3 * n / one.median for n, one in found.items()}
        figure.add_scatter(
            x=list(speed),
            y=list(speed.values()),
            name=label(name),
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
    legend_px = 20 * math.ceil(len(times) / 2)  # two of its longest names fit beside each other
    figure.update_layout(margin_t=56 + legend_px, title={"y": 1, "yanchor": "top", "pad": {"t": 18}})
    figure.update_xaxes(type="log", tickvals=lengths, ticktext=[number(n) for n in lengths])
    ticks = [digit * 10**zeros for zeros in range(7) for digit in (1, 2, 5)]  # plotly's own show only the first digit
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    return Plot(title, ("prompt tokens", *(f"{label(name)}, {unit}" for name in times)), list(cells.values()), figure)


def parts_plot(shape: arithmetic.Shape, lengths: Sequence[int]) -> Plot:
    """Operations per token by part at each length, in million."""
    rows: dict[str, dict[str, float | None]] = {}
    for n in lengths:
        parts = arithmetic.operations(shape, n)
        named = {"projections": parts.projections, "attention": parts.attention, "MLP": parts.mlp}
        rows[number(n)] = {name: value / n / 1e6 for name, value in (*named.items(), ("output matrix", parts.output))}
    return bars("Operations per prompt token", "million operations", rows, stacked=True)


def gains(times: curve.Times, baseline: str = "eager") -> Table:
    """How often each runner fits into the baseline's time, with the interval of the rounds' ratios."""
    others = [name for name in times if name != baseline]
    rows = [
        (number(n), *(str(curve.against(times, name, baseline, n)) for name in others)) for n in sorted(times[baseline])
    ]
    return Table(f"Times as fast as {baseline}", ("prompt tokens", *map(label, others)), rows)


def batch_table(times: curve.Times) -> Table:
    """ms per token by prompts in a batch, and how many times as many tokens a second the largest batch computes."""
    batches = sorted(times, key=int)
    largest = batches[-1]
    per_token = {
        batch: {n: [ms / int(batch) / n for ms in rounds] for n, rounds in times[batch].items()} for batch in batches
    }
    rows = [
        (
            number(n),
            *(str(interval(per_token[batch][n])) for batch in batches),
            str(curve.against(per_token, largest, "1", n)),
        )
        for n in sorted(times[largest])
    ]
    header = (
        "tokens of each prompt",
        *(f"{batch} at once, ms per token" for batch in batches),
        f"{largest} at once against 1, tokens a second",
    )
    return Table("Prompts of equal length in one pass, eager PyTorch", header, rows)


def parts_of_time(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Plot:
    """ms of a prefill by part, runner and length, as stacked bars."""
    lengths = next(iter(found.values()))
    rows = {f"{name}, {n} tokens": dict(course[n]) for n in lengths for name, course in found.items()}
    return bars("Where the time of a prefill goes, by each runtime’s profiler", "ms", rows, stacked=True)


def chunk_table(ms: Mapping[int, Sequence[float]], tokens: int) -> Table:
    """A prompt's time by the tokens of a chunk, and the mean time of a chunk."""
    rows = []
    for chunk, rounds in ms.items():
        chunks = -(-tokens // chunk)
        rows.append((str(chunk), str(chunks), str(interval(rounds)), str(interval([one / chunks for one in rounds]))))
    header = ("-ub, tokens of a chunk", "chunks", "ms for the prompt", "ms for one chunk, mean")
    return Table(f"A prompt of {tokens} tokens in chunks, llama.cpp, the client’s clock", header, rows)


def share_table(shares: Mapping[str, Mapping[int, arithmetic.Achieved]], here: Ceilings) -> Table:
    """The share of the measured peak of each runner at each length; more than the peak is marked."""
    lengths = sorted({n for course in shares.values() for n in course})
    rows = [(number(n), *(_share(course[n]) if n in course else "–" for course in shares.values())) for n in lengths]
    title = f"Share of the peak of {here.peak_tflop_s:.3g} TFLOP/s ({here.kind})"
    return Table(title, ("prompt tokens", *(label(name) for name in shares)), rows)


def _share(one: arithmetic.Achieved) -> str:
    return f"{one.share:.0%}" + (" — more than is possible" if one.suspicious else "")


def precision_table(values: Mapping[str, Any]) -> Table:
    """What a smaller number format gains and costs: the time of a prefill by number format, and its text."""
    times, tokens = curve.restored(values["ms"]), values["tokens"]
    gains = {name: str(curve.against(times, name, "float", tokens)) for name in times if name != "float"}
    rows = [
        (
            name, str(interval(times[name][tokens])), gains.get(name, ""),
            f"{found['perplexity']:.1f}", f"{found['mean_gap_nats']:.4f}", f"{found['worst_gap_nats']:.2f}",
        )
        for name, found in values["quality"].items()
    ]  # fmt: skip
    ms, against = f"ms at {tokens} tokens", "times as fast as float"
    header = ("number format", ms, against, "perplexity", "mean greedy gap, nats", "worst gap, nats")
    return Table("What INT8 gains and costs", header, rows)


def engine_table(entries: Mapping[str, Entry]) -> Table:
    """What was built: seconds, size, load time, operators and kernels, agreement with eager."""
    rows = []
    for key, entry in entries.items():
        v = entry["values"]
        rows.append(
            (
                key.removeprefix("build/"), f"{v['build_s']:.0f}", f"{v['size_mb']:.0f}", f"{v['load_s']:.1f}",
                f"{v['operators']} → {v['kernels']}", *_agreement(v),
            )
        )  # fmt: skip
    header = ("engine", "build, s", "size, MB", "load, s", "operators → kernels", *AGREEMENT)
    return Table("Engines built ahead of time", header, rows)


AGREEMENT = (
    "same token", f"same, or within {GAP_LIMIT_NATS} nats", "worst gap, nats", "largest difference of a logit",
)  # fmt: skip


def _agreement(values: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of `AGREEMENT` for the values of a `making.Agreement`."""
    prompts = values["prompts"]
    return (
        f"{values['same_token']} of {prompts}", f"{values['right_token']} of {prompts}",
        f"{values['worst_gap_nats']:.2g}", f"{values['max_difference']:.2g}",
    )  # fmt: skip


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


def attention_text(engine: Engine) -> str:
    """Whether each attention operator of the graph became one kernel, and which kernels compute it."""
    operators = sum(engine.fusion["before"].get(name, 0) for name in ATTENTION)
    found = engine.fusion["attention"]
    kernels = " + ".join(f"{n} × {name}" for name, n in found.items()) or "kernels of other names"
    fused = "one fused kernel for each" if sum(found.values()) == operators else "not fused"
    return f"{engine.folder.name}: {operators} attention operators became {kernels}: {fused}"


def _named(item: tuple[str, int]) -> tuple[str, str]:
    name, count = item
    return (name if len(name) <= 60 else name[:57] + "…", str(count) if count else "")


def step_table(title: str, steps: Sequence[Step]) -> Table:
    """The commands of a flow, each flag with its reason."""
    rows = [(step.title, name, why) for step in steps for name, why in step.why.items()]
    return Table(title, ("step", "flag", "why"), rows)


def loaders_words(engine: Engine) -> str:
    """What OpenVINO's loader says of an engine if this lab's own checks are left out; "" if it loads it.

    The places in OpenVINO's source with which its error begins are left out.
    """
    asked = subprocess.run([sys.executable, PROGRAM, engine.folder, "1"], stdin=subprocess.DEVNULL, capture_output=True)
    if not asked.stdout:
        return f"its process ended: {asked.stderr.decode(errors='replace').strip() or f'exit code {asked.returncode}'}"
    error = " ".join(pickle.loads(asked.stdout).get("error", "").split())
    return re.sub(r"Exception from \S+: |Check '.*?' failed at \S+: ", "", error)


def disk_table(engines: Sequence[Engine]) -> Table:
    """The engines on this disk with their size; `engine.remove()` deletes one."""
    rows = [(one.folder.name, f"{one.bytes / 1e6:.0f}") for one in engines]
    return Table("Engines on this disk", ("compiler, number format, prompt length, hash", "MB"), rows)


RECORDED = Path(__file__).with_name("recorded_h100.json")  # by this lab's code, on a GPU that this machine hasn't


def recorded_on_a_gpu() -> tuple[Table, Table, str]:
    """The prefill curve of an H100 in ms, the engine's answers there, and where and when both were measured."""
    found = json.loads(RECORDED.read_text())
    times = curve.restored(found["ms"])
    rows = [
        (
            number(n),
            *(str(interval(course[n])) for course in times.values()),
            str(curve.against(times, "aoti", "eager", n)),
        )
        for n in times["eager"]
    ]
    header = ("prompt tokens", *(f"{name}, ms" for name in times), "aoti, times as fast as eager")
    built, where = found["aoti"], f"Not this machine: {found['machine'].split(',')[0]}"
    build_s = built["export_s"] + built["compile_s"]
    source = (
        f"Measured by this lab's code on {found['date']}: {found['machine']}; {found['software']}; {found['model']}. "
        f"Exporting and compiling took {build_s:.0f} s, loading {built['load_s']:.0f} s."
    )
    agreed = [(name, *_agreement(values)) for name, values in found["agreement"].items()]
    title = f"{where}, against eager PyTorch in float32"
    return Table(where, header, rows), Table(title, ("in BF16", *AGREEMENT), agreed), source
