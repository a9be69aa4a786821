"""What a result must say of where it came from: machine, code, time."""

import functools
import hashlib
import platform
import subprocess
import time
from collections.abc import Sequence
from typing import Any

from shared import paths
from shared.hardware.machine import detect

# What may differ between results of one figure. The rest of a provenance must be equal, the code's hash included.
VOLATILE = {"time", "startup_s", "memory_gib", "git_commit", "git_dirty"}

# The modules that a number depends on, as paths below shared/; a room with "*" counts whole.
MADE_BY = (
    "processes", "models/choice", "models/weights", "models/llama", "models/llamacpp_library", "engines/*",
    "launch/launcher", "launch/running", "launch/process", "launch/watchdog", "load/*",
    "metrics/summary", "metrics/spread", "metrics/validity", "metrics/correctness", "metrics/roofline",
    "results/ledger", "results/provenance", "results/packing", "results/step_time", "report/live_panel",
    "course/batching/mini_engine", "course/batching/paged_kv", "course/batching/mini_load",
)  # fmt: skip


@functools.cache
def code_sha256(modules: Sequence[str] = MADE_BY) -> str:
    """The hash of the code that a number depends on: of what runs, committed or not.

    A student's commits don't change it, nor does what only reads results.
    """
    digest = hashlib.sha256()
    for name in modules:
        for file in sorted((paths.REPO / "shared").glob(f"{name}.py")):
            digest.update(f"{file.relative_to(paths.REPO)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def made_here() -> dict[str, Any]:
    """Where and when, for every entry that was made here."""
    machine = detect()
    return {
        "time": now(),
        "host": platform.node(),
        "profile": machine.profile,
        "size": machine.size,
        "processor": machine.processor,
        "machine_cores": machine.cores,
        "memory_gib": round(machine.memory_gib, 1),
        "gpu": machine.gpu,
        "git_commit": _git("rev-parse", "--short=12", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--", "shared", "solutions", "environment")),
        "code_sha256": code_sha256(),
    }


@functools.cache  # the code that runs is the code that was imported, whatever is committed later
def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None in a copy without history."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=paths.REPO, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
