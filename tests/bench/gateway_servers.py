"""The gateways that the benchmark compares: how each is installed and started, and what its processes use.

Ours and the naive one run in .venv. Each other gateway has an environment of its own in the cache, under bench/, made
from a lock of tests/bench/gateway_peers.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from environment.install_steps import UV, Job, Step
from environment.pause_builds import Quiet
from shared import LabError, paths
from shared.launch.process import Guarded
from shared.processes import descendants, free_port, pause_all, signal_all
from tests.helpers.gateway import toml, write_keys

PEERS = "tests/bench/gateway_peers"
START_LIMIT_S = 120
CLIENT = httpx.Client(trust_env=False, timeout=5)
# Limits that no load of the benchmark reaches, so that only its overload is limited. The keys are sk-paid and sk-free.
UNLIMITED = {"requests_per_minute": 10**6, "burst": 10**6, "concurrent": 10**4}
ROOMY = {"seats": 2000, "most_queued": 2000}


@dataclass(frozen=True)
class Plan:
    """A start command, what is added to its environment, and the path that answers 200 once it is ready."""

    command: list[str]
    env: dict[str, str]
    ready: str


@dataclass(frozen=True)
class Gateway:
    """One gateway: `plan` gets a port, the engine's url, a folder for its files, and for ours settings."""

    name: str
    title: str
    plan: Callable[..., Plan]
    lock: str = ""  # of the environment of its own; "": it runs in .venv

    @property
    def step(self) -> Step:
        return Step(
            name=f"bench/{self.name}",
            title=self.title,
            inputs=(f"{PEERS}/{self.lock}",),
            needs_gib=1.0,
            build=self._build,
        )

    def _build(self, job: Job) -> None:
        venv = job.dest / "venv"
        making = [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", sys.executable, str(venv)]
        job.run("making its environment", making)
        job.install("installing it", str(venv / "bin" / "python"), "--require-hashes", "-r", f"{PEERS}/{self.lock}")

    def install(self) -> None:
        """Raises LabError if it can't be installed."""
        step, stop = self.step, threading.Event()
        if self.lock and not step.built():
            print(f"installing {self.title} ...", file=sys.stderr, flush=True)
            Job(step, stop, Quiet(stop), print).make()


def script(gateway: str, name: str) -> str:
    return str(paths.cache() / "bench" / gateway / "venv" / "bin" / name)


def ours(port: int, engine: str, folder: Path, **settings: object) -> Plan:
    """Our gateway with everything on: keys, counters, logs."""
    write_keys(folder / "keys.toml", {"paid": {"priority": "paid"}, "free": {"priority": "free"}})
    given = {**ROOMY, "limits": UNLIMITED, **settings}
    seats = given.pop("seats")
    lines = [f"{name} = {toml(value)}" for name, value in {"port": port, "keys_file": "keys.toml", **given}.items()]
    lines += ["[engines.truth]", f'url = "{engine}"', f"seats = {seats}"]
    (folder / "gateway.toml").write_text("\n".join(lines))
    env = {"GATEWAY_CONFIG": str(folder / "gateway.toml"), "PYTHONPATH": str(paths.REPO / "solutions")}
    return Plan([sys.executable, "-m", "gateway"], env, "/ready")


def naive(port: int, engine: str, folder: Path) -> Plan:
    """The lab's naive gateway in the version that streams. Earlier ones hold streams back or leak their seats."""
    command = [sys.executable, "-m", "shared.course.gateway.naive_gateway", "counts_chunks", str(port), engine]
    return Plan(command, {}, "/health")


def litellm(port: int, engine: str, folder: Path) -> Plan:
    model = {"model": "hosted_vllm/truth", "api_base": f"{engine}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": "truth", "litellm_params": model}],
        "general_settings": {"master_key": "sk-paid"},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))  # JSON is YAML
    flags = {
        "--config": str(folder / "litellm.yaml"),
        "--host": "127.0.0.1",
        "--port": str(port),
        "--telemetry": "False",
    }
    command = [script("litellm", "litellm"), *(word for flag in flags.items() for word in flag)]
    return Plan(command, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}, "/health/liveliness")


def vllm_router(port: int, engine: str, folder: Path) -> Plan:
    flags = {"--host": "127.0.0.1", "--port": str(port), "--worker-urls": engine, "--policy": "round_robin"}
    flags |= {"--prometheus-host": "127.0.0.1", "--prometheus-port": str(free_port())}
    command = [script("vllm-router", "vllm-router"), *(word for flag in flags.items() for word in flag)]
    return Plan(command, {}, "/health")


OURS = Gateway("ours", "our gateway", ours)
GATEWAYS = (
    OURS,
    Gateway("naive", "naive gateway", naive),
    Gateway("litellm", "LiteLLM 1.108.7", litellm, "litellm.lock"),
    Gateway("vllm-router", "vLLM router 0.1.17", vllm_router, "vllm_router.lock"),
)


@dataclass
class Running:
    """A started gateway."""

    url: str
    ready: str  # the path that answers 200 once it is ready
    start_s: float = 0.0  # from its start command until it was ready
    pids: list[int] = field(default_factory=list)  # without the watchdog

    def is_ready(self) -> bool:
        try:
            return CLIENT.get(self.url + self.ready).status_code == 200
        except httpx.TransportError:
            return False

    def await_ready(self, limit_s: float = 5) -> None:
        """After a pause, a health check that was under way has failed, and the gateway may refuse for a moment."""
        end = time.monotonic() + limit_s
        while not self.is_ready() and time.monotonic() < end:
            time.sleep(0.1)

    def await_calm(self, limit_s: float = 5) -> None:
        """After a load that was too much: until it has nothing left to do, but no longer than `limit_s`."""
        end, before_s = time.monotonic() + limit_s, -1.0
        while (now_s := self.cpu_s()) - before_s > 0.1 and time.monotonic() < end:
            before_s = now_s
            time.sleep(0.5)

    def cpu_s(self) -> float:
        """CPU seconds of all its processes since they started. They have a resolution of 10 ms."""
        return sum(sum(process.cpu_times()[:4]) for process in self._alive())

    def rss_mb(self) -> float:
        return sum(process.memory_info().rss for process in self._alive()) / 1e6

    def _alive(self) -> list[psutil.Process]:
        """Its processes. One that has died shows in the answers, which then fail."""
        return [psutil.Process(pid) for pid in self.pids if psutil.pid_exists(pid)]


@contextlib.contextmanager
def started(plan: Plan, port: int, folder: Path, core: int) -> Iterator[Running]:
    """The gateway, pinned to this core, until the block ends. Raises LabError if it doesn't get ready."""
    log = folder / "log"
    began = time.perf_counter()
    with log.open("wb") as out, on_core(core):
        process = Guarded(plan.command, out, cwd=folder, env=plan.env)
    running = Running(f"http://127.0.0.1:{port}", plan.ready)
    try:
        while not running.is_ready():
            if process.exit_code() is not None or time.perf_counter() - began > START_LIMIT_S:
                last = log.read_text(errors="replace").splitlines()[-8:]
                raise LabError("It did not get ready. Its last lines:\n" + "\n".join(last))
            time.sleep(0.01)
        running.start_s, running.pids = time.perf_counter() - began, descendants(process.pid)
        yield running
    finally:
        process.end()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started in this block inherits the core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def paused(others: list[Running]) -> Iterator[None]:
    """Stop the processes of the other gateways, which would take time of the same core."""
    pids = [pid for running in others for pid in running.pids]
    pause_all(pids)
    try:
        yield
    finally:
        signal_all(pids, signal.SIGCONT)
