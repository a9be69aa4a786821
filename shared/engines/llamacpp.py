"""llama.cpp's own server. `-c` sets the context of all `-np` slots together."""

import re
from collections.abc import Mapping

from shared.engines.spec import ONE_GPU, Container, Draft, EngineSpec, Flags, LaunchPlan, Native, whole_number
from shared.models.choice import ModelChoice

# The server keeps the KV of earlier prompts in main memory, up to a limit. By default that is 8 GiB: too much to set
# aside for each launch on a small machine, or on one whose GPU shares the memory. A notebook's own --cache-ram is not
# counted.
STORED_PROMPTS_GIB = 0.5
STORED_PROMPTS_GPU_GIB = 2.0  # a token of an 8B model takes six times as much as one of the small model


def command(plan: LaunchPlan) -> list[str]:
    return [
        str(plan.home / "bin" / "llama-server"),
        "--model", plan.weights,
        "--alias", plan.model.name,
        "--host", "127.0.0.1", "--port", str(plan.port),
        "--threads", str(plan.cores),
        "--metrics",
        *stored_prompts(plan.flags, STORED_PROMPTS_GIB),
        *one_cache(plan.flags),
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
        *stored_prompts(plan.flags, STORED_PROMPTS_GPU_GIB),
        *one_cache(plan.flags),
    ]  # fmt: skip


def stored_prompts(flags: Flags, gib: float) -> list[str]:
    return [] if flags.keys() & {"--cache-ram", "-cram"} else ["--cache-ram", mib(gib)]


def mib(gib: float) -> str:
    return str(round(gib * 1024))


def one_cache(flags: Flags) -> list[str]:
    """One KV cache for all slots, of which each may use its share. The server's default, but not where `-np` is given.

    With a cache for each slot, a step is computed in one pass for each run of neighbouring slots that are busy, so gaps
    between them cost passes (github.com/ggml-org/llama.cpp/issues/25840). Measured with 32 slots on two cores of an AMD
    EPYC (2026-11-29), without this and with it: 80 and 125 tokens/s at 4 users, 110 and 204 at 16, 231 and 214 at 32.
    """
    tokens, slots = context(flags), whole_number(flags, "-np", least=1, also=("--parallel",))
    share = ["--kv-unified-per-slot", str(tokens // slots)] if tokens and slots else []
    return ["--kv-unified", *share]


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    return (context(flags) or model.context) * model.kv_bytes_per_token()


def kv_bytes_asked(model: ModelChoice, flags: Flags) -> int | None:
    # Without -c (or with 0) it uses the model's whole context, which is 16 GiB for Llama 3.1.
    tokens = context(flags)
    return tokens * model.kv_bytes_per_token() if tokens else None


def context(flags: Flags) -> int | None:
    return whole_number(flags, "-c", least=0, also=("--ctx-size",))


def speculate(draft: Draft, weights: str) -> Flags:
    synthetic = {} if draft.synthetic_length is None else {"--spec-synth-len": draft.synthetic_length}
    if draft.kind == "ngram":
        return {
            "--spec-type": "ngram-simple",
            # It never drafts fewer tokens than must match.
            "--spec-ngram-simple-size-n": min(draft.match, draft.tokens),
            "--spec-ngram-simple-size-m": draft.tokens,
            **synthetic,
        }
    kind = "draft-eagle3" if draft.kind == "eagle3" else "draft-simple"
    # With its default, to choose the head's tokens in the compute graph, drafts of all but one sequence of a step were
    # wrong: one user had 38 % accepted, 4 users 11 %, and 16 users 4 % (llama-cpp-python 0.3.36, measured 2026-11-27).
    chosen_outside = {"--no-spec-draft-backend-sampling": True} if draft.kind == "eagle3" else {}
    drafting = {"--spec-type": kind, "--spec-draft-model": weights, "--spec-draft-n-max": draft.tokens}
    return {**drafting, **chosen_outside, **synthetic}


def draft_fault(log: str) -> str:
    """Why it runs without its draft: its log has an error, but the server starts and answers all the same."""
    error = re.search(r"failed to initialize speculative decoding context: (.*)", log)
    return error[1] if error else ""


COUNTERS = {
    "running": "llamacpp:requests_processing",
    "waiting": "llamacpp:requests_deferred",
    "prompt_tokens": "llamacpp:prompt_tokens_total",
    "cached_tokens": "llamacpp:prompt_tokens_cached_total",
    "generated_tokens": "llamacpp:tokens_predicted_total",
    "verifications": "llamacpp:spec_decode_num_drafts_total",
    "draft_tokens": "llamacpp:spec_decode_num_draft_tokens_total",
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
        overhead_gib=0.3 + STORED_PROMPTS_GIB,
        kv_bytes=kv_bytes,
        speculate=speculate,
        cannot={"tensor parallel": "it splits a model over GPUs, not over processor cores"},
    ),
    container=Container(
        image="llamacpp",
        arguments=arguments,
        precisions=("BF16", "Q8_0"),
        startup_s=60,
        overhead_gib=2.0 + STORED_PROMPTS_GPU_GIB,
        kv_bytes=kv_bytes_asked,
        bound_by="-c",
        speculate=speculate,
        cannot={"tensor parallel": ONE_GPU},
    ),
    reads="gguf",
    token_ids="llamacpp",
    # Without `cache_prompt: false` a slot would reuse the template's first tokens from its last prompt.
    exact_length={"ignore_eos": True, "cache_prompt": False},
    draft_fault=draft_fault,
    counters=COUNTERS,
    accepted_at="llamacpp:spec_decode_num_accepted_tokens_per_pos_total",
)
