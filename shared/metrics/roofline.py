"""The physical limit of a step, and which part of a measured time carries over to another machine.

The mental model: a decode step reads every weight once, whatever the number of users, and the keys and values of each
user. It computes two operations for each weight and user. So a step takes

    overhead + bytes / bandwidth + operations / peak

There are two physical limits: a step takes at least as long as its bytes take, and as long as its operations take. The
overhead (a scheduler, Python, launching each operator) depends on the engine and its processor. The other two terms
depend on the model and on the machine's memory and arithmetic. They scale with another machine's bandwidth and peak;
the overhead doesn't.

    work = roofline.decode_step(model, "BF16", users=1, context_tokens=200)
    here = roofline.measure(work.bytes, machine.cores)        # with this working set: a smaller one may fit a cache
    roofline.limit_tok_s(work, here)

The operations leave out attention's own products. With 2048 tokens of context these add 7 % for an 8B model.
"""

import contextlib
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import LabError
from shared.files import measuring
from shared.hardware.machine import Machine
from shared.models.choice import ModelChoice


@dataclass(frozen=True)
class Work:
    """What one step reads and computes, and how many tokens it produces (for a prefill: takes in)."""

    bytes: float
    operations: float
    tokens: int


def decode_step(model: ModelChoice, precision: str, users: int, context_tokens: int, bytes_per_value: int = 2) -> Work:
    """One decode step of `users` sequences, each with `context_tokens` tokens before it: one new token for each.

    `bytes_per_value` is 4 for an engine that has widened 16-bit weights, keys and values to float32.
    """
    kv = model.kv_bytes_per_token(bytes_per_value) * users
    weights = model.decode_bytes(precision) * bytes_per_value / 2
    read = weights + kv * context_tokens + kv  # the last term: the keys and values that this step adds
    return Work(read, 2.0 * (model.parameters - model.lookup) * users, users)


def prefill(model: ModelChoice, precision: str, prompt_tokens: int) -> Work:
    """A whole prompt at once. The weights are read once; every token is computed, and the logits of the last one."""
    kv = model.kv_bytes_per_token() * prompt_tokens
    body = model.parameters - model.lookup - model.output
    return Work(model.decode_bytes(precision) + kv, 2.0 * (body * prompt_tokens + model.output), prompt_tokens)


@dataclass(frozen=True)
class Ceilings:
    """The bandwidth and arithmetic that a machine reaches at best."""

    bandwidth_gb_s: float
    peak_tflop_s: float
    kind: str  # "measured", or "quoted: source, date"


# Dense BF16, by a GPU's name as nvidia-smi prints it.
SPARK = Ceilings(273.0, 125.0, "quoted: NVIDIA's data sheet, dense BF16 by ratio from its FP4 figure, read 2026-11")
DATA_SHEETS = {
    "GB10": SPARK,
    "H100 80GB HBM3": Ceilings(3350.0, 989.0, "quoted: NVIDIA's data sheet of the H100 SXM, read 2026-11"),
    "H200": Ceilings(4800.0, 989.0, "quoted: NVIDIA's data sheet of the H200 SXM, read 2026-11"),
}


def ceilings(machine: Machine, working_set_bytes: float) -> Ceilings:
    """The most that engines can reach on this machine: measured on a processor, from the data sheet on a GPU.

    Raises LabError for a GPU whose data sheet isn't in DATA_SHEETS.
    """
    if machine.runner == "native":
        return measure(working_set_bytes, machine.cores)
    for name, known in DATA_SHEETS.items():
        if name in (machine.gpu or ""):
            return known
    raise LabError(
        f"The bandwidth and peak of {machine.gpu} are not known.",
        "add them from its data sheet (dense BF16) to DATA_SHEETS in shared/metrics/roofline.py",
    )


def measure(working_set_bytes: float, cores: int, device: str = "cpu") -> Ceilings:
    """Measure where torch computes ("cpu" or "cuda"): bandwidth with this working set, and the faster of FP32 and BF16
    products.

    Takes about four seconds. The faster product is the limit, since an engine may convert its weights. It is measured
    with larger matrices, too: small ones don't fill many cores, nor their matrix units.
    """
    import torch

    def timed(do: Callable[[], object]) -> Callable[[], object]:
        return do if device == "cpu" else lambda: (do(), torch.cuda.synchronize())

    before = torch.get_num_threads()
    torch.set_num_threads(cores)
    with contextlib.ExitStack() as stack:
        stack.callback(torch.set_num_threads, before)
        stack.enter_context(measuring())
        numbers = torch.ones(max(1, int(working_set_bytes) // 4), device=device)
        bandwidth = numbers.nbytes / best_s(timed(numbers.sum), 1.0) / 1e9
        del numbers

        def tflop_s(kind: torch.dtype, size: int, for_s: float) -> float:
            a = torch.ones((size, size), dtype=kind, device=device)
            return float(2 * size**3 / best_s(timed(functools.partial(torch.matmul, a, a)), for_s) / 1e12)

        first, *larger = (512, 1024, 2048) if device == "cpu" else (8192,)
        peaks = {kind: tflop_s(kind, first, 0.8) for kind in (torch.float32, torch.bfloat16)}
        faster = max(peaks, key=peaks.__getitem__)
        peak = max([peaks[faster], *(tflop_s(faster, size, 0.5) for size in larger)])
    return Ceilings(bandwidth, peak, "measured")


def best_s(do: Callable[[], object], for_s: float) -> float:
    """The shortest time of `do`, in seconds, repeated for `for_s` seconds and at least three times."""
    best, began, count = float("inf"), time.perf_counter(), 0
    while count < 4 or time.perf_counter() - began < for_s:
        start = time.perf_counter()
        do()
        if count:  # the first call touches its memory for the first time, so it doesn't count
            best = min(best, time.perf_counter() - start)
        count += 1
    return best


def limit_tok_s(work: Work, ceilings: Ceilings) -> float:
    """The upper limit in tokens a second: reading and computing overlap perfectly, and nothing else takes time."""
    return work.tokens / max(
        work.bytes / (ceilings.bandwidth_gb_s * 1e9), work.operations / (ceilings.peak_tflop_s * 1e12)
    )


def bits_per_weight(decode_tok_s: float, parameters: float, bandwidth_gb_s: float) -> float:
    """The most bits that a weight can have if one user gets this speed, since every token reads every weight."""
    return bandwidth_gb_s * 1e9 / decode_tok_s / parameters * 8


@dataclass(frozen=True)
class Prediction:
    """The time of a step and its three parts, in ms."""

    overhead_ms: float
    bytes_ms: float
    operations_ms: float

    @property
    def step_ms(self) -> float:
        return self.overhead_ms + self.bytes_ms + self.operations_ms


def predict(work: Work, ceilings: Ceilings, overhead_ms: float = 0.0) -> Prediction:
    """The time of a step by the model, in which nothing overlaps. An engine that overlaps reading and computing may be
    faster, up to the limit."""
    return Prediction(
        overhead_ms,
        work.bytes / (ceilings.bandwidth_gb_s * 1e6),
        work.operations / (ceilings.peak_tflop_s * 1e9),
    )


@dataclass(frozen=True)
class Fit:
    """One engine on one machine: its overhead, and the bandwidth and peak that it reaches.

    None: the term doesn't show in the measured times.
    """

    overhead_ms: float
    bandwidth_gb_s: float | None
    peak_tflop_s: float | None
    worst_residual: float  # the largest distance of a measured time from the model, as a share of that time

    def predict(self, work: Work) -> Prediction:
        ceilings = Ceilings(self.bandwidth_gb_s or np.inf, self.peak_tflop_s or np.inf, "measured")
        return predict(work, ceilings, self.overhead_ms)


def fit(points: Sequence[tuple[Work, float]], bandwidth_gb_s: float | None = None) -> Fit:
    """Overhead, bandwidth and peak of one engine, from (work of a step, its measured ms).

    Non-negative least squares on relative errors. More users change the operations, but hardly the bytes. So from users
    alone, overhead and bytes can't be separated: measure other precisions or contexts as well, or give the measured
    `bandwidth_gb_s`. Raises LabError for fewer than four points, and for points that don't separate the terms.
    """
    from scipy.optimize import nnls  # takes most of a second to import

    if len(points) < 4:
        raise LabError(f"A fit of three terms needs 4 points, but has {len(points)}.", "measure at least four loads")
    times = np.array([ms for _, ms in points])
    columns = np.array([[1.0, w.bytes / 1e6, w.operations / 1e9] for w, _ in points])
    known = np.zeros(len(points))
    if bandwidth_gb_s is not None:
        known = columns[:, 1] / bandwidth_gb_s
        columns = columns[:, [0, 2]]
    scaled = columns / times[:, None]
    lengths = np.linalg.norm(scaled, axis=0)
    if np.linalg.cond(scaled / lengths) > 200:
        raise LabError(
            "These points can't separate overhead, bytes and operations.",
            "vary the precision or the context as well, or give bandwidth_gb_s",
        )
    best = nnls(scaled / lengths, (times - known) / times)[0] / lengths
    best[(scaled * best).max(axis=0) < 1e-9] = 0  # a billionth of a step is a rounding error
    residual = float(np.abs(scaled @ best + known / times - 1).max())
    overhead, *rest = (float(x) for x in best)
    inverse_bandwidth = 1 / bandwidth_gb_s if bandwidth_gb_s is not None else rest.pop(0)
    [inverse_peak] = rest
    return Fit(overhead, inverse(inverse_bandwidth), inverse(inverse_peak), residual)


def inverse(value: float) -> float | None:
    return 1 / value if value > 0 else None
