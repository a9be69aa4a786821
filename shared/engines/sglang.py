"""SGLang's server, on its CPU path with torch's own attention.

`--max-total-tokens` bounds the KV cache (else it takes half the memory), `--sleep-on-idle` keeps its
scheduler from spinning a core while it has nothing to do.
"""

from collections.abc import Mapping

from shared.engines.spec import EngineSpec, Flags, Start, everywhere
from shared.models import ModelChoice


def command(start: Start) -> list[str]:
    return [
        str(start.home / "venv" / "bin" / "python"), "-m", "sglang.launch_server",
        "--model-path", str(start.model.weights("hf")),
        "--served-model-name", start.model.name,
        "--host", "127.0.0.1", "--port", str(start.port),
        "--dtype", "bfloat16",
        "--device", "cpu",
        "--attention-backend", "torch_native",
        "--sampling-backend", "pytorch",
        "--grammar-backend", "none",
        "--disable-overlap-schedule",
        "--skip-server-warmup",
        "--sleep-on-idle",
        "--enable-metrics",
        "--enable-cache-report",  # says in each answer how many prompt tokens a cache supplied
    ]  # fmt: skip


def env(start: Start) -> Mapping[str, str]:
    return {
        "SGLANG_USE_CPU_ENGINE": "1",
        "OMP_NUM_THREADS": str(start.cores),
        "HF_HUB_OFFLINE": "1",
    }


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    return int(str(flags.get("--max-total-tokens", 0))) * model.kv_bytes_per_token()


NO_KERNEL = "its CPU kernels are no package; the labs' stand-in doesn't supply it"
SPEC = EngineSpec(
    name="sglang",
    title="SGLang",
    command=command,
    env=env,
    precisions=("BF16",),
    reads="hf",
    token_ids="sglang",
    port=30000,
    exact_length={"ignore_eos": True},
    counters={
        "running": "sglang:num_running_reqs",
        "waiting": "sglang:num_queue_reqs",
        "prompt_tokens": "sglang:prompt_tokens_total",
        "cached_tokens": "sglang:cached_tokens_total",
        "generated_tokens": "sglang:generation_tokens_total",
    },
    startup_s=30,
    kv_bytes=kv_bytes,
    overhead_gib=3.5,
    cannot=everywhere({"draft model": NO_KERNEL, "EAGLE-3": NO_KERNEL, "tensor parallel": NO_KERNEL}),
    causes=(
        (r"unrecognized arguments|invalid choice", "a flag that it doesn't know", "compare it with its --help"),
        (r"sgl_kernel stand-in: (\S+)", "a kernel that the labs' stand-in doesn't supply", "leave that flag out"),
        (r"number of ranks .* should be smaller", "tensor parallel, which it can't do here", "leave --tp-size out"),
        (r"Not enough memory|memory capacity is unbalanced", "too little memory", "lower --max-total-tokens"),
    ),
)  # fmt: skip
