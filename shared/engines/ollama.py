"""Ollama's own server. It takes its settings from the environment, so its flags here are variables.

It answers by running llama.cpp's `llama-server` below itself, and passes its environment on to it: that is
how the number of threads and the counters get there.
"""

import re
from collections.abc import Mapping

from shared import paths
from shared.engines import llamacpp
from shared.engines.spec import EngineSpec, Flags, Start, everywhere
from shared.errors import LabError
from shared.models import ModelChoice, sha256


def command(start: Start) -> list[str]:
    return [str(start.home / "bin" / "ollama"), "serve"]


def env(start: Start) -> Mapping[str, str]:
    store = paths.cache() / "models" / "ollama"
    return {
        "OLLAMA_HOST": f"127.0.0.1:{start.port}",
        "OLLAMA_MODELS": str(store),
        "HOME": str(store),  # it would write a key into ~/.ollama: a user's own Ollama is not touched
        "OLLAMA_KEEP_ALIVE": "-1",  # or it unloads the model after five minutes
        "OLLAMA_NO_CLOUD": "1",
        "LLAMA_ARG_THREADS": str(start.cores),
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
    }


def served_name(model: ModelChoice, precision: str) -> str:
    return f"{model.name}:{precision.lower()}"


def create(url: str, model: ModelChoice, precision: str) -> None:
    """Make the model known to it, from the GGUF file that every engine of llama.cpp's family reads.

    Its chat template is recognised by Ollama (ChatML), and its penalty on repeated tokens is switched off:
    it would make greedy text another model's. Done again at each start: nothing is copied twice.
    """
    from ollama import Client, ResponseError  # its own client; takes half a second to import

    digest = model.sha256(precision)
    stored = paths.cache() / "models" / "ollama" / "blobs" / f"sha256-{digest}"
    if stored.exists() and sha256(stored) != digest:
        stored.unlink()  # torn: it would be taken for whole
    client = Client(url)
    try:
        blob = f"sha256:{digest}" if stored.exists() else client.create_blob(model.weights(precision))
        client.create(
            model=served_name(model, precision), files={"model.gguf": blob}, parameters={"repeat_penalty": 1.0}
        )
    except ResponseError as e:
        raise LabError(f"Ollama refused the model: {e}.") from None


def flags_fault(log: str, flags: Flags) -> str:
    """Ollama goes on with its default where it doesn't know a setting or can't read its value; its log tells."""
    if unread := re.search(r"invalid environment variable.* key=(\S+) value=(\S*)", log):
        return f"can't read {unread[1]}={unread[2]}"
    known = re.search(r'msg="server config" env="map\[(.*)\]"', log)
    settings = [name for name in flags if not name.startswith("LLAMA_ARG_")]  # those are its llama-server's
    unknown = [name for name in settings if known and f"{name}:" not in known[1]]
    return f"knows no setting {unknown[0]}" if unknown else ""


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    slots = int(str(flags.get("OLLAMA_NUM_PARALLEL", 1)))
    context = int(str(flags.get("OLLAMA_CONTEXT_LENGTH", 4096)))
    return slots * context * model.kv_bytes_per_token()


NO_DRAFT = "its API offers drafts only of models that carry their own (MTP, DFlash)"
SPEC = EngineSpec(
    name="ollama",
    title="Ollama",
    command=command,
    env=env,
    precisions=("BF16", "Q8_0", "Q4_0"),
    reads="gguf",
    token_ids="ollama",
    built_on="llamacpp",
    port=11434,
    flags_in="environment",
    flags_fault=flags_fault,
    served_name=served_name,
    prepare=create,
    health="/api/version",
    metrics="/metrics",
    metrics_of="llama-server",
    counters=llamacpp.COUNTERS,
    startup_s=3,
    kv_bytes=kv_bytes,
    overhead_gib=0.5,
    cannot=everywhere(
        {
            "draft model": NO_DRAFT,
            "EAGLE-3": NO_DRAFT,
            "tensor parallel": "it splits a model by layers only",
            "Prometheus": "it has no metrics of its own; the labs read its llama-server's",
        }
    ),
    causes=(
        llamacpp.TOO_MANY_SLOTS,
        (r"llama-server.*not found|no such file.*llama-server", "its llama-server is missing", "make engines"),
        (r"model requires more system memory", "too little memory", "make down, or a smaller context"),
    ),
)
