"""Choosing an engine for a workload: floors from ceilings, published speeds, and what the measured curves say.

A workload is a kind of request on a server. Its mix (mix.py) has prompts of about a sixteenth of its length, so that
this machine computes it within seconds.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared import paths
from shared.course.prefill import curve, mix
from shared.course.prefill.servers import OWN_CLOCK
from shared.errors import LabError
from shared.metrics.roofline import SPARK, Ceilings
from shared.metrics.spread import Spread, number
from shared.models.choice import ModelChoice
from shared.report.table import Table
from shared.results.reading import Entry

# The engines of the lab by the number under which a student predicts one.
NUMBERED = ("eager", "torch.compile", "openvino", "aoti", "llamacpp", "vllm")
PUBLISHED = paths.REPO / "environment" / "containers" / "published.toml"


@dataclass(frozen=True)
class Workload:
    """What a request of a workload carries, in tokens, and how many requests run at once: made up."""

    title: str
    prompt_tokens: int
    answer_tokens: int
    users: int


WORKLOADS = {
    "chat": Workload("chat", 900, 250, 8),
    "summaries": Workload("summaries in a batch", 3200, 150, 32),
    "rag": Workload("questions about long documents (RAG)", 8192, 250, 8),
}


def by_curve(lengths: Sequence[int], times: curve.Times, baseline: str = "eager") -> dict[str, float]:
    """How often each runner's time for a mix fits into the baseline's, from the medians of a curve.

    Between two lengths of the curve the time is read off a straight line.
    """
    total_ms = {}
    for name, course in times.items():
        known = curve.medians(course)
        total_ms[name] = float(np.interp(lengths, list(known), [one.median for one in known.values()]).sum())
    return {name: total_ms[baseline] / ms for name, ms in total_ms.items()}


def fastest(lengths: Sequence[int], times: curve.Times) -> dict[str, float]:
    """The same by the client's clock, fastest first."""
    gains = {name: gain for name, gain in by_curve(lengths, times).items() if not name.endswith(OWN_CLOCK)}
    return dict(sorted(gains.items(), key=lambda item: -item[1]))


def times_of(results: Mapping[str, Entry], model: str) -> curve.Times:
    """The recorded curve of the lab's own runners, and those of servers that run the same model.

    Raises LabError if the curve isn't measured yet.
    """
    if "curve" not in results:
        raise LabError("The curve of section 3 isn't measured yet.", "run the cell measure-curve first")
    found = curve.restored(results["curve"]["values"]["ms"])
    for key, entry in sorted(results.items()):
        if key.startswith("servers/") and entry["values"]["model"] == model:
            found |= curve.restored(entry["values"]["ms"])
    return found


def workload_floors(model: ModelChoice, limits: Ceilings = SPARK) -> Table:
    """The least that each workload takes by quoted ceilings: 2 operations and one read per weight, nothing else."""
    rows = []
    for one in WORKLOADS.values():
        prefill_s = 2 * (model.parameters - model.lookup) * one.prompt_tokens / (limits.peak_tflop_s * 1e12)
        decode_s = model.weight_bytes() * one.answer_tokens / (limits.bandwidth_gb_s * 1e9)
        share = prefill_s / (prefill_s + decode_s / one.users)
        rows.append(
            (
                one.title, str(one.prompt_tokens), str(one.answer_tokens), str(one.users), f"{prefill_s:.2f}",
                f"{decode_s:.1f}", f"{decode_s / one.users:.2f}", f"{share:.0%}",
            )
        )  # fmt: skip
    header = (
        "workload", "prompt, tokens", "answer, tokens", "users", "prefill, s", "decode, s for the user",
        "decode, s of the machine: divided by the users", "prefill's share of the machine's time",
    )  # fmt: skip
    return Table(f"Floors of {model.name} in BF16 on a DGX Spark (from quoted ceilings)", header, rows)


def published_prefill() -> Table:
    """Prefill speeds that others published for a DGX Spark: quoted."""
    rows = [
        (one["engine"], one["model"], one["precision"], number(one["prefill_tok_s"]), one["source"], one["date"])
        for one in tomllib.loads(PUBLISHED.read_text())["quote"]
        if "prefill_tok_s" in one
    ]
    return Table(
        "Prefill on a DGX Spark (quoted, not repeated here)",
        ("engine", "model", "precision", "tok/s", "source", "date"),
        rows,
    )


def mix_gains(times: curve.Times) -> Table:
    """How often each engine's time for each mix fits into eager's, read off the curves; the fastest first."""
    longest = max(times["eager"])
    lengths = {WORKLOADS[name].title: mix.MIXES[name] for name in mix.MIXES}
    rows = []
    for title, mixed in (*lengths.items(), (f"one prompt of {longest} tokens", (longest,))):
        found = fastest(mixed, times)
        rows.append((title, ", ".join(f"{name} {gain:.2f}×" for name, gain in found.items())))
    return Table("Times as fast as eager, by the curves", ("mix", "engines"), rows)


def fastest_engine(name: str, times: curve.Times) -> str:
    """The engine that is the fastest for a mix by the curves, with its number."""
    best, gain = next(iter(fastest(mix.MIXES[name], times).items()))
    place = f"{NUMBERED.index(best) + 1}: " if best in NUMBERED else ""
    return f"{place}{best}, {gain:.2f}× eager"


def bucket_table(choose: Callable[[Sequence[int], int], Sequence[int]], most: Sequence[int] = (1, 2, 3)) -> Table:
    """The lengths that `choose` picks for each mix with 1, 2, 3 static engines, and their padding."""
    rows = []
    for name, lengths in mix.MIXES.items():
        for count in most:
            chosen = sorted(choose(list(lengths), count))
            wasted = 1 - sum(lengths) / sum(min(n for n in chosen if n >= one) for one in lengths)
            rows.append((name, str(count), ", ".join(map(str, chosen)), f"{wasted:.0%}"))
    return Table("Static engines for each mix", ("mix", "engines", "lengths", "padding, share of all tokens"), rows)


def mix_table(name: str, timed: Mapping[str, Mapping[str, Any]]) -> Table:
    """What a mix cost on each set of engines, and the gain over eager in the same rounds."""
    times = {way: {0: ms} for way, ms in timed["ms"].items()}
    gains = {way: str(curve.against(times, way, "eager", 0)) for way in times if way != "eager"}
    rows = [
        (way, str(Spread.of(course[0])), f"{timed['padding'][way]:.0%}", gains.get(way, ""))
        for way, course in times.items()
    ]
    return Table(f"Mix: {name}", ("engines", "ms for the whole mix", "padding", "times as fast as eager"), rows)
