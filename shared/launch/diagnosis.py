"""What to say of an engine that failed: its own last words, and what they usually mean."""

import re
from pathlib import Path

from shared import paths
from shared.engines import EngineSpec
from shared.errors import LabError
from shared.launch import containers, memory
from shared.launch.running import Engine
from shared.launch.watchdog import GUARD_EXIT

COMMON_CAUSES = (
    (r"address already in use|couldn't bind|failed to bind", "its port is taken", "leave `port` out"),
    (r"out of memory|cannot allocate memory|bad_alloc|MemoryError|Killed", "too little memory", "make down"),
    (r"No space left on device", "the disk is full", "free some space"),
    (r"(access to|access) a? ?gated repo", "the model is gated, and no token was given",
     "accept its licence on its page, then: export HF_TOKEN=..."),
    (r"failed to open GGUF file|Repo id must be in the form|is not a valid model identifier|LocalEntryNotFoundError: "
     "|RepositoryNotFoundError: |does not appear to have a file named",
     "the model isn't there", "check its name or path"),
    (r"No such file or directory", "a file is missing", "make engines"),
    (r"ModuleNotFoundError|ImportError|cannot open shared object", "it is damaged", "make clean; make engines"),
)  # fmt: skip


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
    found: dict[str, str] = {}  # by the line: of two causes for one line the more special comes first
    for sign, cause, fix in (*spec.causes, *(containers.CAUSES if in_container else ()), *COMMON_CAUSES):
        line = next((cut(line) for line in lines if re.search(sign, line, re.I)), None)
        if line:
            found.setdefault(line, f"{cause} → {fix}\n     as it says: {line}")
    if found:
        return list(found.values())[:3]
    # The first exception is the one that the others follow from.
    first = next((line for line in lines if re.search(r"^(\([^)]*\) ERROR .*\] )?[\w.]+Error: ", line)), None)
    return [f"none recognised; its first error: {cut(first)}" if first else "none recognised"]


def cut(line: str) -> str:
    """A line of a log as a message can carry it."""
    line = line.strip()
    return line if len(line) <= 300 else line[:299] + "…"
