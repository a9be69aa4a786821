"""An engine that a student started in a terminal: found, its flags checked, then used as if `launch` had started it.

    print(typed.beginning("vllm", model))          # to be completed with flags, in a terminal
    vllm = typed.find_or_launch("vllm", model, flags)

If no such engine runs, `launch` starts it with the same flags. An engine in its container is always started by
`launch`, which guards the memory that CPU and GPU share.
"""

import shlex
from collections.abc import Mapping
from pathlib import Path

import psutil

from shared import paths
from shared.engines import ENGINES, Flags, LaunchPlan, as_arguments
from shared.engines.spec import Native
from shared.errors import LabError
from shared.hardware.machine import detect
from shared.launch import launcher, memory
from shared.launch.process import Adopted, keeper
from shared.launch.running import Engine, native_version
from shared.models.choice import ModelChoice
from shared.processes import start_time

PORT = 8010
FREE = ("--host", "--port", "--model")  # these change nothing that is measured, or are spelled in several ways
WITHIN_S = 300  # until an engine that is still starting is ready


def find_or_launch(name: str, model: ModelChoice, flags: Flags, port: int = PORT) -> Engine:
    """Return the engine that runs on `port` because somebody typed its command, or else launch one.

    It is ended like any other: by the next `launch` with other flags, or with the notebook. Raises LabError if its
    flags or variables differ from those that `flags` ask for.
    """
    # In a container `launch` guards the memory. Where tests run, notebooks share the engines of the first one.
    if detect().runner != "native" or keeper() is not None:
        return launcher.launch(name, model, flags)
    plan = plan_for(name, model, flags, port)
    wanted = command(name, plan)
    process = find(wanted)
    if process is None:
        print(f"No {ENGINES[name].title} was started on port {port} in a terminal, so this cell starts it.")
        return launcher.launch(name, model, flags)
    env = native(name).env(plan)
    if faults := [*differences(process.cmdline(), wanted), *unset(process.environ(), env)]:
        raise LabError(
            f"The {ENGINES[name].title} that you started on port {port} has other settings: {'; '.join(faults)}.",
            "end it with Ctrl-C in its terminal, correct the command, start it again, and run this cell again. "
            "Without it, this cell starts the engine itself",
        )
    engine = adopt(name, plan, process)
    launcher.wait_until_ready(engine, WITHIN_S, quiet=True)
    engine.startup_s = 0.0  # not watched from its beginning
    print(f"Found the {engine.spec.title} {engine.version} that you started, on {engine.url}. Its flags are right.")
    return engine


def beginning(name: str, model: ModelChoice, port: int = PORT) -> str:
    """The start command without the lab's flags, for a shell; "" where the engine runs in a container."""
    if detect().runner != "native":
        return ""
    plan = plan_for(name, model, {}, port)
    variables = [f"{key}={shlex.quote(value)}" for key, value in native(name).env(plan).items()]
    words = [paths.show(Path(word)) if word.startswith("/") else shlex.quote(word) for word in command(name, plan)]
    return " \\\n".join([*variables, " ".join(words).replace(" --", " \\\n  --")])


def native(name: str) -> Native:
    way = ENGINES[name].way("native")
    assert isinstance(way, Native)
    return way


def plan_for(name: str, model: ModelChoice, flags: Flags, port: int) -> LaunchPlan:
    spec, precision = ENGINES[name], native(name).precisions[0]
    weights = str(model.weights(spec.weights_form(model, precision)))
    home = (paths.cache() / "engines" / name).resolve()
    return LaunchPlan(home, model, precision, port, detect().cores, dict(flags), weights)


def command(name: str, plan: LaunchPlan) -> list[str]:
    return native(name).command(plan) + as_arguments(plan.flags)


def find(wanted: list[str]) -> psutil.Process | None:
    """The process that runs the same program as this command on the same port, if there is one."""
    flags = next(place for place, word in enumerate(wanted) if word.startswith("--"))
    program, port = wanted[1:flags], options(wanted)["--port"]
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if all(word in words for word in program) and options(words).get("--port") == port:
            return process
    return None


def options(words: list[str]) -> dict[str, str]:
    """The flags of a command line with their values; a switch has the value ""."""
    found: dict[str, str] = {}
    flag = ""
    for word in words:
        if word.startswith("--"):
            flag, _, value = word.partition("=")
            found[flag] = value
        elif flag:
            found[flag], flag = word, ""
    return found


def differences(typed: list[str], wanted: list[str]) -> list[str]:
    """Which flags of a typed command differ from the wanted ones, each as a phrase."""
    there, asked = options(typed), options(wanted)
    named = [flag for flag in asked if flag not in FREE]
    missing = [f"{flag} {asked[flag]} is missing".replace("  ", " ") for flag in named if flag not in there]
    other = [
        f"{flag} is {there[flag]} instead of {asked[flag]}"
        for flag in named
        if flag in there and there[flag] != asked[flag]
    ]
    more = [f"{flag} is not asked for" for flag in there if flag not in asked and flag not in FREE]
    return [*missing, *other, *more]


def unset(there: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Which variables of the engine differ from the wanted ones, each as a phrase."""
    return [f"the variable {name} is not {value}" for name, value in wanted.items() if there.get(name) != value]


def adopt(name: str, plan: LaunchPlan, process: psutil.Process) -> Engine:
    """The engine of this process, ended with the notebook."""
    spec, started = ENGINES[name], start_time(process.pid)
    assert started is not None
    log = paths.cache() / "logs" / f"typed-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("Its output is in the terminal in which it was started.\n")
    needed = memory.need(spec, plan.model, plan.precision, plan.flags, detect(), None)
    engine = Engine(
        spec, plan.model, plan.precision, plan.flags, plan.cores, native_version(plan.home),
        command(name, plan), plan.port, log, Adopted(process.pid, started), needed,
    )  # fmt: skip
    launcher._running[name] = engine
    return engine
