"""The stages of an AOTInductor engine: torch.export draws the graph, Inductor compiles it into a shared library.

`torch_tensorrt` has the same front half (torch.export and its graph of ATen operators) and hands that graph to TensorRT
instead of Inductor.
"""

import json
import re
import warnings
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from shared.course.prefill.ahead_of_time.build import FUSION, Recipe, Stage
from shared.course.prefill.ahead_of_time.prefill_model import SHORTEST, PrefillModel

PACKAGE = "engine.pt2"
# A statement that calls a kernel. Declarations begin with a type, so they don't match.
CALL = re.compile(
    r"(?:AOTI_TORCH_ERROR_CODE_CHECK\()?((?:cpp_fused|aoti_torch_cpu|aoti_torch_cuda|triton|call_triton)_\w+)\("
)

ATTENTION = re.compile(r"aoti_torch_\w*scaled_dot_product")  # torch's library has it as one kernel


def stages(recipe: Recipe, prefill: PrefillModel) -> tuple[Stage, ...]:
    """The stages of this recipe."""

    def export(folder: Path) -> None:
        device = prefill.embedding.device
        example = (torch.full((1, recipe.length or 64), 1, device=device), torch.tensor([1], device=device))
        length = torch.export.Dim("length", min=SHORTEST, max=prefill.longest)
        with torch.no_grad():
            graph = torch.export.export(prefill, example, dynamic_shapes=None if recipe.length else ({1: length}, None))
        torch.export.save(graph, folder / "graph.pt2")

    def compile_graph(folder: Path) -> None:
        graph = torch.export.load(folder / "graph.pt2")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch warns of its own use of a name, with a path
            torch._inductor.aoti_compile_and_package(graph, package_path=str(folder / PACKAGE))
        after = generated_calls(folder / PACKAGE)
        attention = {name: count for name, count in after.items() if ATTENTION.match(name)}
        found = {"before": graph_operators(graph), "after": after, "attention": attention}
        (folder / FUSION).write_text(json.dumps(found))

    return Stage("export", ("graph.pt2",), export, kept=False), Stage("compile", (PACKAGE, FUSION), compile_graph)


def graph_operators(graph: Any) -> Counter[str]:
    """The operators of the exported graph by name: what eager torch would call one after another."""
    calls = (node for node in graph.graph.nodes if node.op == "call_function")
    return Counter(str(node.target).split(".")[1] for node in calls if str(node.target).startswith("aten."))


def generated_calls(package: Path) -> Counter[str]:
    """The calls in the generated program: its own fused kernels by name, and kernels of torch's library."""
    with zipfile.ZipFile(package) as archive:
        [wrapper] = [name for name in archive.namelist() if name.endswith(".wrapper.cpp")]
        code = archive.read(wrapper).decode()
    lines = [line.strip() for line in code.splitlines()]
    return Counter(match[1] for line in lines if (match := CALL.match(line)))
