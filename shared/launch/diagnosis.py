"""What to say of an engine that failed: its own last words, and what they usually mean."""

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
    """The error for an engine that failed: its last words, what they usually mean, and which of them mean it."""
    if engine.process.exit_code() == GUARD_EXIT:
        return LabError(f"{what} {memory.story(engine.log.with_suffix('.memory'), engine.need)}")
    tail = "\n".join(f"  | {line[:200]}" for line in engine.tail().splitlines())
    found = likely_causes(engine.spec, engine.log, bool(engine.container))
    causes = "\n".join(f"  {i}. {cause}" for i, cause in enumerate(found, 1))
    return LabError(f"{what} Last lines of {paths.show(engine.log)}:\n{tail}\nLikeliest causes:\n{causes}")


def likely_causes(spec: EngineSpec, log: Path, in_container: bool) -> list[str]:
    """At most three, each with its fix and the line of the log that it was recognised by."""
    lines = log.read_text(errors="replace").splitlines()
    areas = (spec.name, *filter(None, [spec.built_on]), *(("spark", "docker") if in_container else ()), "engine")
    found: dict[str, str] = {}  # by the line: of two causes for one line the more special comes first
    for row, line in symptoms.recognised(lines, *areas):
        found.setdefault(cut(line), f"{row.cause} → {row.fix}\n     as it says: {cut(line)}")
    if found:
        return list(found.values())[:3]
    # The first exception is the one that the others follow from.
    first = next((line for line in lines if re.search(r"^(\([^)]*\) ERROR .*\] )?[\w.]+Error: ", line)), None)
    return [f"none recognised; its first error: {cut(first)}" if first else "none recognised"]


def cut(line: str) -> str:
    """A line of a log as a message can carry it."""
    line = line.strip()
    return line if len(line) <= 300 else line[:299] + "…"
