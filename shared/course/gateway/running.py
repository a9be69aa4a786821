"""A gateway in front of an engine, started for a lab: the student's, or the naive one.

    gateway = student_gateway.start(lab, engine)
    run(Load(gateway, prompts.short(model), Closed(users=4, requests=8)))        # through it
    with running.naive("buffers", engine) as naive: ...

To the labs' client a gateway is an engine: it has an address, counters and a process. It runs under the watchdog.
"""

import atexit
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared import paths
from shared.course import starter
from shared.engines import ENGINES
from shared.errors import LabError
from shared.launch.memory import Need
from shared.launch.process import Guarded, until_ready
from shared.launch.running import Engine
from shared.load.loads import Load, Run
from shared.load.loops import run
from shared.processes import free_port

COUNTERS = {
    "running": "gateway:num_requests_running",
    "waiting": "gateway:num_requests_waiting",
    "prompt_tokens": "gateway:prompt_tokens_total",
    "cached_tokens": "gateway:prefix_cache_hits_total",
    "cache_queries": "gateway:prefix_cache_queries_total",
    "generated_tokens": "gateway:generation_tokens_total",
    "good_tokens": "gateway:generation_tokens_within_slo_total",
    "refused": "gateway:requests_refused_total",
    "left": "gateway:clients_left_total",
    "uncounted": "gateway:answers_without_usage_total",
}
NAIVE_COUNTERS = {"generated_tokens": "naive:generation_tokens_total"}
READY_WITHIN_S = 60
NAIVE = "shared.course.gateway.naive_gateway"

_running: dict[str, "Gateway"] = {}  # the gateways of this process by name, so that a cell run twice starts one


@dataclasses.dataclass
class Gateway(Engine):
    """A running gateway, as an engine. `behind` is the engine that it passes requests on to."""

    behind: Engine | None = None
    made_of: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # its code and settings, for provenance
    folder: Path = Path()  # its files; removed when it ends

    def stop(self) -> None:
        self.end()

    def end(self) -> None:
        self.process.end()
        shutil.rmtree(self.folder, ignore_errors=True)
        if _running.get(self.spec.name) is self:
            del _running[self.spec.name]

    def provenance(self) -> dict[str, Any]:
        """That of the engine, and the gateway's own code and settings."""
        assert self.behind is not None
        return {**self.behind.provenance(), "gateway": dict(self.made_of)}

    def run(self, load: Load) -> Run:
        """The load through the gateway.

        The engine's processes are not the gateway's, so they would count as another program that disturbs it.
        """
        return dataclasses.replace(run(load), others_cpu_share=None)

    def logged(self) -> list[dict[str, Any]]:
        """The lines of its log that are JSON."""
        lines = []
        for line in self.log_text().splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(found := json.loads(line), dict):
                    lines.append(found)
        return lines


def start(
    name: str,
    title: str,
    engine: Engine,
    command: list[str],
    *,
    port: int,
    folder: Path,
    ready: str,
    counters: Mapping[str, str],
    made_of: Mapping[str, Any],
    env: Mapping[str, str],
) -> Gateway:
    """Start a gateway under its watchdog and wait until GET `ready` returns 200. A running one of this name is ended.

    `folder` belongs to it and is removed at its end. Raises LabError, with the last lines of its log, if it ends or is
    not ready in time.
    """
    if name in _running:
        _running[name].end()
    logs = paths.cache() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"gateway-{name}-{os.getpid()}.log"
    spec = dataclasses.replace(
        ENGINES["llamacpp"], name=name, title=title, counters=counters, metrics_of="",
        exact_length=engine.spec.exact_length, served_name=lambda *_: engine.served_name,
    )  # fmt: skip
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")}
    with log.open("wb") as out:
        process = Guarded(command, out, cwd=folder, env=env, inherited=inherited)
    gateway = Gateway(
        spec, engine.model, engine.precision, {}, 1, "", command, port, log, process, Need(title, 0, 0, 0, 0),
        behind=engine, made_of=made_of, folder=folder,
    )  # fmt: skip
    _running[name] = gateway
    try:
        gateway.startup_s = until_ready(process, title, port, ready, log, READY_WITHIN_S)
    except LabError:
        gateway.end()
        raise
    return gateway


def naive(version: str, engine: Engine, url: str = "") -> Gateway:
    """Start this version of the naive gateway in front of the engine, or of a proxy at `url` in front of it."""
    port = free_port()
    command = [sys.executable, "-m", NAIVE, version, str(port), url or engine.url]
    return start(
        "naive", "The naive gateway", engine, command, port=port, folder=Path(tempfile.mkdtemp()), ready="/health",
        counters=NAIVE_COUNTERS, made_of={"naive": version}, env={"PYTHONPATH": str(paths.REPO)},
    )  # fmt: skip


def code_of(package: Path) -> dict[str, str]:
    """A hash of each Python file of the gateway."""
    return {Path(name).stem: found for name, found in starter.code_of(package).items() if name.endswith(".py")}


def stop_all() -> None:
    """End every gateway that this process started."""
    for gateway in list(_running.values()):
        gateway.end()


atexit.register(stop_all)
