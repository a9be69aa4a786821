"""Ollama's own server. It reads its settings from the environment, so its flags are variables.

Ollama runs llama.cpp's `llama-server` as a child and passes its environment on. That is how the number of threads is
set, the counters are switched on, and the memory for earlier prompts is limited.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from shared import paths, proxies
from shared.engines import llamacpp
from shared.engines.http import request
from shared.engines.spec import ONE_GPU, Container, EngineSpec, Flags, LaunchPlan, Native, whole_number
from shared.errors import LabError
from shared.models import hub
from shared.models.choice import ModelChoice
from shared.models.weights import sha256

CONTEXT = 4096  # tokens of a request, where the flags name no number: its default on a machine without a GPU


def command(plan: LaunchPlan) -> list[str]:
    return [str(plan.home / "bin" / "ollama"), "serve"]


def env(plan: LaunchPlan) -> Mapping[str, str]:
    store = store_folder()
    return {
        "OLLAMA_HOST": f"127.0.0.1:{plan.port}",
        "OLLAMA_MODELS": str(store),
        "HOME": str(store),  # it writes a key into ~/.ollama, which belongs to the user's own Ollama
        "OLLAMA_KEEP_ALIVE": "-1",  # its default is to unload the model after five minutes
        "OLLAMA_NO_CLOUD": "1",
        "LLAMA_ARG_THREADS": str(plan.cores),
        "LLAMA_ARG_ENDPOINT_METRICS": "1",
        "LLAMA_ARG_CACHE_RAM": llamacpp.mib(llamacpp.STORED_PROMPTS_GIB),
    }


def store_folder() -> Path:
    """Where the labs' Ollama keeps its models. It writes there at each start, so every user has an own one."""
    return paths.state() / "models" / "ollama"


def served_name(model: ModelChoice, precision: str) -> str:
    return f"{model.name}:{precision.lower()}"


def create(url: str, model: ModelChoice, precision: str) -> None:
    """Register the model in Ollama, from the GGUF file that llama.cpp reads too. Raises LabError if that fails.

    A chat template that Ollama doesn't recognise is registered with the model. Ollama's penalty on repeated tokens is
    switched off, because it would change greedy text. This runs at each start, and copies the file only once.
    """
    proxies.settle()  # a cell may have named a proxy since `import shared`: the next line can fail with one
    import httpx
    from ollama import Client, ResponseError  # Ollama's own client, on httpx; takes half a second to import

    if model.local:
        digest = model.sha256(precision)
        stored = store_folder() / "blobs" / f"sha256-{digest}"
        if stored.exists() and sha256(stored) != digest:
            stored.unlink()  # torn; Ollama would not notice
    else:
        weights = hub.fetch(model.source("gguf", precision))
        name = weights.resolve().name  # the hub's cache names a large file by its hash
        digest = name if len(name) == 64 else sha256(weights)
    client = Client(url, trust_env=False)  # a proxy does not reach this machine's 127.0.0.1
    parameters: dict[str, object] = {"repeat_penalty": 1.0}
    if model.stops:
        parameters["stop"] = list(model.stops)
    try:
        if not has_blob(url, digest):
            client.create_blob(model.weights(precision) if model.local else weights)
        client.create(
            model=served_name(model, precision),
            files={"model.gguf": f"sha256:{digest}"},
            template=model.ollama_template or None,
            parameters=parameters,
        )
    except ResponseError as e:
        raise LabError(f"Ollama rejected the model: {e}.") from None
    except httpx.HTTPError as e:
        raise LabError(f"The connection to Ollama broke while the model was being registered: {e}.") from None


def has_blob(url: str, digest: str) -> bool:
    """Whether Ollama already stores a file with this hash. Raises OSError if it does not answer."""
    return request("HEAD", f"{url}/api/blobs/sha256:{digest}", timeout_s=30).status_code == 200


def flags_fault(log: str, flags: Flags) -> str:
    """What Ollama's log shows about a flag that it ignored, because it has no such setting or can't read the value."""
    if unread := re.search(r"invalid environment variable.* key=(\S+) value=(\S*)", log):
        return f"can't read {unread[1]}={unread[2]}"
    known = re.search(r'msg="server config" env="map\[(.*)\]"', log)
    settings = [name for name in flags if not name.startswith("LLAMA_ARG_")]  # the others belong to its llama-server
    unknown = [name for name in settings if known and f"{name}:" not in known[1]]
    return f"has no setting {unknown[0]}" if unknown else ""


def container_env(plan: LaunchPlan) -> Mapping[str, str]:
    # Unset, it would be 256k tokens on a machine with as much memory as a Spark.
    context = {} if "OLLAMA_CONTEXT_LENGTH" in plan.flags else {"OLLAMA_CONTEXT_LENGTH": str(CONTEXT)}
    return {
        "OLLAMA_HOST": f"0.0.0.0:{plan.port}",
        "OLLAMA_KEEP_ALIVE": "-1",
        "OLLAMA_NO_CLOUD": "1",
        "LLAMA_ARG_CACHE_RAM": llamacpp.mib(llamacpp.STORED_PROMPTS_GPU_GIB),
        **context,
    }


def kv_bytes(model: ModelChoice, flags: Flags) -> int:
    slots = whole_number(flags, "OLLAMA_NUM_PARALLEL", least=0) or 1  # 0 stands for Ollama's own default, as if unset
    context = whole_number(flags, "OLLAMA_CONTEXT_LENGTH", least=0) or CONTEXT
    return slots * context * model.kv_bytes_per_token()


def kv_bytes_asked(model: ModelChoice, flags: Flags) -> int | None:
    # 0 stands for its own default there.
    return None if whole_number(flags, "OLLAMA_CONTEXT_LENGTH", least=0) == 0 else kv_bytes(model, flags)


NO_DRAFT = "its API offers drafts only for models that contain their own (MTP, DFlash)"
DRAFTS = {"draft model": NO_DRAFT, "EAGLE-3": NO_DRAFT, "n-gram look-up": NO_DRAFT}
NO_METRICS = "it has no metrics of its own"
SPEC = EngineSpec(
    name="ollama",
    title="Ollama",
    native=Native(
        command=command,
        env=env,
        precisions=("BF16", "Q8_0", "Q4_0"),
        startup_s=3,
        overhead_gib=0.5 + llamacpp.STORED_PROMPTS_GIB,
        kv_bytes=kv_bytes,
        cannot={
            **DRAFTS,
            "tensor parallel": "it splits a model by layers only",
            "Prometheus": f"{NO_METRICS}; the labs read those of its llama-server",
        },
    ),
    container=Container(
        image="ollama",
        arguments=lambda _: [],  # the image's entrypoint and command are `ollama serve`
        env=container_env,
        precisions=("BF16", "Q8_0"),
        startup_s=60,
        overhead_gib=2.0 + llamacpp.STORED_PROMPTS_GPU_GIB,
        kv_bytes=kv_bytes_asked,
        bound_by="OLLAMA_CONTEXT_LENGTH",
        cannot={
            **DRAFTS,
            "tensor parallel": ONE_GPU,
            "Prometheus": NO_METRICS,
        },
    ),
    reads="gguf",
    token_ids="ollama",
    built_on="llamacpp",
    flags_in="environment",
    flags_fault=flags_fault,
    served_name=served_name,
    prepare=create,
    health="/api/version",
    metrics="/metrics",
    metrics_of="llama-server",
    counters=llamacpp.COUNTERS,
)
