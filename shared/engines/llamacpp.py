"""llama.cpp's own server. `-c` sets the context of all `-np` slots together."""

from collections.abc import Mapping

from shared.engines.spec import ONE_GPU, Container, EngineSpec, Flags, LaunchPlan, Native, whole_number
from shared.models.choice import ModelChoice


def command(plan: LaunchPlan) -> list[str]:
    return [
        str(plan.home / "bin" / "llama-server"),
        "--model", plan.weights,
        "--alias", plan.model.name,
        "--host", "127.0.0.1", "--port", str(plan.port),
        "--threads", str(plan.cores),
        "--metrics",
    ]  # fmt: skip


def env(plan: LaunchPlan) -> Mapping[str, str]:
    return {"LLAMA_ARG_OFFLINE": "1"}


def arguments(plan: LaunchPlan) -> list[str]:
    return [
        "--model", plan.weights,
        "--alias", plan.model.name,
        "--host", "0.0.0.0", "--port", str(plan.port),
        "--n-gpu-layers", "999",
        "--metrics",
    ]  # fmt: skip


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    return (whole_number(flags, "-c") or model.context) * model.kv_bytes_per_token()


def kv_bytes_asked(model: ModelChoice, flags: Flags) -> int | None:
    # Without -c (or with 0) it uses the model's whole context, which is 16 GiB for Llama 3.1.
    context = whole_number(flags, "-c")
    return context * model.kv_bytes_per_token() if context else None


def speculate(head: str) -> Flags:
    return {"--spec-type": "draft-eagle3", "--model-draft": head, "--spec-draft-n-max": 2}


COUNTERS = {
    "running": "llamacpp:requests_processing",
    "waiting": "llamacpp:requests_deferred",
    "prompt_tokens": "llamacpp:prompt_tokens_total",
    "cached_tokens": "llamacpp:prompt_tokens_cached_total",
    "generated_tokens": "llamacpp:tokens_predicted_total",
    "accepted_draft_tokens": "llamacpp:spec_decode_num_accepted_tokens_total",
}

SPEC = EngineSpec(
    name="llamacpp",
    title="llama.cpp",
    native=Native(
        command=command,
        env=env,
        precisions=("BF16", "Q8_0", "Q4_0"),
        startup_s=2,
        overhead_gib=0.3,
        kv_bytes=kv_bytes,
        cannot={"tensor parallel": "it splits a model over GPUs, not over processor cores"},
    ),
    container=Container(
        image="llamacpp",
        arguments=arguments,
        precisions=("BF16", "Q8_0"),
        startup_s=60,
        overhead_gib=2.0,
        kv_bytes=kv_bytes_asked,
        bound_by="-c",
        speculate=speculate,
        cannot={"tensor parallel": ONE_GPU},
    ),
    reads="gguf",
    token_ids="llamacpp",
    # Without `cache_prompt: false` a slot would reuse the template's first tokens from its last prompt.
    exact_length={"ignore_eos": True, "cache_prompt": False},
    counters=COUNTERS,
)
