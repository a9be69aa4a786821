"""The error of an engine that failed: the last lines of its log, and the likeliest causes."""

import re
from pathlib import Path

from shared import paths
from shared.engines import EngineSpec
from shared.errors import LabError
from shared.hardware import symptoms
from shared.launch import memory
from shared.launch.running import Engine
from shared.launch.watchdog import GUARD_EXIT


def failure(engine: Engine, what: str) -> LabError:
    """The error of an engine that failed. `what` is its first sentence.

    Then follow the last lines of the log and the likeliest causes, or the memory guard's samples if the guard ended it.
    """
    if engine.process.exit_code() == GUARD_EXIT:
        return LabError(f"{what} {memory.story(engine.log.with_suffix('.memory'), engine.need)}")
    tail = "\n".join(f"  | {line[:200]}" for line in engine.tail().splitlines())
    text = f"{what} Last lines of {paths.show(engine.log)}:\n{tail}\n"
    if found := likely_causes(engine.spec, engine.log, bool(engine.container)):
        causes = "\n".join(f"  {i}. {cause}" for i, cause in enumerate(found, 1))
        return LabError(f"{text}Likeliest causes:\n{causes}")
    first = first_exception(engine.log)
    return LabError(
        f"{text}No known cause matches this log." + (f" The first error in its log: {first}" if first else ""),
        f"correct what the log reports (less {paths.show(engine.log)} shows all of it), or run make doctor to check "
        "the machine; then launch it again",
    )


def likely_causes(spec: EngineSpec, log: Path, in_container: bool) -> list[str]:
    """At most three causes, each with its fix and the line of the log that shows it. Empty if no cause is known."""
    lines = log.read_text(errors="replace").splitlines()
    areas = (spec.name, *filter(None, [spec.built_on]), *(("spark", "docker") if in_container else ()), "engine")
    found: dict[str, str] = {}  # by line: of two causes for one line, the more specific comes first and is kept
    for row, line in symptoms.recognised(lines, *areas):
        found.setdefault(cut(line), f"{row.cause} → {row.fix}\n     seen in its log: {cut(line)}")
    return list(found.values())[:3]


def first_exception(log: Path) -> str:
    """The first line of the log that names an exception, which caused the later ones; "" if there is none."""
    lines = log.read_text(errors="replace").splitlines()
    return next((cut(line) for line in lines if re.search(r"^(\([^)]*\) ERROR .*\] )?[\w.]+Error: ", line)), "")


def cut(line: str) -> str:
    """A line of a log, cut to 300 characters for a message."""
    line = line.strip()
    return line if len(line) <= 300 else line[:299] + "…"
