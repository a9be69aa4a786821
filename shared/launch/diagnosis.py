"""The error of an engine that failed: the last lines of its log, and the likeliest causes."""

import re
import signal
from pathlib import Path

from shared import paths
from shared.engines import EngineSpec
from shared.errors import LabError
from shared.hardware import symptoms
from shared.launch import memory
from shared.launch.process import Adopted
from shared.launch.running import Engine
from shared.launch.watchdog import GUARD_EXIT

KILLED = 128 + signal.SIGKILL


def failure(engine: Engine, what: str) -> LabError:
    """The error of an engine that failed. `what` is its first sentence.

    Then follow the last lines of the log and the likeliest causes, or the memory guard's samples if the guard ended it.
    SIGKILL leaves nothing in the log, so its usual senders are named, with the guard's samples.
    """
    samples = engine.log.with_suffix(".memory")
    if engine.process.exit_code() == GUARD_EXIT:
        return LabError(f"{what} {memory.story(samples, engine.need)}")
    tail = "\n".join(f"  | {symptoms.shown(line)}" for line in engine.tail().splitlines())
    text = f"{what} Last lines of {paths.show(engine.log)}:\n{tail}\n"
    found = likely_causes(engine.spec, engine.log, bool(engine.container))
    if engine.process.exit_code() == KILLED:
        found = [*senders_of_sigkill(bool(engine.container)), *found]
        text += f"SIGKILL ended it, which leaves no line in a log. {engine.need}. {memory.last(samples)}\n"
    if found:
        causes = "\n".join(f"  {i}. {cause}" for i, cause in enumerate(found, 1))
        return LabError(f"{text}Likeliest causes:\n{causes}")
    first = first_exception(engine.log)
    return LabError(
        f"{text}No known cause matches this log." + (f" The first error in its log: {first}" if first else ""),
        f"correct what the log reports (less {paths.show(engine.log)} shows all of it), or run make doctor to check "
        "the machine; then launch it again",
    )


def exit_text(engine: Engine) -> str:
    """A sentence on how an engine that has ended did so: "Its exit code is 137 (SIGKILL)."."""
    code = engine.process.exit_code()
    if isinstance(engine.process, Adopted):
        return "Its exit code is unknown here, because an earlier notebook started it."
    names = {128 + number: number.name for number in signal.Signals}
    return f"Its exit code is {code}" + (f" ({names[code]})." if code in names else ".")


def senders_of_sigkill(in_container: bool) -> list[str]:
    """Who usually sends SIGKILL, the likeliest first, each with how to check it and the fix."""
    limit = "the container's memory limit, or the machine's memory," if in_container else "the machine's memory"
    return [
        f"{limit} ran out, and the kernel killed the process that held most → `sudo dmesg | grep -i 'killed process'` "
        "shows it; close other programs, stop other engines (make down), or use fewer sequences or a shorter context",
        "a limit that an administrator set was reached (systemd-oomd, a batch system such as Slurm, a Kubernetes pod) "
        "→ `journalctl -u systemd-oomd` or the batch system's own log shows it; ask for more memory or time",
        f"a person or a program killed it (kill -9{', docker kill' if in_container else ''}) → launch it again",
    ]


def likely_causes(spec: EngineSpec, log: Path, in_container: bool) -> list[str]:
    """At most three causes, each with its fix and the line of the log that shows it. Empty if no cause is known."""
    lines = log.read_text(errors="replace").splitlines()
    areas = (spec.name, *filter(None, [spec.built_on]), *(("spark", "docker") if in_container else ()), "engine")
    found: dict[str, str] = {}  # by line: of two causes for one line, the more specific comes first and is kept
    for row, line in symptoms.recognised(lines, *areas):
        line = symptoms.shown(line.strip())
        found.setdefault(line, f"{row.cause} → {row.fix}\n     seen in its log: {line}")
    return list(found.values())[:3]


def first_exception(log: Path) -> str:
    """The first line of the log that names an exception, which caused the later ones; "" if there is none."""
    lines = log.read_text(errors="replace").splitlines()
    found = (line for line in lines if re.search(r"^(\([^)]*\) ERROR .*\] )?[\w.]+Error: ", line))
    return symptoms.shown(next(found, ""))
