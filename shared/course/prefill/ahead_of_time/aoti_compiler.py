"""The stages of an AOTInductor engine: torch.export draws the graph, Inductor compiles it into a shared library.

`torch_tensorrt` has the same front half (torch.export and its graph of ATen operators) and hands that graph to TensorRT
instead of Inductor.
"""

from pathlib import Path

import torch

from shared.course.prefill.ahead_of_time.build import Recipe, Stage
from shared.course.prefill.ahead_of_time.prefill_model import SHORTEST, PrefillModel

PACKAGE = "engine.pt2"


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
        with torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                torch.export.load(folder / "graph.pt2"), package_path=str(folder / PACKAGE)
            )

    return Stage("export", ("graph.pt2",), export, kept=False), Stage("compile", (PACKAGE,), compile_graph)
