"""SGLang's server: on its CPU path with torch's own attention, or in its container.

`--max-total-tokens` limits the KV cache, which else takes half the memory. `--sleep-on-idle` keeps an idle scheduler
from using a core.
"""

from collections.abc import Mapping

from shared.engines.spec import ONE_GPU, Container, EngineSpec, Flags, LaunchPlan, Native, whole_number
from shared.hardware.processor import BYTES_PER_VALUE, torch_dtype
from shared.models.choice import ModelChoice


def command(plan: LaunchPlan) -> list[str]:
    return [
        str(plan.home / "venv" / "bin" / "python"), "-m", "sglang.launch_server",
        "--model-path", plan.weights,
        "--served-model-name", plan.model.name,
        "--host", "127.0.0.1", "--port", str(plan.port),
        "--dtype", torch_dtype(),
        "--device", "cpu",
        "--attention-backend", "torch_native",
        "--sampling-backend", "pytorch",
        "--grammar-backend", "none",
        "--disable-overlap-schedule",
        "--skip-server-warmup",
        "--sleep-on-idle",
        "--enable-metrics",
        "--enable-cache-report",  # each answer then has the number of prompt tokens from a cache
    ]  # fmt: skip


def env(plan: LaunchPlan) -> Mapping[str, str]:
    return {
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": str(plan.cores),
        "HF_HUB_OFFLINE": "1",
    }


def arguments(plan: LaunchPlan) -> list[str]:
    # Autotune is off. With it, one owner saw free memory fall to zero. Without it, a server ran for a week.
    return [
        "python3", "-m", "sglang.launch_server",
        "--model-path", plan.weights,
        "--served-model-name", plan.model.name,
        "--host", "0.0.0.0", "--port", str(plan.port),
        *({"BF16": ["--dtype", "bfloat16"], "NVFP4": ["--quantization", "modelopt_fp4"]}.get(plan.precision, [])),
        "--attention-backend", "flashinfer",
        "--disable-flashinfer-autotune",
        *([] if SHARE in plan.flags else [SHARE, f"{plan.share:.2f}"]),
        "--enable-metrics",
        "--enable-cache-report",
    ]  # fmt: skip


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    return (kv_bytes_asked(model, flags) or 0) * BYTES_PER_VALUE[torch_dtype()] // 2


def kv_bytes_asked(model: ModelChoice, flags: Flags) -> int | None:
    tokens = whole_number(flags, "--max-total-tokens")
    return tokens * model.kv_bytes_per_token() if tokens else None


def speculate(head: str) -> Flags:
    # SGLang accepts all three numbers or none.
    return {
        "--speculative-algorithm": "EAGLE3",
        "--speculative-draft-model-path": head,
        "--speculative-num-steps": 3,
        "--speculative-eagle-topk": 4,
        "--speculative-num-draft-tokens": 16,
    }


SHARE = "--mem-fraction-static"
NO_KERNEL = "its CPU kernels are not packaged, and the labs' stand-in doesn't include this one"
SPEC = EngineSpec(
    name="sglang",
    title="SGLang",
    native=Native(
        command=command,
        env=env,
        on_torch=True,
        startup_s=30,
        overhead_gib=3.5,
        kv_bytes=kv_bytes,
        cannot={"draft model": NO_KERNEL, "EAGLE-3": NO_KERNEL, "tensor parallel": NO_KERNEL},
    ),
    container=Container(
        image="sglang",
        arguments=arguments,
        precisions=("BF16", "FP8", "NVFP4"),
        startup_s=180,
        overhead_gib=6.7,
        kv_bytes=kv_bytes_asked,
        bound_by="--max-total-tokens",
        share_flag=SHARE,
        speculate=speculate,
        cannot={"tensor parallel": ONE_GPU},
    ),
    reads="hf",
    token_ids="sglang",
    exact_length={"ignore_eos": True},
    counters={
        "running": "sglang:num_running_reqs",
        "waiting": "sglang:num_queue_reqs",
        "prompt_tokens": "sglang:prompt_tokens_total",
        "cached_tokens": "sglang:cached_tokens_total",
        "generated_tokens": "sglang:generation_tokens_total",
        "queue_s": "sglang:queue_time_seconds_sum",
        "queued_requests": "sglang:queue_time_seconds_count",
    },
)
