"""What is in an engine's folder: this lab's engines by their files, TensorRT-LLM's by its source."""

from collections.abc import Sequence
from pathlib import Path

from shared.course.prefill.ahead_of_time import aoti_compiler, build, openvino_compiler
from shared.report.table import Table

WHAT = {
    openvino_compiler.BLOB: "OpenVINO's compiled graph and its weights, for this processor",
    aoti_compiler.PACKAGE: "AOTInductor's compiled program (.so) and its weights, for this processor",
    build.MANIFEST: "what decides the engine, hashes of its files, seconds of each stage",
    build.FUSION: "operators before and kernels after the optimizer",
    "config.json": "TensorRT-LLM: version, checkpoint, limits",
    "rank0.engine": "TensorRT-LLM: the serialized engine of the first GPU",
}
# Read in tensorrt_llm/builder.py (EngineConfig, BuildConfig, Engine.save) at commit 008b2b8d23af; no folder was built.
TRTLLM = (
    ("config.json", "version", "the TensorRT-LLM that built it", "versions"),
    ("config.json", "pretrained_config", "architecture, dtype, layers, heads, quantization", "weights_sha256"),
    ("config.json", "build_config", "max_batch_size, max_input_len, max_seq_len, plugin_config, …", "recipe"),
    ("rank0.engine", "", "kernels for one kind of GPU, and the weights", "hardware, instructions"),
)


def contents(folder: Path) -> Table:
    """The files of a folder with their sizes, and what each is."""
    found = sorted((one for one in folder.iterdir() if one.is_file()), key=lambda one: -one.stat().st_size)
    rows = [(one.name, f"{one.stat().st_size / 1e6:.3f}", WHAT.get(one.name, "")) for one in found]
    return Table(f"Folder of an engine: {folder.resolve().name}", ("file", "MB", "what it is"), rows)


def counterparts() -> Table:
    """What TensorRT-LLM's folder holds, by its source, and where this lab's manifest has the same."""
    title = "TensorRT-LLM's engine folder (from its source, commit 008b2b8d23af; not built here)"
    return Table(title, ("file", "key", "what it holds", "in this lab's manifest"), TRTLLM)


def on_disk(own: Sequence[build.Engine], tensorrt: Sequence[Path]) -> Table:
    """All engines on this disk with their size, and how to delete each."""
    rows = [(one.folder.name, f"{one.bytes / 1e6:.0f}", "engine.remove()") for one in own]
    for folder in tensorrt:
        size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
        rows.append((folder.parent.name, f"{size / 1e6:.0f}", "shutil.rmtree(folder)"))
    return Table("Engines on this disk", ("engine", "MB", "deleted by"), rows)
