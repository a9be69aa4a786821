"""What more machines add: replicas, as the scale-out benchmark measured them, and a second DGX Spark by arithmetic.

The figures of the two Sparks are quoted, with source and date.
"""

from collections.abc import Callable, Mapping

import plotly.graph_objects as go

from shared import paths
from shared.course.batching.spark_arithmetic import LINK_GB_S, MODELS, SPARK_READS_GB_S, usable_bytes
from shared.metrics.spread import Spread, number
from shared.report.plots import PARTS, Plot, layout
from shared.report.table import Table
from shared.results import scale_out

SUM_LATENCY_US = 41
QUOTED = (
    ("memory bandwidth of one Spark", f"{SPARK_READS_GB_S} GB/s", "NVIDIA's data sheet", "read 2026-11"),
    ("link, nominal", f"{LINK_GB_S} GB/s (200 Gbit/s)", "NVIDIA NIM, “Deploy on DGX Spark”", "read 2026-11"),
    ("link, all_gather of nccl-tests", "23.7 GB/s", "NVIDIA/dgx-spark-playbooks, pull request 103", "2026-08-17"),
    ("link, the same on another pair", "18.9 to 21.0 GB/s", "NVIDIA/dgx-spark-playbooks, issue 25", "2025-11-19"),
    (
        "one sum of 8 KB over the link",
        f"{SUM_LATENCY_US} µs",
        "MiaAI-Lab/Qwen3.8-Flash-Next-Dual-DGX-Sparks, issue 22",
        "2026-08-29",
    ),
    ("one sum of 1 MB there, before tuning", "about 2,100 µs", "the same", "2026-08-29"),
    ("decode on two instead of one", "1.14 times as fast", "antirez/ds4, pull request 754", "2026-08-16"),
    ("decode on two instead of one", "2.05 times as fast", "unslothai/unsloth, pull request 10280", "2026-09-04"),
)
# Layers, hidden size and parameters, from each model's config.json and model card.
SHAPES = {
    "SmolLM2-135M": (30, 576, 134.5e6),
    "Llama-3.2-1B": (16, 2048, 1.24e9),
    "Llama-3.2-3B": (28, 3072, 3.21e9),
    "Llama-3.1-8B": (32, 4096, 8.03e9),
    "Qwen2.5-14B": (48, 5120, 14.8e9),
    "Qwen2.5-32B": (64, 5120, 32.8e9),
    "Llama-3.1-70B": (80, 8192, 70.6e9),
}

StepMs = Callable[[Mapping[str, int], float, int, int, float, float, float], float]

PUBLISHED = paths.REPO / "environment" / "scale_out" / "ray_serve" / "measured.json"


def replicas() -> Table:
    """What `make scale-out-bench` measured on this machine, else what the authors' run measured.

    Raises LabError for a file that is no such benchmark.
    """
    file = kept if (kept := scale_out.file()).exists() else PUBLISHED
    found = scale_out.read(file)
    most, least = max(found.users), min(found.users)
    keys = (f"tok_s/{most}", f"ttft_ms/{least}", "kill_requests", "kill_failed", "kill_recovery_s")
    rows = [
        (title, *(str(Spread.of(found.columns[name].get(key, ())) or "–") for key in keys))
        for name, title in scale_out.SYSTEMS.items()
        if name in found.columns
    ]
    source = {"processor": "?", "machine_cores": "?", "time": "?", **found.provenance}
    where = f"{source['processor']}, {source['machine_cores']} cores, {source['time'][:10]}"
    kind = "quoted from the authors' run" if file == PUBLISHED else "measured"
    header = (
        "",
        f"tok/s, {most} users",
        f"TTFT ms, {least} user",
        "requests while a replica was killed",
        "of these failed",
        "s until a new replica answered",
    )
    return Table(f"Replicas on one machine ({kind}: {where})", header, rows)


def quoted_figures() -> Table:
    """What others published about the link and about two Sparks."""
    return Table(
        "Two Sparks: figures that others published (quoted; those from GitHub are one owner's each)",
        ("", "figure", "source", "date"),
        list(QUOTED),
    )


def one_or_two_sparks(step_ms: StepMs, latency_us: float) -> Table:
    """A decode step on one Spark and on two, in BF16. A model that one can't hold has no time there.

    `step_ms` is the student's `tensor_parallel_step_ms`; `latency_us` that of one sum over the link.
    """
    rows = []
    for name, (config, parameters) in MODELS.items():
        weight_gb = 2 * parameters / 1e9
        fits = 1e9 * weight_gb < usable_bytes()
        for users in (1, 32):
            one, two = times_ms(step_ms, config, weight_gb, users, latency_us)
            alone = (number(one), f"{one / two:.2f}") if fits else (f"does not fit ({weight_gb:.0f} GB)", "–")
            rows.append((f"{name} BF16", str(users), alone[0], number(two), alone[1]))
    header = ("model", "users", "one Spark, ms a step", "two Sparks, ms a step", "one / two")
    return Table("One Spark or two, by arithmetic (simulated)", header, rows)


def times_ms(
    step_ms: StepMs, config: Mapping[str, int], weight_gb: float, users: int, latency_us: float
) -> tuple[float, float]:
    """Milliseconds of a decode step on one Spark, and on two."""
    one, two = (
        step_ms(config, weight_gb, users, machines, SPARK_READS_GB_S, LINK_GB_S, latency_us) for machines in (1, 2)
    )
    return one, two


def by_model_size(step_ms: StepMs, latency_us: float) -> Plot:
    """A decode step of one user by the size of the model, on one Spark and on two, in BF16 on logarithmic axes."""
    title = "A decode step of one user, by arithmetic (simulated)"
    sizes, alone, pair, cells = [], [], [], []
    for name, (layers, hidden, parameters) in SHAPES.items():
        config, weight_gb = {"num_hidden_layers": layers, "hidden_size": hidden}, 2 * parameters / 1e9
        one, two = times_ms(step_ms, config, weight_gb, 1, latency_us)
        fits = 1e9 * weight_gb < usable_bytes()
        sizes.append(parameters / 1e9)
        alone.append(one if fits else None)
        pair.append(two)
        gain = f"{one / two:.2f}" if fits else "–"
        cells.append((name, number(one) if fits else "does not fit", number(two), gain))
    figure = go.Figure(layout=layout(title, "parameters, billions (BF16)", "ms a step"))
    for (name, times), (colour, _), symbol, dash in zip(
        (("one Spark", alone), ("two Sparks", pair)), PARTS, ("circle", "square"), ("solid", "dash"), strict=False
    ):
        figure.add_scatter(
            x=sizes,
            y=times,
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash, "width": 2.5},
            marker={"symbol": symbol, "size": 10},
        )
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[f"{size:.2g}" for size in sizes])
    ticks = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    figure.update_yaxes(type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    return Plot(title, ("model", "one Spark, ms", "two Sparks, ms", "one / two"), cells, figure)
