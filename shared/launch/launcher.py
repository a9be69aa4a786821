"""Start a real engine, wait until it has answered, and make sure that it ends.

    with launch("vllm", model, {"--max-num-seqs": 16}) as engine:
        engine.url        # http://127.0.0.1:<port>
        engine.command    # exactly what was run

On a machine with an NVIDIA GPU the engine runs in its container (shared/launch/containers.py), else natively on the
processor. Either way it runs under a watchdog (shared/launch/watchdog.py), which ends the engine when this Python
process ends, kill -9 included, and when free memory falls below a floor.
"""

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared import paths
from shared.engines import ENGINES, Draft, EngineSpec, Flags, LaunchPlan, as_arguments, speculation
from shared.engines.http import client, get, post_json
from shared.engines.spec import Native, Speculation
from shared.errors import LabError
from shared.files import held
from shared.hardware.gpu import docker_gpu_arguments
from shared.hardware.machine import Machine, detect
from shared.launch import containers, memory, reuse
from shared.launch.diagnosis import failure
from shared.launch.memory import Need
from shared.launch.process import Adopted, inherited_environment, keeper
from shared.launch.running import Engine, PutOff, flag_environment, native_version, start_guarded
from shared.models import hub
from shared.models.choice import ModelChoice
from shared.processes import descendants, free_port, port_taken

# A waiting line is written at most once a second. nbval reads a cell's output only when the cell has ended, and loses
# the last of more than a thousand messages.
ONCE_A_SECOND: dict[str, Any] = {"mininterval": 1, "miniters": 0}

_running: dict[str, Engine] = {}  # the engines of this process by `place`, so that a cell run twice starts one engine


def launch(
    name: str,
    model: ModelChoice,
    flags: Flags | None = None,
    *,
    draft: Draft | None = None,
    precision: str | None = None,
    cores: int | None = None,
    port: int | None = None,
    timeout_s: float | None = None,
    quiet: bool = False,
    when_needed: bool = False,
    beside: bool = False,
) -> Engine:
    """Start the engine `name` and return it once it has answered one request.

    If the same engine already runs with the same model, precision, flags, draft and cores, it is returned. If it runs
    with other ones, it is ended first; with `beside` only if it has the same draft. All engines of this process are
    ended if CPU and GPU share one memory and it is too small for both. With `when_needed` all arguments are checked
    now, but the engine starts when it is first used: never, if all its results are there.

    Raises LabError if it isn't installed, doesn't fit into memory, or can't use the draft. If it dies, or isn't ready
    within `timeout_s`, the error shows the last lines of its log and the likeliest causes.
    """
    if name not in ENGINES:
        raise LabError(f"There is no engine {name!r}.", f"choose one of {', '.join(ENGINES)}")
    spec, flags, machine = ENGINES[name], dict(flags or {}), detect()
    way = spec.way(machine.runner)
    precision = precision or way.precisions[0]
    if precision not in way.precisions:
        raise LabError(
            f"{spec.title} can't load {precision} on this machine.", f"choose one of {', '.join(way.precisions)}"
        )
    if fault := way.refuses(flags):
        raise LabError(f"{spec.title} can't be started with these flags: {fault}.", "correct the flags of launch()")
    if cores is not None and not 1 <= cores <= machine.cores:
        raise LabError(
            f"{spec.title} can't be given {cores} cores.", f"choose 1 to {machine.cores}, or leave `cores` out"
        )
    if port is not None and not 1024 <= port <= 65535:
        raise LabError(f"{spec.title} can't answer on port {port}.", "choose 1024 to 65535, or leave `port` out")
    cores = cores or machine.cores
    if isinstance(way, Native):
        home = wait_until_installed(spec, model, precision, quiet)
    drafts = speculation.prepare(spec, draft, model, precision, flags, machine) if draft else None
    wanted = (model, precision, flags, cores, drafts)
    if when_needed:
        if not isinstance(way, Native):
            containers.ensure(containers.images()[way.image], machine.architecture, quiet)
        more: Any = {"precision": precision, "cores": cores, "port": port, "timeout_s": timeout_s, "quiet": quiet}
        return PutOff(plan(spec, *wanted), lambda: launch(name, model, flags, draft=draft, beside=beside, **more))
    place = f"{name} with {draft}" if beside else name
    if old := _running.get(place):
        same = (old.model, old.precision, old.flags, old.cores, old.speculation) == wanted
        if same and old.alive and port in (None, old.port):
            old.resume()  # Ctrl-C may have left it paused
            return old
        if not old.alive or keeper() is None:  # else reuse.take_over pauses it
            old.end()
        del _running[place]
    needed = memory.need(spec, model, precision, flags, machine, drafts)
    in_use = {other.process.pid for other in list(_running.values())}
    if engine := reuse.take_over(spec, model, precision, flags, cores, port, needed, in_use, drafts):
        _running[place] = engine
        if not quiet:
            print(f"{spec.title} {engine.version} answers on {engine.url}. An earlier notebook started it.")
        return engine
    machine = detect()  # again, because engines that were ended have freed memory
    if machine.unified_memory and _running and (machine.available_gib or 0) < needed.total <= (machine.memory_gib or 0):
        print(f"{spec.title} doesn't fit into memory beside the engines that run, so these are ended.")
        stop_all()
        machine = detect()
    memory.require(spec, needed, flags, machine, own_container_pids())
    if port and port_taken(port):
        fix = f"leave `port` out to get a free one; `ss -ltnp 'sport = :{port}'` shows which program uses {port}"
        raise LabError(f"Port {port} of 127.0.0.1 is taken by another program.", fix)
    port = port or free_port()
    client()  # imports httpx now, which would otherwise delay the first look at the started engine
    if isinstance(way, Native):
        weights = str(model.weights(spec.weights_form(model, precision)))
        if (ignored := inherited_environment()[1]) and not quiet:
            print(
                f"These environment variables were not passed to {spec.title}: {', '.join(ignored)}. Use flags "
                "instead, so that each result records its settings."
            )
        what = LaunchPlan(home, model, precision, port, cores, flags, weights, speculation=drafts)
        engine = start_native(spec, what, needed, machine)
    else:
        image = containers.images()[way.image]
        containers.ensure(image, machine.architecture, quiet)
        weights = hub.inside(hub.fetch(model.source(spec.reads, precision)))
        kv_bytes, part = int(needed.kv * 2**30), memory.share(needed, machine)
        home = paths.state() / "run" / f"{name}-{port}"
        what = LaunchPlan(home, model, precision, image.port, cores, flags, weights, kv_bytes, part, drafts)
        engine = start_container(spec, what, port, needed, machine)
    _running[place] = engine
    try:
        wait_until_ready(engine, timeout_s or way.ready_within_s, quiet)
    except BaseException:
        engine.end()
        raise
    reuse.keep(engine)
    return engine


def plan(
    spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags, cores: int, drafts: Speculation | None
) -> Engine:
    """The engine as it would be started, without a process."""
    machine, port = detect(), free_port()
    needed = memory.need(spec, model, precision, flags, machine, drafts)
    if machine.runner == "native":
        version, container = native_version((paths.cache() / "engines" / spec.name).resolve()), ""
    else:
        version, container = container_version(spec), containers.name_for(spec, port)
    none = Adopted(0, 0)
    return Engine(spec, model, precision, flags, cores, version, [], port, Path(), none, needed, container, 0, drafts)


def wait_until_installed(spec: EngineSpec, model: ModelChoice, precision: str, quiet: bool) -> Path:
    """Return the folder of the engine. While a set-up runs, wait for what the launch needs, and show its progress.

    A launch needs the engine, the engine whose programs it runs, and the model's weights. Raises LabError if an engine
    is missing and no set-up runs, or the set-up ended without it. `shared.models` reports missing weights.
    """
    engines = [ENGINES[name] for name in (spec.name, spec.built_on) if name]
    link = {needed.name: paths.cache() / "engines" / needed.name for needed in engines}

    def absent() -> list[EngineSpec]:
        return [needed for needed in engines if not os.path.exists(link[needed.name] / "installed.json")]

    waited = False
    with tqdm(bar_format="{desc}", leave=False, file=sys.stdout, disable=quiet) as line:
        while (absent() or not model.made(spec.weights_form(model, precision))) and held(paths.installing()):
            waited = True
            with contextlib.suppress(OSError):
                line.set_description_str(f"{spec.title} is still being installed {paths.install_status().read_text()}")
            time.sleep(1)
    for needed in absent():
        how = "the set-up ended without installing it" if waited else "no set-up is running"
        where = paths.show(link[needed.name])
        raise LabError(f"{needed.title} is not installed in {where}, and {how}.", "make engines")
    return link[spec.name].resolve()


def start_native(spec: EngineSpec, what: LaunchPlan, needed: Need, machine: Machine) -> Engine:
    """Start the native process under its watchdog, without waiting until it is ready."""
    way = spec.way("native")
    assert isinstance(way, Native)
    command = way.command(what) + (as_arguments(what.every_flag) if spec.flags_in == "arguments" else [])
    env = {**way.env(what), **flag_environment(spec, what.flags)}
    return start_guarded(spec, what, command, what.port, env, native_version(what.home), needed, machine)


def start_container(spec: EngineSpec, what: LaunchPlan, port: int, needed: Need, machine: Machine) -> Engine:
    """Start `docker run` under its watchdog, without waiting until it is ready. The watchdog removes the container."""
    name, label = containers.name_for(spec, port), containers.new_label()
    containers.write_files(spec.container, what)
    arguments = {flag: value for flag, value in what.every_flag.items() if flag.startswith("-")}
    flags = as_arguments(arguments) if spec.flags_in == "arguments" else []
    gpu = docker_gpu_arguments()
    command = containers.run_command(spec, what, flags, name=name, label=label, port=port, hub=hub.home(), gpu=gpu)
    version = container_version(spec)
    return start_guarded(spec, what, command, port, {}, version, needed, machine, container=name, label=label)


def container_version(spec: EngineSpec) -> str:
    """The image of an engine, with its digest."""
    image = containers.images()[spec.container.image]
    return f"{image.image}:{image.tag}@{containers.digest(image)}"


def own_container_pids() -> set[int]:
    """Ids of the processes in the containers that this program runs. They may hold the GPU."""
    first = [pid for e in _running.values() if e.container and e.alive and (pid := containers.pid(e.container))]
    return {pid for one in first for pid in (one, *descendants(one))}


def wait_until_ready(engine: Engine, timeout_s: float, quiet: bool) -> None:
    """Wait until the health endpoint returns 200, and then until a request has returned one token.

    Raises LabError with the log's last lines if the engine ends, is not ready within `timeout_s`, or returns no token.
    """
    began = time.monotonic()
    way = engine.spec.way("container" if engine.container else "native")
    where = "in its container, estimated" if engine.container else "on two cores"
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
            raise LabError(
                f"{engine.spec.title} {fault}.",
                'correct this setting in the flags of launch(), or leave it out; the line "server config" in '
                f"{paths.show(engine.log)} lists all settings",
            )
        if engine.spec.draft_fault and (fault := engine.spec.draft_fault(engine.log_text())):
            raise failure(engine, f"{engine.spec.title} started without its draft: {fault}.")
        try:
            if engine.spec.prepare:
                engine.spec.prepare(engine.url, engine.model, engine.precision)
            post_json(engine.url + "/v1/chat/completions", body, timeout_s)
        except (OSError, LabError) as e:
            what = f"reported that it was ready, but its first request failed: {without_fix(e)}."
            raise failure(engine, f"{engine.spec.title} {what}") from None
    engine.process.ready()
    engine.startup_s = time.monotonic() - began
    if not quiet:
        print(f"{engine.spec.title} {engine.version} answers on {engine.url} after {engine.startup_s:.1f} s")


def without_fix(error: Exception) -> str:
    """The text of an error without its fix and its last full stop."""
    return str(error).removesuffix(f"\nFix: {getattr(error, 'fix', '')}").rstrip(".")


@contextlib.contextmanager
def alone(engine: object) -> Iterator[None]:
    """Pause all other engines of this process inside the block, so that none takes processor time from this one.

    If `engine` was not started by `launch` (the mini engine, or None), all engines are paused. An engine whose start
    was put off is started first.
    """
    process = getattr(engine, "process", None)
    paused: list[Engine] = []
    try:
        for other in list(_running.values()):
            if other.process.pid != getattr(process, "pid", None) and other.alive:
                paused.append(other)
                other.pause()
        yield
    finally:
        for other in paused:
            try:
                other.resume()
            except LabError as e:  # printed and not raised: it must not replace the error of a measurement
                print(f"{other.spec.title} is still paused: {e}")


def stop_all() -> None:
    """End every engine that this Python process started."""
    while _running:
        _running.popitem()[1].stop()


atexit.register(stop_all)
