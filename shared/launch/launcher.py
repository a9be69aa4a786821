"""Start a real engine, wait until it has answered, and make sure that it ends.

    with launch("vllm", model, {"--max-num-seqs": 16}) as engine:
        engine.url        # http://127.0.0.1:<port>
        engine.command    # exactly what was run

On a machine with an NVIDIA GPU it runs in its container (shared/launch/containers.py), else natively on the processor.
Either way it runs under a watchdog (shared/launch/watchdog.py): it ends when this Python process ends, kill -9
included, and when memory falls below a floor. `python -m shared.launch down` (make down) ends whatever any
notebook has left.
"""

import atexit
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared import paths
from shared.engines import ENGINES, EngineSpec, Flags, LaunchPlan, as_arguments
from shared.engines.http import get, post_json
from shared.engines.spec import Native
from shared.errors import LabError
from shared.files import held
from shared.hardware.gpu import docker_gpu_arguments
from shared.hardware.machine import Machine, detect
from shared.launch import containers, memory, reuse
from shared.launch.diagnosis import failure
from shared.launch.memory import Need
from shared.launch.process import keeper
from shared.launch.running import Engine, flag_environment, inherited_environment, start_guarded
from shared.models import hub
from shared.models.choice import ModelChoice
from shared.processes import descendants, free_port, port_taken, start_time

# How often a waiting line is written. A notebook's front end may read a cell's output only when the cell has
# ended (nbval does), and of more than a thousand messages the last are lost.
ONCE_A_SECOND: dict[str, Any] = {"mininterval": 1, "miniters": 0}

_running: dict[str, Engine] = {}  # by engine name: this process's own, so that a cell run twice starts one


def launch(
    name: str,
    model: ModelChoice,
    flags: Flags | None = None,
    *,
    precision: str | None = None,
    cores: int | None = None,
    port: int | None = None,
    timeout_s: float | None = None,
    quiet: bool = False,
) -> Engine:
    """Start the engine `name` and return it once it has answered one request.

    The same engine with the same model, flags and cores, if it runs already, is returned as it is; with
    other ones it is ended first. Raises LabError if the engine isn't installed or doesn't fit into memory,
    and with the log's last lines and the likeliest causes if it dies or isn't ready within `timeout_s`.
    """
    if name not in ENGINES:
        raise LabError(f"There is no engine {name!r}.", f"choose one of {', '.join(ENGINES)}")
    spec, flags, machine = ENGINES[name], dict(flags or {}), detect()
    way = spec.way(machine.runner)
    precision = precision or way.precisions[0]
    if precision not in way.precisions:
        raise LabError(f"{spec.title} can't load {precision} here.", f"choose one of {', '.join(way.precisions)}")
    cores = cores or machine.cores
    old = _running.get(name)
    if old:
        same = (old.model, old.precision, old.flags, old.cores) == (model, precision, flags, cores)
        if same and old.alive and port in (None, old.port):
            return old
        if not old.alive or keeper() is None:  # else it is held still below
            old.end()
        del _running[name]
    if isinstance(way, Native):
        home = wait_until_installed(spec, model, precision, quiet)
    needed = memory.need(spec, model, precision, flags, machine)
    in_use = {other.process.pid for other in _running.values()}
    if engine := reuse.take_over(spec, model, precision, flags, cores, port, needed, in_use):
        _running[name] = engine
        if not quiet:
            print(f"{spec.title} {engine.version} answers on {engine.url}, started for an earlier notebook")
        return engine
    memory.require(spec, needed, flags, machine, own_container_pids())
    if port and port_taken(port):
        raise LabError(
            f"Port {port} of 127.0.0.1 is taken by another program.",
            f"leave `port` out, for a free one; `ss -ltnp 'sport = :{port}'` says who has it",
        )
    port = port or free_port()
    if isinstance(way, Native):
        weights = str(model.weights(spec.weights_form(model, precision)))
        if (ignored := inherited_environment()[1]) and not quiet:
            print(
                f"Not passed on to {spec.title}: {', '.join(ignored)}. Engines are set by flags, so that a result "
                "shows its settings."
            )
        engine = start_native(spec, LaunchPlan(home, model, precision, port, cores, flags, weights), needed, machine)
    else:
        image = containers.images()[way.image]
        containers.ensure(image, machine.architecture, quiet)
        weights = hub.inside(hub.fetch(model.source(spec.reads, precision)), containers.HUB_INSIDE)
        kv_bytes, part = int(needed.kv * 2**30), memory.share(needed, machine)
        home = paths.cache() / "run" / f"{name}-{port}"
        what = LaunchPlan(home, model, precision, image.port, cores, flags, weights, kv_bytes, part)
        engine = start_container(spec, what, port, needed, machine)
    _running[name] = engine
    try:
        wait_until_ready(engine, timeout_s or way.ready_within_s, quiet)
    except BaseException:
        engine.end()
        raise
    reuse.keep(engine)
    return engine


def wait_until_installed(spec: EngineSpec, model: ModelChoice, precision: str, quiet: bool) -> Path:
    """The folder of the engine; waits, and shows what is going on, while a set-up is still making what it needs:
    itself, the engine whose programs it runs, the model's weights.

    Raises LabError if no set-up is running, or it ends without an engine; missing weights are `models`' to name.
    """
    engines = [ENGINES[name] for name in (spec.name, spec.built_on) if name]
    link = {needed.name: paths.cache() / "engines" / needed.name for needed in engines}

    def absent() -> list[EngineSpec]:
        return [needed for needed in engines if not (link[needed.name] / "installed.json").exists()]

    waited = False
    with tqdm(bar_format="{desc}", leave=False, file=sys.stdout, disable=quiet) as line:
        while (absent() or not model.made(spec.weights_form(model, precision))) and held(paths.installing()):
            waited = True
            with contextlib.suppress(OSError):
                line.set_description_str(f"{spec.title} is still being installed {paths.install_status().read_text()}")
            time.sleep(1)
    for needed in absent():
        how = "the set-up ended without it" if waited else "no set-up is running"
        where = paths.show(link[needed.name])
        raise LabError(f"{needed.title} is not installed in {where}, and {how}.", "make engines")
    return link[spec.name].resolve()


def start_native(spec: EngineSpec, what: LaunchPlan, needed: Need, machine: Machine) -> Engine:
    """Start the native process under its watchdog; does not wait."""
    way = spec.way("native")
    assert isinstance(way, Native)
    command = way.command(what) + (as_arguments(what.flags) if spec.flags_in == "arguments" else [])
    version = json.loads((what.home / "installed.json").read_text())["version"]
    env = {**way.env(what), **flag_environment(spec, what.flags)}
    return start_guarded(spec, what, command, what.port, env, version, needed, machine)


def start_container(spec: EngineSpec, what: LaunchPlan, port: int, needed: Need, machine: Machine) -> Engine:
    """Start `docker run` under its watchdog, which removes the container in the end; does not wait."""
    name = containers.name_for(spec, port)
    containers.write_files(spec.container, what)
    arguments = {flag: value for flag, value in what.flags.items() if flag.startswith("-")}
    flags = as_arguments(arguments) if spec.flags_in == "arguments" else []
    gpu = docker_gpu_arguments()
    command = containers.run_command(spec, what, flags, name=name, port=port, hub=hub.home(), gpu=gpu)
    image = containers.images()[spec.container.image]
    version = f"{image.image}:{image.tag}@{containers.digest(image)}"
    return start_guarded(spec, what, command, port, {}, version, needed, machine, container=name)


def own_container_pids() -> set[int]:
    """Processes of the containers that this program runs: they may hold the GPU."""
    first = [pid for e in _running.values() if e.container and e.alive and (pid := containers.pid(e.container))]
    return {pid for one in first for pid in (one, *descendants(one))}


def wait_until_ready(engine: Engine, timeout_s: float, quiet: bool) -> None:
    """Until its health endpoint says so and one token has come back."""
    began = time.monotonic()
    way = engine.spec.way("container" if engine.container else "native")
    where = "in its container, a guess" if engine.container else "on two cores"
    title = f"{engine.spec.title} is starting (about {way.startup_s} s {where})"
    with tqdm(
        bar_format="{desc}: {elapsed}", desc=title, leave=False, file=sys.stdout, disable=quiet, **ONCE_A_SECOND
    ) as line:
        while (get(engine.port, engine.spec.health) or (0,))[0] != 200:
            line.update(0)
            if not engine.alive:
                raise failure(engine, f"{engine.spec.title} ended while starting (exit {engine.process.exit_code()}).")
            if time.monotonic() - began > timeout_s:
                raise failure(engine, f"{engine.spec.title} was not ready after {timeout_s:.0f} s.")
            time.sleep(0.1)
        body = {"model": engine.served_name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        if engine.spec.flags_fault and (fault := engine.spec.flags_fault(engine.log_text(), engine.flags)):
            raise LabError(f"{engine.spec.title} {fault}.", "check the setting's name and value")
        try:
            if engine.spec.prepare:
                engine.spec.prepare(engine.url, engine.model, engine.precision)
            post_json(engine.url + "/v1/chat/completions", body, timeout_s)
        except (OSError, LabError) as e:
            raise failure(engine, f"{engine.spec.title} says that it is ready, but gave no token: {e}.") from None
    engine.process.ready()
    engine.startup_s = time.monotonic() - began
    if not quiet:
        print(f"{engine.spec.title} {engine.version} answers on {engine.url} after {engine.startup_s:.1f} s")


@contextlib.contextmanager
def alone(engine: object) -> Iterator[None]:
    """All other engines of this process are paused inside this block, so that none takes time from this one.

    What is measured may also be no engine of `launch` (the mini engine, None): then all are paused.
    """
    others = [other for other in _running.values() if other is not engine and other.alive]
    for other in others:
        other.pause()
    try:
        yield
    finally:
        for other in others:
            other.resume()


def stop_all() -> None:
    """End every engine that this Python process started."""
    while _running:
        _running.popitem()[1].stop()


atexit.register(stop_all)


def down(parent: int | None = None) -> int:
    """End every engine that any notebook on this machine (or the process `parent`) started; returns how many."""
    ended = 0
    for file in sorted((paths.cache() / "run").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(file.read_text())
            pid = record["pid"]
            if parent not in (None, record["parent"]):
                continue
            if record["started"] == start_time(pid):
                os.kill(pid, signal.SIGTERM)  # its watchdog, which ends all below it
                while start_time(pid) == record["started"]:
                    time.sleep(0.05)
                print(f"ended {record['engine']} (process {pid}, port {record['port']})")
                ended += 1
        file.unlink(missing_ok=True)
    if parent is None:
        for name in containers.left():  # of an owner whose watchdog was killed as well
            containers.remove(name)
            print(f"removed the container {name}")
            ended += 1
    return ended
