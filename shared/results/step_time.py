"""The time of a decode step of each engine, from the loads in a ledger.

    points = step_time.points(entries, "vllm", model)           # (users, work of a step, its measured ms)
    fit = step_time.fitted(points, bandwidth_gb_s)              # overhead and computing rate (shared.metrics.roofline)

The time of a step is the median TPOT of a load, because each step gives each user one token while all answers flow.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from shared.hardware.processor import BYTES_PER_VALUE
from shared.metrics.roofline import Fit, Work, decode_step, fit
from shared.models.choice import ModelChoice
from shared.results.query import rounds
from shared.results.reading import Entries

Point = tuple[int, Work, float]
StepMs = Callable[[int, float, float, float, float, float, float], float]


def times_ms(entries: Entries, engine: str) -> dict[int, float]:
    """Users → the median TPOT over the rounds, in ms."""
    found = rounds(entries, "tpot_ms")
    return {users: statistics.median(values) for (name, users), values in sorted(found.items()) if name == engine}


def points(entries: Entries, engine: str, model: ModelChoice) -> list[Point]:
    """One point for each number of users. A step's context is the prompt and, on average, half the answer."""
    some = next(e for key, e in entries.items() if key.startswith("load/") and e["provenance"]["engine"] == engine)
    context = round(some["values"]["input_tokens"]["median"] + some["provenance"]["max_tokens"] / 2)
    precision, width = some["provenance"]["precision"], BYTES_PER_VALUE[some["provenance"].get("dtype", "")]
    return [(n, decode_step(model, precision, n, context, width), ms) for n, ms in times_ms(entries, engine).items()]


def fitted(measured: Sequence[Point], bandwidth_gb_s: float) -> Fit:
    """The fit, with the machine's own bandwidth, because users alone can't separate overhead from bytes."""
    return fit([(work, ms) for _, work, ms in measured], bandwidth_gb_s)


def values(measured: Sequence[Point], bandwidth_gb_s: float, step_ms: StepMs) -> dict[str, Any]:
    """The fit for the ledger. `step_ms` (an exercise) predicts the step time for each number of users."""
    found = fitted(measured, bandwidth_gb_s)
    peak = found.peak_tflop_s or float("inf")  # None: computing doesn't show in the times
    (few, little, _), (many, much, _) = measured[0], measured[-1]
    kv = (much.bytes - little.bytes) / (many - few)
    weights, operations = little.bytes - few * kv, little.operations / few
    return {
        "overhead_ms": found.overhead_ms,
        "bytes_ms": weights / bandwidth_gb_s / 1e6,
        "kv_ms_per_user": kv / bandwidth_gb_s / 1e6,
        "operations_ms_per_user": operations / peak / 1e9,
        "worst_residual": found.worst_residual,
        "steps": {
            str(n): [ms, step_ms(n, found.overhead_ms, weights, kv, operations, bandwidth_gb_s, peak)]
            for n, _, ms in measured
        },
    }
