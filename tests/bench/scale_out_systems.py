"""What the scale-out benchmark compares: one vLLM server, Ray Serve LLM, and the gateway before Ray or before servers.

All of them run the vLLM of Ray's environment, with the same flags and as many threads in all as the machine has cores.
"""

import contextlib
import dataclasses
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from environment.scale_out.ray_serve import cluster, configuration
from shared import hardware, models, paths
from shared.course.gateway import running
from shared.engines import ENGINES, LaunchPlan
from shared.engines.spec import EngineSpec, Native
from shared.launch import memory
from shared.launch.launcher import start_native, wait_until_ready
from shared.launch.running import Engine
from shared.processes import descendants, free_port, signal_all
from shared.results.scale_out import SYSTEMS

READY_WITHIN_S = 600.0
# Limits that no load of the benchmark reaches.
UNLIMITED = {"requests_per_minute": 10**6, "burst": 10**6, "concurrent": 10**4}


@dataclass
class System:
    """One running system: how the client asks it, what belongs to it, and how one of its replicas dies."""

    name: str
    engine: Engine
    parts: Sequence[Engine]
    startup_s: float
    kill: Callable[[], None] | None = None
    revived_s: Callable[[float], float | None] = lambda killed_s: None  # by time.time(), after a kill at this time

    @property
    def title(self) -> str:
        return SYSTEMS[self.name]

    def memory_gib(self) -> float:
        return sum(part.resident_gib() or 0.0 for part in self.parts)


def vllm_spec(name: str, threads: int) -> EngineSpec:
    """vLLM with so many threads that aren't bound to cores, as each replica of Ray Serve has."""
    vllm = ENGINES["vllm"]
    native = vllm.native
    assert isinstance(native, Native)
    unbound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads)}
    with_threads = dataclasses.replace(native, env=lambda plan: {**native.env(plan), **unbound})
    return dataclasses.replace(vllm, name=name, title=name, native=with_threads)


def start_server(name: str, threads: int, port: int | None = None) -> Engine:
    """Start one vLLM server of Ray's environment, with the flags of serve.toml, and wait until it answers."""
    machine, model, spec = hardware.detect(), models.small(), vllm_spec(name, threads)
    given = cluster.as_flags(configuration.read())
    flags = {"--" + key.replace("_", "-"): value for key, value in given.items()}
    weights = str(model.weights("hf"))
    plan = LaunchPlan(cluster.home().resolve(), model, "BF16", port or free_port(), machine.cores, flags, weights)
    needed = memory.need(spec, model, "BF16", flags, machine)
    memory.require(spec, needed, flags, machine, set())
    engine = start_native(spec, plan, needed, machine)
    engine.version = cluster.installed()["vllm"]
    try:
        wait_until_ready(engine, READY_WITHIN_S, quiet=True)
    except BaseException:
        engine.end()
        raise
    return engine


@contextlib.contextmanager
def gateway(behind: Sequence[Engine]) -> Iterator[running.Gateway]:
    """The gateway of lab 3.3.5 before these engines, named e1, e2 and so on."""
    folder, port = Path(tempfile.mkdtemp(prefix="labs-scale-out-")), free_port()
    engines = {f"e{number}": {"url": engine.url, "seats": 64} for number, engine in enumerate(behind, 1)}
    env = {
        "PYTHONPATH": str(paths.REPO / "solutions"), "GATEWAY_PORT": str(port),
        "GATEWAY_ENGINES": json.dumps(engines), "GATEWAY_LIMITS": json.dumps(UNLIMITED),
    }  # fmt: skip
    command = [sys.executable, "-m", "gateway"]
    made_of = {"engines": len(behind), "seats_of_each": 64}
    started = running.start(
        "scale-out", "The gateway", behind[0], command, port=port, folder=folder, ready="/ready",
        counters=running.COUNTERS, made_of=made_of, env=env,
    )  # fmt: skip
    try:
        yield started
    finally:
        started.end()


@contextlib.contextmanager
def direct() -> Iterator[list[System]]:
    with start_server("vllm", hardware.detect().cores) as engine:
        yield [System("direct", engine, [engine], engine.startup_s)]


@contextlib.contextmanager
def one_replica() -> Iterator[list[System]]:
    with cluster.start(1, quiet=True) as ray:
        yield [System("ray-1", ray.engine, [ray.engine], ray.engine.startup_s)]


@contextlib.contextmanager
def two_replicas() -> Iterator[list[System]]:
    """Ray Serve with two replicas, asked directly and through the gateway."""
    with cluster.start(2, quiet=True) as ray, gateway([ray.engine]) as before:
        fate = ray.kill_replica, lambda killed_s: ray.revived_s()
        yield [
            System("ray-2", ray.engine, [ray.engine], ray.engine.startup_s, *fate),
            System("gateway-ray", before, [ray.engine, before], ray.engine.startup_s + before.startup_s, *fate),
        ]


class Servers:
    """Two vLLM servers. One that was killed is started again at once, as a service manager would do it."""

    def __init__(self, threads: int) -> None:
        self.threads, self.restarting = threads, threading.Thread()
        self.engines: list[Engine] = []

    def __enter__(self) -> "Servers":
        with ThreadPoolExecutor(2) as pool:  # together, as Ray starts its replicas
            starting = [pool.submit(start_server, f"vllm-{number}", self.threads) for number in (1, 2)]
        self.engines = [one.result() for one in starting if not one.exception()]
        if failed := [found for one in starting if (found := one.exception())]:
            self.__exit__()
            raise failed[0]
        return self

    def __exit__(self, *_: object) -> None:
        if self.restarting.ident:
            self.restarting.join()
        for engine in self.engines:
            engine.end()

    def kill(self) -> None:
        """Kill the first server without a warning, and start another one on its port."""
        first = self.engines[0]
        signal_all(descendants(first.process.pid), signal.SIGKILL)
        first.end()
        self.restarting = threading.Thread(target=self._start_again, args=[first.port])
        self.restarting.start()

    def _start_again(self, port: int) -> None:
        self.engines[0] = start_server("vllm-1", self.threads, port)


def answered_s(logged: Sequence[dict[str, object]], engine: str, after_s: float) -> float | None:
    """When the gateway had passed on the first whole answer of this engine after that time. None if it has none."""
    whole = [
        float(str(line["time"])) for line in logged
        if line.get("engine") == engine and line.get("status") == 200 and "error" not in line
    ]  # fmt: skip
    return min((at_s for at_s in whole if at_s > after_s), default=None)


@contextlib.contextmanager
def two_servers() -> Iterator[list[System]]:
    """The gateway before two vLLM servers, which share the cores as two replicas do."""
    began = time.monotonic()
    with Servers(cluster.threads_of_each(2, hardware.detect())) as servers, gateway(servers.engines) as before:
        startup_s = time.monotonic() - began

        def revived_s(killed_s: float) -> float | None:
            return answered_s(before.logged(), "e1", killed_s)

        yield [System("gateway-vllm", before, [*servers.engines, before], startup_s, servers.kill, revived_s)]


GROUPS = (direct, one_replica, two_replicas, two_servers)  # systems that run at the same time, one group after another
