"""llama.cpp's own server. `-c` is the context of all `-np` slots together."""

from collections.abc import Mapping

from shared.engines.spec import EngineSpec, Flags, Start, everywhere
from shared.models import ModelChoice


def command(start: Start) -> list[str]:
    return [
        str(start.home / "bin" / "llama-server"),
        "--model", str(start.model.weights(start.precision)),
        "--alias", start.model.name,
        "--host", "127.0.0.1", "--port", str(start.port),
        "--threads", str(start.cores),
        "--metrics",
    ]  # fmt: skip


def env(start: Start) -> Mapping[str, str]:
    return {"LLAMA_ARG_OFFLINE": "1"}


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    return int(str(flags.get("-c", model.context))) * model.kv_bytes_per_token()


COUNTERS = {
    "running": "llamacpp:requests_processing",
    "waiting": "llamacpp:requests_deferred",
    "prompt_tokens": "llamacpp:prompt_tokens_total",
    "cached_tokens": "llamacpp:prompt_tokens_cached_total",
    "generated_tokens": "llamacpp:tokens_predicted_total",
    "accepted_draft_tokens": "llamacpp:spec_decode_num_accepted_tokens_total",
}

TOO_MANY_SLOTS = (r"n_seq_max must be", "more slots than llama.cpp has", "ask for at most 256")
SPEC = EngineSpec(
    name="llamacpp",
    title="llama.cpp",
    command=command,
    env=env,
    precisions=("BF16", "Q8_0", "Q4_0"),
    reads="gguf",
    token_ids="llamacpp",
    # Without `cache_prompt: false` a slot would reuse the template's first tokens of its last prompt.
    exact_length={"ignore_eos": True, "cache_prompt": False},
    port=8080,
    counters=COUNTERS,
    startup_s=2,
    kv_bytes=kv_bytes,
    overhead_gib=0.3,
    cannot=everywhere({"tensor parallel": "it splits a model over GPUs, not over processor cores"}),
    causes=(
        (r"invalid argument|unknown argument", "a flag that it doesn't know", "compare it with llama-server --help"),
        (r"error while handling argument", "a flag's value that it can't read", "compare it with llama-server --help"),
        (r"invalid magic|model is corrupted or incomplete", "a torn or wrong model file", "make engines"),
        TOO_MANY_SLOTS,
        (r"Illegal instruction", "it was compiled for another processor", "make clean; make engines"),
    ),
)  # fmt: skip
