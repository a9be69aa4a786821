"""What is in an engine's folder: this lab's engines by their files, TensorRT-LLM's by its source."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shared.course.prefill.ahead_of_time import aoti_compiler, build, openvino_compiler
from shared.course.prefill.tensorrt.flows import ENGINE_FILES
from shared.errors import LabError
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
# What TensorRT-LLM's config.json records: (its key, what it is). Read there, and in get_settings_from_engine.
RECORDED = (
    ("version", "the TensorRT-LLM that built it"),
    ("pretrained_config.architecture", "the model's family"),
    ("pretrained_config.dtype", "the format of what isn't quantized"),
    ("pretrained_config.quantization.quant_algo", "the format of the weights; null: not quantized"),
    ("pretrained_config.quantization.kv_cache_quant_algo", "the format of the KV cache; null: not quantized"),
    ("pretrained_config.mapping.tp_size", "GPUs that share each layer"),
    ("pretrained_config.mapping.pp_size", "GPUs that share the layers among them"),
    ("build_config.max_batch_size", "requests that one step may hold"),
    ("build_config.max_input_len", "the longest prompt"),
    ("build_config.max_seq_len", "prompt and answer together"),
    ("build_config.max_num_tokens", "tokens that one step may hold"),
    ("build_config.kv_cache_type", "how the KV cache is laid out"),
    ("build_config.plugin_config", "the plugins that are switched on"),
)
OFF = (None, False, "disable")  # of a plugin


def recorded(folder: Path) -> Table:
    """What an engine's config.json records, by its documented form. A key that it lacks is shown as missing.

    Raises LabError if the folder has no such file, or it holds something else.
    """
    file = folder / ENGINE_FILES[0]
    try:
        config = json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise LabError(f"{file.name} of the engine can't be read: {e}.", "build the engine again") from None
    if not isinstance(config, dict):
        raise LabError(f"{file.name} of the engine holds no keys.", "build the engine again")
    title = f"What {file.name} records (form read in TensorRT-LLM's source; no sample was seen on a Spark)"
    rows = [(key, value_at(config, key), what) for key, what in RECORDED]
    return Table(title, ("key", "recorded", "what it is"), rows)


def value_at(config: Mapping[str, Any], key: str) -> str:
    """The value under a key such as "build_config.max_seq_len", as text; of several plugins those that are on."""
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return "missing"
        value = value[part]
    if isinstance(value, Mapping):
        return ", ".join(name if on is True else f"{name}: {on}" for name, on in value.items() if on not in OFF)
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


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
