"""The flows of TensorRT-LLM as commands, all made from one model and one set of sizes.

Not verified on hardware: no DGX Spark and no image was at hand. Every flag is checked against the published ones.
One owner's report has the engine flow working on a Spark's GPU (sm_121): see `REPORT`. NVIDIA's own documents were not
found to say so.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.course.prefill.tensorrt.detached_build import Task
from shared.engines import ENGINES, LaunchPlan
from shared.engines.spec import as_arguments
from shared.errors import LabError
from shared.hardware.machine import Machine
from shared.launch.containers import LABEL
from shared.models.choice import ModelChoice
from shared.models.hub import INSIDE as HUB_INSIDE

NOT_VERIFIED = "not verified on hardware"
CONVERT = "examples/models/core/{family}/convert_checkpoint.py"  # below the image's folder of TensorRT-LLM
WORK = "/labs/run"  # a folder of the host, mounted into the container
CONFIG = f"{WORK}/config.yml"
# Of an 8B model, by one owner; not repeated by anyone that we found.
REPORT = (
    "quoted: one owner of a DGX Spark, 2026-04-23 "
    "(https://manavsehgal.github.io/ai-field-notes/articles/trtllm-and-triton-on-spark/): "
    "TensorRT-LLM 1.1.0 in tritonserver:25.12-trtllm-python-py3 built engines of Llama-3.1-8B in FP8 (converted in "
    "22 s, built in 42 s, 8.6 GB) and NVFP4 (13 s, 27 s, 5.7 GB). TensorRT-LLM 0.17 in 25.01 failed: its FP8 attention "
    "did not know sm_121."
)
PRECISION = {  # → (the source of weights, flags of the conversion, the GEMM plugin)
    "BF16": ("BF16", {}, "auto"),
    "FP8": ("FP8", {"--use_fp8": (True, "the checkpoint's weights are FP8")}, "fp8"),
    "NVFP4": ("NVFP4", {"--use_nvfp4": (True, "the checkpoint's weights are NVFP4")}, "nvfp4"),
}
# The compute capability from which a GPU multiplies a number format: (format, capability), the smallest format first.
MULTIPLIES = (("NVFP4", 10.0), ("FP8", 8.9), ("BF16", 0.0))
ENGINE_FILES = ("config.json", "rank0.engine")  # of a finished engine folder, for one GPU
KV_SHARE = 0.3  # of the free GPU memory, for the KV cache. A Spark's processor lives in it, too; the default is 0.9


@dataclass(frozen=True)
class Sizes:
    """What the engine must hold. Raises LabError for sizes that no engine can serve."""

    users: int = 8
    prompt_tokens: int = 2048
    output_tokens: int = 128

    def __post_init__(self) -> None:
        if min(self.users, self.prompt_tokens, self.output_tokens) < 1:
            raise LabError(f"{self} has a size below 1.", "give whole numbers from 1")

    @property
    def sequence_tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens

    @property
    def step_tokens(self) -> int:
        """Tokens of one step: a whole prompt at least, in multiples of 64."""
        return max(2048, -(-self.prompt_tokens // 64) * 64)


@dataclass(frozen=True)
class Step:
    """One command of a flow, and why each of its flags is there."""

    title: str
    command: tuple[str, ...]
    why: Mapping[str, str]
    leaves: tuple[str, ...] = ()  # files that exist when it has finished
    files: Mapping[str, str] = field(default_factory=dict)  # that it reads: name in the work folder → text

    def __str__(self) -> str:
        return " ".join(self.command)


def shown(steps: Sequence[Step]) -> str:
    """A flow as text: each command under its title, and each file that a command reads beside the first that does."""
    parts: list[str] = []
    files: dict[str, str] = {}
    for one in steps:
        parts.append(f"# {one.title}\n{one}")
        for name, text in one.files.items():
            if files.get(name) != text:
                parts.append(f"# {WORK}/{name}, which it reads (JSON is YAML, too)\n{text}")
        files |= one.files
    return "\n\n".join(parts)


def in_container(one: Step, image: str, folder: Path, hub: Path, gpu: Sequence[str]) -> Task:
    """The step as a task for `detached_build.start`: `docker run` with the work folder and the hub's cache mounted.

    The container gets a name, so that ending the build can end it too.
    """
    name = f"{LABEL}-{re.sub('[^a-z]+', '-', one.title.lower())}-{folder.name}"
    command = (
        "docker", "run", "--rm", "--pull", "never", "--name", name, "--label", f"{LABEL}={name}", *gpu, "--ipc=host",
        "--ulimit", "memlock=-1", "--ulimit", "stack=67108864", "--volume", f"{folder}:{WORK}",
        "--volume", f"{hub}:{HUB_INSIDE}", "--env", "HF_TOKEN", "--env", f"HF_HOME={HUB_INSIDE}",
        "--env", "PYTHONUNBUFFERED=1",  # else the log lags behind: Python keeps its lines until they fill a buffer
        image, *one.command,
    )  # fmt: skip
    return Task(one.title, command, one.leaves, ("docker", "kill", name))


def step(title: str, start: list[str], flags: Mapping[str, tuple[Any, str]], **more: Any) -> Step:
    """`flags`: name → (value, why)."""
    words = as_arguments({name: value for name, (value, _) in flags.items()})
    return Step(title, (*start, *words), {name: why for name, (_, why) in flags.items()}, **more)


def serving_precision(machine: Machine, model: ModelChoice) -> str:
    """The smallest number format that this GPU multiplies and of which weights are known; without a GPU a Spark's."""
    capability = float(machine.compute_capability or 0) if machine.gpu else 12.1
    return next(
        name
        for name, needed in MULTIPLIES
        if name == "BF16" or (capability >= needed and f"hf {name}" in model.sources)
    )


def server_flags(sizes: Sizes) -> dict[str, Any]:
    """The settings of the server, as `launch` takes them. Those without dashes become keys of its YAML file."""
    return {
        "--max_batch_size": sizes.users,
        "--max_num_tokens": sizes.step_tokens,
        "--max_seq_len": sizes.sequence_tokens,
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": sizes.users},
    }


def serving_config(
    model: ModelChoice, sizes: Sizes, precision: str = "NVFP4", share: float = KV_SHARE
) -> dict[str, Any]:
    """The YAML file of the server, from the labs' engine spec, with CUDA graphs."""
    plan = LaunchPlan(
        home=model.folder, model=model, precision=precision, port=8000, cores=1, share=share,
        kv_bytes=sizes.users * sizes.sequence_tokens * model.kv_bytes_per_token(), flags=server_flags(sizes),
    )  # fmt: skip
    found: dict[str, Any] = json.loads(ENGINES["trtllm"].container.files(plan)["config.yml"])
    return found


def serving_flow(model: ModelChoice, sizes: Sizes, precision: str = "NVFP4") -> tuple[Step, ...]:
    """The current way: a server on a Hugging Face checkpoint, and its own benchmark."""
    weights = model.source("hf", precision).repository
    files = {"config.yml": json.dumps(serving_config(model, sizes, precision), indent=2)}
    flags = server_flags(sizes)
    limits = {
        "--max_batch_size": (flags["--max_batch_size"], "requests that one step may hold"),
        "--max_num_tokens": (flags["--max_num_tokens"], "tokens that one step may hold: the chunk of a prefill"),
        "--max_seq_len": (flags["--max_seq_len"], "prompt and answer together; it bounds the KV cache"),
        "--config": (CONFIG, "KV cache and CUDA graphs"),
    }
    serve = step(
        "serve",
        ["trtllm-serve", weights],
        {
            "--host": ("0.0.0.0", "reachable from outside the container, which docker binds to 127.0.0.1"),
            "--port": (8000, "the port inside the container"),
            **limits,
        },
        files=files,
    )
    of_one = {name: limits[name] for name in ("--max_seq_len", "--config")}
    return (serve, *benchmark(["trtllm-bench", "--model", weights], sizes, limits, of_one, files))


def benchmark(
    bench: list[str],
    sizes: Sizes,
    limits: Mapping[str, tuple[Any, str]],
    of_one: Mapping[str, tuple[Any, str]],
    files: Mapping[str, str],
) -> tuple[Step, ...]:
    """The prompts, a run of all users at once with these `limits`, and one of a single user with the limits `of_one`.

    `bench`: how trtllm-bench begins. Both runs leave the report that the lab reads (bench_report.py).
    """
    dataset = f"{WORK}/prompts.json"
    return (
        step(
            "prompts for the benchmark",
            [*bench, "prepare-dataset", "--output", dataset, "token-norm-dist"],
            {
                "--num-requests": (64, "number of requests"),
                "--input-mean": (sizes.prompt_tokens, "tokens of a prompt"),
                "--input-stdev": (0, "all prompts are equally long"),
                "--output-mean": (sizes.output_tokens, "tokens of an answer"),
                "--output-stdev": (0, "all answers are equally long"),
            },
            leaves=("prompts.json",),
        ),
        step(
            "throughput",
            [*bench, "throughput"],
            {
                "--dataset": (dataset, "the prompts"),
                "--streaming": (True, "only a streaming run reports the time to the first token"),
                "--concurrency": (sizes.users, "users at once"),
                "--report_json": (f"{WORK}/throughput.json", "the report that the lab reads"),
                **limits,
            },
            leaves=("throughput.json",),
            files=files,
        ),
        step(
            "latency of one user",
            [*bench, "latency"],
            {
                "--dataset": (dataset, "the prompts"),
                "--concurrency": (1, "one user"),
                "--report_json": (f"{WORK}/latency.json", "the report that the lab reads"),
                **of_one,
            },
            leaves=("latency.json",),
            files=files,
        ),
    )


def engine_flow(
    model: ModelChoice, sizes: Sizes, precision: str = "BF16", folder: str = f"{WORK}/hf"
) -> tuple[Step, ...]:
    """The outline's way, up to 1.3.0rc20: convert the checkpoint, build a TensorRT engine, measure it.

    `folder`: of the Hugging Face checkpoint, inside the container. Raises LabError for a precision that this flow can't
    convert, or that the model's converter can't.
    """
    if precision not in PRECISION:
        raise LabError(f"The engine flow can't convert {precision}.", f"choose one of {', '.join(PRECISION)}")
    form, convert, plugin = PRECISION[precision]
    family = "qwen" if model.name.startswith("qwen") else "llama"
    if family == "qwen" and convert:
        raise LabError(f"Qwen's converter has no {', '.join(convert)}.", "build it in BF16")
    weights = model.source("hf", form).repository
    checkpoint, engine = f"{WORK}/checkpoint", f"{WORK}/engine"
    # The other sizes are the engine's: trtllm-bench reads them from its config.json, and refuses --max_seq_len.
    runtime = {
        "--engine_dir": (engine, "the engine folder"),
        "--backend": ("tensorrt", "run the engine, not PyTorch; possible up to 1.3.0rc20"),
        "--kv_cache_free_gpu_mem_fraction": (KV_SHARE, "the share of the free GPU memory for the KV cache"),
    }
    bench = ["trtllm-bench", "--model", weights, "--model_path", folder]
    return (
        step(
            "convert the checkpoint",
            ["python3", CONVERT.format(family=family)],
            {
                "--model_dir": (folder, f"the folder of {weights}"),
                "--output_dir": (checkpoint, "weights under TensorRT-LLM's names, one file for each GPU"),
                "--dtype": (
                    "bfloat16",
                    "the format of what isn't quantized: decided here, not in the build",
                ),
                **convert,
                "--tp_size": (1, "one GPU"),
            },
            leaves=("checkpoint/config.json", "checkpoint/rank0.safetensors"),
        ),
        step(
            "build the engine",
            ["trtllm-build"],
            {
                "--checkpoint_dir": (checkpoint, "the converted weights"),
                "--output_dir": (engine, "the engine folder"),
                "--gemm_plugin": (plugin, "matrix products by a plugin in the checkpoint's format, not by TensorRT"),
                "--max_batch_size": (sizes.users, "requests that one step may hold; memory is planned for it"),
                "--max_input_len": (sizes.prompt_tokens, "the longest prompt"),
                "--max_seq_len": (sizes.sequence_tokens, "prompt and answer together"),
                "--max_num_tokens": (sizes.step_tokens, "tokens that one step may hold, without padding"),
                "--use_paged_context_fmha": ("enable", "fused attention over a paged cache: chunked prefill needs it"),
                "--use_fused_mlp": ("enable", "gate and up projection as one product; the default"),
                "--output_timing_cache": (
                    f"{WORK}/timing.cache",
                    "kernel timings, written at the end: a later build reads them by --input_timing_cache",
                ),
                "--log_level": ("info", "progress is read from the log"),
                "--monitor_memory": (True, "the peak memory of the build in the log"),
            },
            leaves=tuple(f"engine/{name}" for name in ENGINE_FILES),
        ),
        *benchmark(bench, sizes, runtime, runtime, {}),
    )
