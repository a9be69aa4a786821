"""The stages of an OpenVINO engine. They are the steps of TensorRT: graph, optimizer, serialized engine.

| here | TensorRT |
|---|---|
| `convert_model`: the torch module becomes OpenVINO's graph (`.xml`, `.bin`) | export to ONNX, parsed into a network |
| NNCF: INT8 with calibration | ModelOpt: calibration to FP8 or NVFP4 |
| `compile_model`: fusion, layouts and kernels for this processor | the builder: fusion, tactics for this GPU |
| `export_model`: a blob that needs no model code | the serialized engine, or plan |
| `import_model` | the runtime's `deserialize_cuda_engine` |
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from shared.course.prefill.ahead_of_time.build import FUSION, Recipe, Stage
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel

BLOB = "engine.blob"
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # what isn't INT8 in an INT8 engine stays float32


def settings(precision: str, threads: int) -> dict[str, Any]:
    """Build options of the processor plugin: one prompt at a time, on all cores."""
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }


def stages(
    recipe: Recipe, prefill: PrefillModel, threads: int, calibration: Sequence[Sequence[int]] = ()
) -> tuple[Stage, ...]:
    """The stages of this recipe. `calibration`: prompts as token ids, from which NNCF takes the ranges of values."""
    switch_telemetry_off()
    import openvino as ov

    def convert(folder: Path) -> None:
        example = (torch.full((1, recipe.length or 64), 1), torch.tensor([1]))
        shape = ov.PartialShape([1, recipe.length or ov.Dimension(2, prefill.longest)])
        graph = ov.convert_model(prefill, example_input=example, input=[shape, ov.PartialShape([1])])
        ov.save_model(graph, folder / "graph.xml", compress_to_fp16=False)

    def quantize(folder: Path) -> None:
        import nncf

        def inputs(prompt: Sequence[int]) -> list[Any]:
            ids = list(prompt)[: recipe.length]
            padded = ids + [0] * ((recipe.length or len(ids)) - len(ids))
            return [torch.tensor([padded]).numpy(), torch.tensor([len(ids) - 1]).numpy()]

        graph = ov.Core().read_model(folder / "graph.xml")
        # TRANSFORMER keeps softmax and norms in floating point, where INT8 would cost accuracy and save nothing.
        small = nncf.quantize(
            graph,
            nncf.Dataset(list(calibration), inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
        )
        ov.save_model(small, folder / "int8.xml", compress_to_fp16=False)

    def compile_graph(folder: Path) -> None:
        source = "int8.xml" if recipe.precision == "int8" else "graph.xml"
        compiled = ov.Core().compile_model(folder / source, "CPU", settings(recipe.precision, threads))
        graph = ov.Core().read_model(folder / source)
        found = {"before": graph_operators(graph), "after": kernels(compiled), "attention": attention(graph, compiled)}
        (folder / FUSION).write_text(json.dumps(found))
        exported = compiled.export_model()
        (folder / BLOB).write_bytes(exported if isinstance(exported, bytes) else exported.getvalue())

    found = [Stage("convert", ("graph.xml", "graph.bin"), convert, kept=False)]
    if recipe.precision == "int8":
        found.append(Stage("quantize", ("int8.xml", "int8.bin"), quantize, kept=False))
    return (*found, Stage("compile", (BLOB, FUSION), compile_graph))


def switch_telemetry_off() -> None:
    """Keep OpenVINO and NNCF from sending usage data, which importing them would already do.

    Both do without the package `openvino_telemetry` where it can't be imported.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # from now on its import fails


ATTENTION = "ScaledDotProductAttention"
NO_WORK = ("Const", "Constant", "Parameter", "Result", "Input", "Output")


def graph_operators(graph: Any) -> Counter[str]:
    """The operators of a graph by type, without constants, inputs and outputs."""
    return Counter(one.get_type_name() for one in graph.get_ordered_ops() if one.get_type_name() not in NO_WORK)


def kernels(compiled: Any) -> Counter[str]:
    """The same of the compiled engine: what its runtime executes one after another."""
    types = (_noted(one, "layerType") for one in compiled.get_runtime_model().get_ordered_ops())
    return Counter(name for name in types if name not in NO_WORK)


def attention(graph: Any, compiled: Any) -> Counter[str]:
    """The kernels of the compiled engine that compute the graph's attention operators.

    As many as there are such operators: each became one kernel. More: attention was taken apart.
    """
    names = {one.get_friendly_name() for one in graph.get_ordered_ops() if one.get_type_name() == ATTENTION}
    found = compiled.get_runtime_model().get_ordered_ops()
    mine = (one for one in found if names & set(_noted(one, "originalLayersNames").split(",")))
    return Counter(_noted(one, "layerType") for one in mine)


def _noted(kernel: Any, what: str) -> str:
    return str(kernel.get_rt_info()[what].value)
