"""What no engine can exceed on this machine, and how much of that limit each engine reaches.

    limits = work_out_limits(model, ceilings, pass_floor_ms, (1, 4, 16, 32), (128, 512, 2048))
    share_of_ceiling(entries, model, ceilings, pass_floor_ms)

The limits are computed from two figures of the machine, memory bandwidth and arithmetic rate, before any engine runs.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.engines import ENGINES
from shared.hardware.machine import Machine
from shared.hardware.processor import BYTES_PER_VALUE
from shared.load.loads import users_text
from shared.metrics.roofline import Ceilings, ceilings, decode_step, limit_tok_s
from shared.metrics.spread import number
from shared.models.choice import ModelChoice
from shared.report.table import Table
from shared.results.query import rounds
from shared.results.reading import Entries
from shared.results.step_time import times_ms

if TYPE_CHECKING:
    from shared.course.labs import OpenLab
    from shared.report.plots import Plot

CONTEXT_TOKENS = 60  # roughly what a user of a short load has in the KV cache: prompt and answer
FITS = 0.2  # the largest relative misfit at which the step-time model counts as explaining an engine

FloorMs = Callable[[int, int, float, float, float], float]


def known_ceilings(lab: "OpenLab", machine: Machine, model: ModelChoice) -> Ceilings:
    """The most that this machine reaches: on a processor measured once, on a GPU quoted from its data sheet."""
    if machine.runner != "native":
        return ceilings(machine, model.weight_bytes())

    def measured() -> dict[str, float]:
        here = ceilings(machine, model.weight_bytes())
        return {"bandwidth_gb_s": here.bandwidth_gb_s, "peak_tflop_s": here.peak_tflop_s}

    found = lab.measure("predict/ceilings", measured, weight_bytes=model.weight_bytes(), cores=machine.cores)
    return Ceilings(found["bandwidth_gb_s"], found["peak_tflop_s"], "measured")


def work_out_limits(
    model: ModelChoice, here: Ceilings, floor_ms: FloorMs, users: Sequence[int], prompt_tokens: Sequence[int]
) -> dict[str, Any]:
    """The limits for the ledger: decode tok/s by number of users, and least prefill ms by length of the prompt.

    `floor_ms` is the exercise's function. A prompt's tokens meet all weights but the output matrix. `ceiling_tok_s` is
    the limit of one user without a KV cache, by the exercise's function alone.
    """
    weights, size = model.parameters - model.lookup - model.output, model.weight_bytes()
    steps = {n: decode_step(model, "BF16", n, CONTEXT_TOKENS) for n in users}
    return {
        "bandwidth_gb_s": here.bandwidth_gb_s,
        "peak_tflop_s": here.peak_tflop_s,
        "ceiling_tok_s": one_user_tok_s(model, size, here, floor_ms),
        "decode_tok_s": {n: limit_tok_s(step, here) for n, step in steps.items()},
        "prefill_ms": {n: floor_ms(n, weights, size, here.bandwidth_gb_s, here.peak_tflop_s) for n in prompt_tokens},
    }


def one_user_tok_s(model: ModelChoice, size: float, here: Ceilings, floor_ms: FloorMs) -> float:
    """The most tokens per second of one user whose step reads `size` bytes: each token is a pass over one token."""
    return 1e3 / floor_ms(1, model.parameters - model.lookup, int(size), here.bandwidth_gb_s, here.peak_tflop_s)


def limits_table(limits: Mapping[str, Any]) -> Table:
    rows = [(f"decode, {users_text(n)}", f"at most {tok_s:.0f} tok/s") for n, tok_s in limits["decode_tok_s"].items()]
    rows += [(f"prompt of {n} tokens", f"at least {ms:.0f} ms") for n, ms in limits["prefill_ms"].items()]
    return Table("No engine can exceed these limits on this machine (BF16 weights)", ("", "limit"), rows)


def share_of_ceiling(
    entries: Entries, model: ModelChoice, here: Ceilings, floor_ms: FloorMs
) -> dict[str, dict[str, float]]:
    """By engine: decode tok/s of one user, the bytes that its step reads, its ceiling, and the share that it reaches.

    Decode only: 1000 / TPOT, so that the prefill doesn't count. An engine that widened its weights to float32 reads
    twice the bytes, and is held to the ceiling of those.
    """
    found = {}
    for name in ENGINES:
        times = times_ms(entries, name)
        if 1 not in times:
            continue
        some = next(e["provenance"] for k, e in entries.items() if k.startswith(f"load/users-1/{name}/"))
        size = model.decode_bytes(some["precision"]) * BYTES_PER_VALUE[some.get("dtype", "")] / 2
        tok_s, ceiling = 1e3 / times[1], one_user_tok_s(model, size, here, floor_ms)
        found[name] = {"tok_s": tok_s, "bytes": size, "ceiling_tok_s": ceiling, "share": tok_s / ceiling}
    return found


def growth(entries: Entries) -> dict[str, float]:
    """By engine: output throughput of most users over that of one user (medians of the rounds)."""
    found = {at: statistics.median(values) for at, values in rounds(entries, "output_tok_s").items()}
    most = max((users for _, users in found), default=1)
    return {name: found[name, most] / found[name, 1] for name in ENGINES if {(name, 1), (name, most)} <= found.keys()}


def ceiling_table(shares: Mapping[str, Mapping[str, float]], grew: Mapping[str, float], most: int) -> Table:
    rows = [
        (
            ENGINES[name].title,
            number(v["tok_s"]),
            number(v["bytes"] / 1e6),
            number(v["ceiling_tok_s"]),
            f"{100 * v['share']:.0f} %",
            f"{grew[name]:.1f}×" if name in grew else "–",
        )
        for name, v in shares.items()
    ]
    header = (
        "engine", "decode, 1 user, tok/s", "read per step, MB", "ceiling for these bytes, tok/s", "share",
        f"throughput, {most} users against 1",
    )  # fmt: skip
    return Table("Share of its own ceiling that each engine reaches", header, rows)


def log_axis(plot: "Plot") -> "Plot":
    """The plot with a logarithmic y axis, with ticks at 1, 2 and 5 of each decade."""
    ticks = [digit * 10**zeros for zeros in range(6) for digit in (1, 2, 5)]
    plot.figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])
    return plot


def each_engine(values: Mapping[str, float]) -> str:
    """ "Ollama 0.36, vLLM 0.4": one figure for each engine, as a text."""
    return ", ".join(f"{ENGINES[name].title} {number(value)}" for name, value in values.items())
