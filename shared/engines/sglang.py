"""SGLang's server: on its CPU path with torch's own attention, or in its container.

`--max-total-tokens` limits the KV cache, which else takes half the memory. `--sleep-on-idle` keeps an idle scheduler
from using a core.
"""

from collections.abc import Mapping

from shared import paths
from shared.engines.spec import ONE_GPU, Container, Draft, EngineSpec, Flags, LaunchPlan, Native, whole_number
from shared.hardware.processor import BYTES_PER_VALUE, torch_dtype
from shared.models.choice import ModelChoice

# The folder of the package `sgl_kernel`. SGLang reads it from here, so that a change needs no new installation.
STAND_IN = paths.REPO / "environment" / "engines" / "sglang"


def command(plan: LaunchPlan) -> list[str]:
    return [
        str(plan.home / "venv" / "bin" / "python"), "-m", "sglang.launch_server",
        "--model-path", plan.weights,
        "--served-model-name", plan.model.name,
        "--host", "127.0.0.1", "--port", str(plan.port),
        "--dtype", torch_dtype(),
        "--device", "cpu",
        *attention(plan),
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
        "PYTHONPATH": str(STAND_IN),
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": str(plan.cores),
        "HF_HUB_OFFLINE": "1",
        # Compiling the draft's functions fails on a processor without the engine's own kernels.
        **({"TORCHDYNAMO_DISABLE": "1"} if plan.speculation else {}),
    }


def attention(plan: LaunchPlan) -> list[str]:
    """Torch's own attention, or the backend that can speculate: its kernels are in the stand-in `sgl_kernel`.

    Its two halves are set apart, because `--attention-backend intel_amx` silently falls back to torch's attention on a
    processor without AMX.
    """
    if plan.speculation:
        return ["--prefill-attention-backend", "intel_amx", "--decode-attention-backend", "intel_amx"]
    return ["--attention-backend", "torch_native"]


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


def speculate(draft: Draft, weights: str) -> Flags:
    """A chain of drafts, so that a step means the same as in the other engines.

    Its number of "draft tokens" counts the token that the model itself wrote last, too.
    """
    if draft.kind == "ngram":
        return {
            "--speculative-algorithm": "NGRAM",
            "--speculative-num-draft-tokens": draft.tokens + 1,
            "--speculative-ngram-max-bfs-breadth": 1,
        }
    return {
        "--speculative-algorithm": "EAGLE3" if draft.kind == "eagle3" else "STANDALONE",
        "--speculative-draft-model-path": weights,
        "--speculative-num-steps": draft.tokens,
        "--speculative-eagle-topk": 1,
        "--speculative-num-draft-tokens": draft.tokens + 1,
    }


NUMBERS = ("--speculative-num-steps", "--speculative-eagle-topk", "--speculative-num-draft-tokens")


def refuses(flags: Flags) -> str:
    """SGLang needs all three numbers or none, and ends with an unexplained AssertionError or TypeError otherwise."""
    given = [name for name in NUMBERS if name in flags]
    if not given or len(given) == len(NUMBERS) or flags.get("--speculative-algorithm") == "NGRAM":
        return ""
    return f"it needs all three of {', '.join(NUMBERS)}, or none, but the flags set only {' and '.join(given)}"


def refuses_natively(flags: Flags) -> str:
    if (whole_number(flags, NUMBERS[1]) or 1) > 1:
        return f"on a processor the labs' stand-in for its kernels verifies chains of drafts only: {NUMBERS[1]} 1"
    if flags.get("--speculative-algorithm") == "EAGLE3" and not flags.keys() & set(NUMBERS):
        return (
            "without its three numbers it would draft a tree, and on a processor the labs' stand-in for its kernels "
            f"verifies chains only: set {', '.join(NUMBERS)}, the second to 1"
        )
    return refuses(flags)


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
        speculate=speculate,
        refuses=refuses_natively,
        greedy_only="its verification of drafts on a processor is greedy, whatever the temperature of a request is",
        cannot={"draft model": NO_KERNEL, "n-gram look-up": NO_KERNEL, "tensor parallel": NO_KERNEL},
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
        refuses=refuses,
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
        "requests": "sglang:num_requests_total",
        "verifications": "sglang:spec_verify_calls_total",
    },
)
