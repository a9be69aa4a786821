"""Write containers/compose.yaml from the engines' specs, with the images and flags of `launch`: `make compose`.

It is for an engine that stays up beside the notebooks, and for what stands around it: the gateway of lab 3.3.5, a web
UI, and monitoring. The labs don't need it: they start, measure and end their engines themselves.
"""

import textwrap
from pathlib import Path
from typing import Any

import yaml

from shared import paths, proxies
from shared.engines import ENGINES, Flags, LaunchPlan, as_arguments
from shared.hardware import Machine
from shared.launch import containers, memory
from shared.models import choice
from shared.models.catalogue import LLAMA_8B, entry
from shared.models.hub import INSIDE as HUB_INSIDE
from shared.report import verified

FILE = paths.REPO / "environment" / "containers" / "compose.yaml"
HEADER = """\
# Written by environment/compose.py from the engines' specs: edit those, then run `make compose`.
{banner}
#
#   docker compose -f environment/containers/compose.yaml --profile vllm up      # one engine; Ctrl-C ends it
#   ... --profile vllm --profile webui --profile monitoring up                   # with web UI and monitoring
#   ... --profile vllm --profile gateway --profile monitoring up                 # with the gateway of lab 3.3.5
#
# Run one engine at a time: CPU and GPU of a Spark share their memory, and running out of it freezes the machine.
# No engine has a restart policy, on purpose: a crash loop leaked memory until the machine died (several owners'
# reports). Everything listens on 127.0.0.1 only. Gateway, Prometheus and Grafana share the machine's network, so that
# they reach each other and the engines there, and work in the same way as without containers.
"""
FLAGS: dict[str, Flags] = {  # 16 users with 8192 tokens each
    "ollama": {"OLLAMA_NUM_PARALLEL": 16, "OLLAMA_CONTEXT_LENGTH": 8192},
    # --cache-ram in MiB: a chat that goes on finds its earlier tokens there, after other users' questions.
    "llamacpp": {"-np": 16, "-c": 16 * 8192, "--cache-ram": 8192},
    "vllm": {"--max-num-seqs": 16, "--max-model-len": 8192},
    "sglang": {"--max-running-requests": 16, "--max-total-tokens": 16 * 8192, "--context-length": 8192},
    "trtllm": {"--max_batch_size": 16, "--max_seq_len": 8192},
}

# Without a proxy, which docker's settings may give every container.
HEALTH = (
    "import urllib.request as u; u.build_opener(u.ProxyHandler({})).open('http://127.0.0.1:9000/health', timeout=4)"
)

SPARK = Machine(
    profile="spark",
    runner="container",
    why="compose.yaml is for a DGX Spark",
    name="DGX Spark",
    processor="",
    architecture="aarch64",
    cores=20,
    cpu_quota=None,
    memory_gib=119.7,
    available_gib=110.0,
    swap_gib=0,
    container_limit_gib=None,
    gpu="NVIDIA GB10, 12.1",
    unified_memory=True,
    gpu_memory_gib=None,
    driver=None,
    cuda=None,
    compute_capability="12.1",
    size="full",
)


def engine(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One engine's service, and the configs that it reads."""
    spec, flags = ENGINES[name], FLAGS[name]
    way, image = spec.container, containers.images()[spec.container.image]
    model = choice.from_catalogue_entry(entry(LLAMA_8B), "3.3.1", token=False)
    precision = way.precisions[0]
    needed = memory.need(spec, model, precision, flags, SPARK)
    source = model.source(spec.reads, precision)
    start = LaunchPlan(
        Path(),
        model,
        precision,
        image.port,
        SPARK.cores,
        flags,
        source.repository,
        int(needed.kv * 2**30),
        memory.share(needed, SPARK),
    )
    arguments = spec.flags_in == "arguments"
    words = way.arguments(start) + (as_arguments(flags) if arguments else [])
    if source.file and words:  # llama.cpp's server fetches a GGUF by itself
        words[:2] = ["--hf-repo", source.repository, "--hf-file", source.file]
    files = way.files(start)
    settings = {
        **proxies.IN_CONTAINERS,
        **way.env(start),
        **({} if arguments else {k: str(v) for k, v in flags.items()}),
    }
    service: dict[str, Any] = {
        "profiles": [name],
        "image": image.reference,
        "command": words,
        "ports": [f"127.0.0.1:{image.port}:{image.port}"],
        "environment": ["HF_TOKEN", f"HF_HOME={HUB_INSIDE}", *(f"{k}={v}" for k, v in settings.items())],
        "volumes": [f"{name}-cache:/root/.cache", f"${{HF_HOME:-~/.cache/huggingface}}:{HUB_INSIDE}"],
        "ipc": "host",
        "ulimits": {"memlock": -1, "stack": 67108864},
        "deploy": {"resources": {"reservations": {"devices": [
            {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
        ]}}},
    }  # fmt: skip
    if not words:
        del service["command"]
    if spec.prepare:
        service["volumes"].append(f"{name}:/root/.{name}")
    if files:
        service["configs"] = [
            {"source": f"{name}-{file}", "target": f"{containers.FILES_INSIDE}/{file}"} for file in files
        ]
    return service, {f"{name}-{file}": {"content": text} for file, text in files.items()}


def beside() -> dict[str, Any]:
    """The gateway, Open WebUI, Prometheus and Grafana."""
    image = containers.images()
    return {
        "gateway": {
            "profiles": ["gateway"],
            "build": {
                "context": "../..",
                "dockerfile": "environment/gateway/Dockerfile",
                "args": {"PYTHON": image["python"].reference},
            },
            "network_mode": "host",
            "user": "${GATEWAY_USER:-1000:1000}",  # who may read keys.json
            # Folders, not files: a file that is replaced would stay the old one inside.
            "volumes": [
                "${GATEWAY_SETTINGS:-../gateway}:/etc/gateway:ro",
                "${GATEWAY_KEYS:-~/.config/gateway}:/var/lib/gateway:ro",
            ],
            "read_only": True,
            "tmpfs": ["/tmp"],
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "stop_grace_period": "40s",  # longer than drain_s
            "restart": "on-failure:5",
            "healthcheck": {
                "test": ["CMD", "python", "-c", HEALTH],
                "interval": "10s",
                "timeout": "5s",
                "start_period": "10s",
            },
        },
        "webui": {
            "profiles": ["webui"],
            "image": image["open-webui"].reference,
            "ports": ["127.0.0.1:3000:8080"],
            "extra_hosts": ["host.docker.internal:host-gateway"],
            "environment": [
                # Read only at the first start and copied into a database. Change them later in the web UI's settings.
                "OPENAI_API_BASE_URL=${OPENAI_API_BASE_URL:-http://vllm:8000/v1}",
                "OPENAI_API_KEY=${OPENAI_API_KEY:-none}",
                "OLLAMA_BASE_URL=${OLLAMA_BASE_URL:-http://ollama:11434}",
                # Its sessions are signed with a secret. Where none is given, the first start makes one and keeps it in
                # the volume. A variable that must be set (":?") would stop every profile of this file.
                "WEBUI_SECRET_KEY",
                "WEBUI_SECRET_KEY_FILE=/app/backend/data/secret_key",
            ],
            "volumes": ["webui:/app/backend/data"],
        },
        "prometheus": {
            "profiles": ["monitoring"],
            "image": image["prometheus"].reference,
            "network_mode": "host",
            "command": [
                "--config.file=/etc/prometheus/prometheus.yml",
                "--storage.tsdb.path=/prometheus",
                "--web.listen-address=127.0.0.1:9090",
            ],
            "volumes": ["../monitoring:/etc/prometheus:ro", "prometheus:/prometheus"],
        },
        "grafana": {
            "profiles": ["monitoring"],
            "image": image["grafana"].reference,
            "network_mode": "host",
            "environment": ["GF_SERVER_HTTP_ADDR=127.0.0.1", "GF_SERVER_HTTP_PORT=3001"],
            "volumes": ["../monitoring/grafana:/etc/grafana/provisioning:ro", "grafana:/var/lib/grafana"],
        },
    }


def compose() -> str:
    """The text of compose.yaml."""
    services: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    for name in ENGINES:
        services[name], read = engine(name)
        configs |= read
    services |= beside()
    named = {v.split(":")[0] for s in services.values() for v in s["volumes"] if v[0] not in "$./~"}
    whole = {
        "name": "inference-engine-labs",
        "services": services,
        "configs": configs,
        "volumes": {volume: {} for volume in sorted(named)},
    }
    banner = "\n".join(f"# {line}" for line in textwrap.wrap(verified.banner(), 116))
    return HEADER.format(banner=banner) + str(yaml.safe_dump(whole, sort_keys=False, width=118))


if __name__ == "__main__":
    FILE.write_text(compose())
