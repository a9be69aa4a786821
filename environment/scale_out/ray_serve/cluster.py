"""Ray Serve LLM on this machine: replicas of vLLM behind its OpenAI ingress, started, watched and ended.

    with cluster.start(replicas=2) as running:
        running.engine.url                      # to the labs' client, all of it is one engine
        running.kill_replica()                  # as a crash does; Ray starts another one

Every process of Ray is below the labs' watchdog, so all of them end with the program that started them.

All of Ray listens on 127.0.0.1. One port of each replica, for calls between deployments, needs a patch for that: its
address is fixed in Ray 2.60 (ray/serve/_private/replica.py). See app.py.
"""

import contextlib
import dataclasses
import datetime
import json
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from environment.scale_out.ray_serve import configuration
from shared import LabError, hardware, models, paths
from shared.engines import ENGINES, LaunchPlan
from shared.engines.http import post_json
from shared.engines.spec import EngineSpec, Native
from shared.hardware import Machine
from shared.launch.diagnosis import failure
from shared.launch.memory import Need
from shared.launch.running import Engine, start_guarded
from shared.processes import descendants, free_port, port_taken, signal_all

APP = Path(__file__).with_name("app.py")
READY_WITHIN_S = 600.0
STARTUP_S = 120  # of two replicas on two cores; printed while they start
RAY_GIB = 2.5  # Ray's own processes and the ingress, without replicas; measured on two cores
REPLICA_GIB = 2.8  # one replica's processes, without weights and KV cache
ENVIRONMENT = {
    # Without clusters of several machines, Ray's own address is 127.0.0.1, and its programs listen only there.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",  # else each idle worker imports vLLM, too
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "NO_COLOR": "1",
}
# A line of a replica's log for each request that it has finished.
ANSWERED = re.compile(r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[.,]\d{3}) .*\bCALL \S*chat\S* OK\b")


def spec() -> EngineSpec:
    """Ray Serve LLM as the labs see an engine: it speaks vLLM's API, and its ingress has no counters."""
    vllm = ENGINES["vllm"]
    assert isinstance(vllm.native, Native)
    native = dataclasses.replace(vllm.native, env=lambda _: ENVIRONMENT, startup_s=STARTUP_S)
    return dataclasses.replace(
        vllm, name="ray-serve", title="Ray Serve LLM", built_on="vllm", native=native, counters={}, accepted_at=""
    )


def home() -> Path:
    """The folder of the installation."""
    return paths.cache() / "ray-serve"


def installed() -> dict[str, str]:
    """The versions of the installation. Raises LabError if there is none."""
    try:
        found: dict[str, str] = json.loads((home() / "installed.json").read_text())
    except OSError:
        raise LabError(f"Ray Serve LLM is not installed in {paths.show(home())}.", "make scale-out (6.5 GB)") from None
    return found


def threads_of_each(replicas: int, machine: Machine) -> int:
    """The threads of one replica: the machine's cores, divided among all."""
    return max(1, machine.cores // replicas)


def need(replicas: int) -> Need:
    """The memory that so many replicas need."""
    weights = models.small().file_bytes("hf") / 2**30
    own = RAY_GIB + REPLICA_GIB * replicas
    return Need(f"Ray Serve LLM with {replicas} replicas", weights * replicas, 1.0 * replicas, own, 0.5)


@dataclass
class Cluster:
    """A running Ray cluster of one machine, with one Serve application."""

    engine: Engine
    replicas: int
    folder: Path  # Ray's sessions, with its logs; removed at the end
    killed: list[str] = field(default_factory=list)  # logs of replicas that were there when one was killed

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End every process of Ray, and remove its files. Returns when they are gone."""
        self.engine.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def replica_pids(self) -> list[int]:
        """The actors of the replicas. Ray gives each process a title that names what it runs."""
        found = []
        for pid in descendants(self.engine.process.pid):
            with contextlib.suppress(psutil.Error, IndexError):
                title = psutil.Process(pid).cmdline()[0]
                if title.startswith("ray::ServeReplica") and ":LLMServer" in title:
                    found.append(pid)
        return found

    def logs(self) -> list[Path]:
        """The log of each replica that has run, also of those that have ended."""
        return sorted(self.folder.glob("session_2*/logs/serve/replica_*LLMServer*.log"))

    def kill_replica(self) -> None:
        """Kill one replica with its engine, without a warning. Raises LabError if none runs."""
        pids = self.replica_pids()
        if not pids:
            raise LabError("Ray Serve LLM runs no replica that could be killed.", f"read {paths.show(self.engine.log)}")
        self.killed = [log.name for log in self.logs()]
        signal_all([pids[0], *descendants(pids[0])], signal.SIGKILL)

    def answers(self) -> dict[str, list[float]]:
        """When each replica has finished a chat, in seconds since 1970, by the name of its log."""
        return {log.name: finished(log.read_text(errors="replace")) for log in self.logs()}

    def revived_s(self) -> float | None:
        """When a replica that was started after the last kill had finished its first chat. None if none has."""
        new = [times[0] for name, times in self.answers().items() if name not in self.killed and times]
        return min(new, default=None)


def finished(log: str) -> list[float]:
    """The times in a replica's log at which it had finished a chat, in seconds since 1970."""
    found = [ANSWERED.search(line) for line in log.splitlines()]
    return [datetime.datetime.fromisoformat(one["at"].replace(",", ".")).timestamp() for one in found if one]


def start(
    replicas: int | None = None, *, port: int | None = None, config: Path = configuration.FILE, quiet: bool = False
) -> Cluster:
    """Start Ray with so many replicas (None: as the configuration has it), and return when all of them answer.

    Raises LabError if it isn't installed, if the configuration is wrong, if the port is taken, or if memory doesn't
    suffice. If it ends or isn't ready in time, the error shows the last lines of its log.
    """
    given = configuration.with_replicas(configuration.read(config), replicas)
    count, machine, model = configuration.replicas_of(given), hardware.detect(), models.small()
    version = installed()["version"]
    if port and port_taken(port):
        raise LabError(
            f"Port {port} of 127.0.0.1 is taken by another program.",
            f"choose another one; `ss -ltnp 'sport = :{port}'` shows which program uses {port}",
        )
    port, kind, needed = port or free_port(), spec(), need(count)
    if machine.available_gib is not None and needed.total > machine.available_gib:
        raise LabError(
            f"{needed}, but only {machine.available_gib:.1f} GiB are available.",
            "stop other engines (make down), close other programs, or start fewer replicas",
        )
    threads, weights = threads_of_each(count, machine), str(model.weights("hf"))
    folder = Path(tempfile.mkdtemp(prefix="labs-ray-", dir="/tmp"))  # the paths of Ray's sockets must be short
    serving = configuration.serving_args(given, model.name, weights, hardware.torch_dtype(), threads)
    ready = folder / "ready"
    asked = {"ray": {**given.get("ray", {}), "_temp_dir": str(folder)}, "port": port, "ready": str(ready)}
    # -P: Ray would put the folder of app.py on the path of every process, and its names hide others.
    command = [str(home() / "venv" / "bin" / "python"), "-P", str(APP), json.dumps({**asked, "serving": serving})]
    flags = {"replicas": count, "threads_of_each": threads, **as_flags(given)}
    plan = LaunchPlan(home(), model, "BF16", port, machine.cores, flags, weights)
    try:
        engine = start_guarded(kind, plan, command, port, ENVIRONMENT, version, needed, machine)
    except BaseException:
        shutil.rmtree(folder)
        raise
    running = Cluster(engine, count, folder)
    try:
        wait_until_ready(engine, ready, quiet)
    except BaseException:
        running.end()
        raise
    return running


def as_flags(given: Mapping[str, Any]) -> dict[str, Any]:
    """The engine arguments of a configuration, as a result records them."""
    return dict(given.get("llm", {}).get("engine_kwargs", {}))


def wait_until_ready(engine: Engine, ready: Path, quiet: bool) -> None:
    """Wait until every replica runs and a request has returned one token. Raises LabError."""
    began = time.monotonic()
    if not quiet:
        print(f"Ray Serve LLM is starting (about {STARTUP_S} s on two cores) ...", flush=True)
    while not ready.exists():
        if not engine.alive:
            raise failure(engine, f"Ray Serve LLM ended while starting (exit {engine.process.exit_code()}).")
        if time.monotonic() - began > READY_WITHIN_S:
            raise failure(engine, f"Ray Serve LLM was not ready after {READY_WITHIN_S:.0f} s.")
        time.sleep(0.2)
    body = {"model": engine.served_name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    post_json(engine.url + "/v1/chat/completions", body)
    engine.process.ready()
    engine.startup_s = time.monotonic() - began
