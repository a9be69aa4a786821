"""Says before a long cell how long it will take.

    cell_times.announce_long_cells("3.3.1")         # once, in a lab's first cell

A cell is known by its text. The estimate is what it took the last time on this machine (`results/.pace.json`), else
what it took in the run whose outputs the solution keeps, with the machine that was.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.course import checks, registry
from shared.errors import LabError
from shared.hardware.machine import detect

LONG_S = 20  # less needs no announcement
TOOK = "took_s"  # in a solution's cell, written by environment/run_notebook.py


def announce_long_cells(number: str) -> None:
    """From now on, long cells of this notebook announce themselves. Outside of a notebook it does nothing."""
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return
    began: dict[str, float] = {}

    def before(info: Any) -> None:
        with contextlib.suppress(LabError, OSError):
            if text := announcement(number, info.raw_cell):
                print(text, flush=True)
        began["cell"] = time.monotonic()

    def after(result: Any) -> None:
        took = time.monotonic() - began.pop("cell", time.monotonic())
        if took >= LONG_S and result.success:
            with contextlib.suppress(LabError, OSError):
                remember(result.info.raw_cell, took)

    shell.events.register("pre_run_cell", before)
    shell.events.register("post_run_cell", after)


def announcement(number: str, source: str) -> str:
    """What to say before this cell, "" if it is short or unknown."""
    here = remembered().get(name(source))
    if here is not None:
        return f"About {duration(here)}, as the last time here."
    seconds, where = solution_took(number).get(name(source), (0.0, ""))
    return f"About {duration(seconds)} {where}." if seconds >= LONG_S else ""


@functools.cache
def solution_took(number: str) -> dict[str, tuple[float, str]]:
    """What each cell took when the solution was run, and on what; empty for another size than now's."""
    lab = registry.find_lab(number)
    where: Mapping[str, Any] = checks.notebook(lab)["metadata"].get("run_on", {})
    if where.get("size") != detect().size:
        return {}
    on = f"on {where['cores']} cores ({where['processor']})"
    cells = checks.notebook(lab)["cells"]
    return {name(c["source"]): (c["metadata"][TOOK], on) for c in cells if TOOK in c["metadata"]}


def name(source: str) -> str:
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


def times_file() -> Path:
    return paths.results() / ".pace.json"


def remembered() -> dict[str, float]:
    """Seconds by cell, of this machine and size."""
    try:
        found = json.loads(times_file().read_bytes())
        return {key: float(value) for key, value in found[situation()].items()}
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError):
        return {}


def remember(source: str, seconds: float) -> None:
    files.write(times_file(), json.dumps({situation(): {**remembered(), name(source): round(seconds, 1)}}).encode())


def situation() -> str:
    machine = detect()
    return f"{machine.processor}, {machine.cores}, {machine.size}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes"
