"""Where the time of a prefill goes, by each runtime's own profiler: matrix products, attention, and what is between.

    parts.of_eager(kit.torch("float32"), ids)
    parts.of_openvino(run, ids)              # an engine loaded with profile=True that has computed nothing yet

A profiler slows small kernels down a little, so its sums are no times for the curve.
"""

import os
import statistics
from collections.abc import Callable, Iterable, Sequence

import torch

from shared.course.prefill.ahead_of_time.loaded import InTorch, Loaded

PRODUCTS, ATTENTION, REST = "matrix products", "attention", "the rest"
Parts = dict[str, float]  # part → ms
REPEATS = 3


def of_eager(run: InTorch, ids: Sequence[int]) -> Parts:
    """ms by part of a prefill in eager torch on the processor, without what Python takes between two operators."""
    _once_eager(run, ids)  # doesn't count
    found = [_once_eager(run, ids) for _ in range(REPEATS)]
    return {part: statistics.median(one[part] for one in found) for part in (PRODUCTS, ATTENTION, REST)}


def _once_eager(run: InTorch, ids: Sequence[int]) -> Parts:
    os.environ["KINETO_LOG_LEVEL"] = "6"  # else torch's profiler prints lines of its own
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        run(ids)
    events = ((event.key, "", event.self_cpu_time_total / 1e6) for event in profiler.key_averages())
    return _summed(events, lambda name, _: name in ("aten::mm", "aten::addmm"))


def of_openvino(run: Loaded, ids: Sequence[int]) -> Parts:
    """ms by part of a prefill in an OpenVINO engine that was loaded for this: mean of REPEATS prefills after the first.

    OpenVINO reports for each kernel the mean of all its calls since the engine was loaded, whatever their lengths.

    A Subgraph is a kernel that OpenVINO generates; here it is attention. Where attention isn't one kernel, its two
    products are of the type MatMul, and its softmax is another kernel.
    """
    first, *_, means = [run.nodes_s(ids) for _ in range(1 + REPEATS)]
    kernels = (
        (name, kind, ((1 + REPEATS) * mean - once) / REPEATS)
        for (_, _, once), (name, kind, mean) in zip(first, means, strict=True)
    )
    return _summed(kernels, lambda _, kind: kind == "FullyConnected")


def _summed(kernels: Iterable[tuple[str, str, float]], is_product: Callable[[str, str], bool]) -> Parts:
    found = dict.fromkeys((PRODUCTS, ATTENTION, REST), 0.0)
    for name, kind, seconds in kernels:
        if is_product(name, kind):
            part = PRODUCTS
        elif "scaled_dot_product" in name or kind in ("Subgraph", "MatMul", "Softmax"):
            part = ATTENTION
        else:
            part = REST
        found[part] += 1e3 * seconds
    return found
