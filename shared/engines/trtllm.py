"""TensorRT-LLM's server. It needs an NVIDIA GPU, so it runs only in its container.

Its command line takes the sizes, and a YAML file everything else. A flag that doesn't begin with "--" becomes a key of
that file: {"--max_batch_size": 16, "enable_chunked_prefill": True}.
"""

import json
from collections.abc import Mapping

from shared.engines.spec import ONE_GPU, Container, Draft, EngineSpec, Flags, LaunchPlan, whole_number
from shared.models.choice import ModelChoice


def arguments(plan: LaunchPlan) -> list[str]:
    return [
        "trtllm-serve",
        plan.weights,
        "--host", "0.0.0.0", "--port", str(plan.port),
        "--config", "/labs/config.yml",
    ]  # fmt: skip


def config(plan: LaunchPlan) -> Mapping[str, str]:
    """The YAML file, written as JSON. `max_tokens` limits the KV cache; the fraction of free memory must allow it."""
    keys = {
        "kv_cache_config": {
            "max_tokens": plan.kv_bytes // plan.model.kv_bytes_per_token(),
            "free_gpu_memory_fraction": round(max(plan.share, 0.1), 2),
        },
        "enable_iter_perf_stats": True,
        "return_perf_metrics": True,  # /prometheus/metrics exists only with it
        **{key: value for key, value in plan.every_flag.items() if not key.startswith("--")},
    }
    return {"config.yml": json.dumps(keys, indent=2)}


def kv_bytes_asked(model: ModelChoice, flags: Flags) -> int | None:
    users, context = whole_number(flags, "--max_batch_size"), whole_number(flags, "--max_seq_len")
    return users * context * model.kv_bytes_per_token() if users and context else None


def speculate(draft: Draft, weights: str) -> Flags:
    kinds = {"eagle3": "Eagle3", "model": "Draft_Target", "ngram": "NGram"}
    where = {"max_matching_ngram_size": draft.match} if draft.kind == "ngram" else {"speculative_model": weights}
    return {"speculative_config": {"decoding_type": kinds[draft.kind], "max_draft_len": draft.tokens, **where}}


SPEC = EngineSpec(
    name="trtllm",
    title="TensorRT-LLM",
    no_native="it needs an NVIDIA GPU",
    container=Container(
        image="trtllm",
        arguments=arguments,
        files=config,
        precisions=("BF16", "FP8", "NVFP4"),
        startup_s=180,
        overhead_gib=6.7,
        kv_bytes=kv_bytes_asked,
        bound_by="--max_batch_size and --max_seq_len",
        speculate=speculate,
        cannot={"tensor parallel": ONE_GPU},
    ),
    reads="hf",
    token_ids="trtllm",
    metrics="/prometheus/metrics",
    exact_length={"ignore_eos": True},
)
