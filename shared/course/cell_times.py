"""Prints before a long cell how long it will take.

    cell_times.announce_long_cells("3.3.1")         # once, in a lab's first cell

A cell is recognised by its text. The estimate is the time that it took the last time on this machine
(`results/.pace.json`), else the time that the solution's outputs took to make, with the machine of that run.
"""

import contextlib
import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.course import checks, registry
from shared.errors import LabError
from shared.hardware.machine import detect

LONG_S = 20  # shorter cells are not announced
TOOK = "took_s"  # metadata of a solution's cell, written by environment/run_notebook.py

_called: dict[str, Callable[[Any], None]] = {}  # by event: what this notebook calls at the beginning and end of a cell


def announce_long_cells(number: str) -> None:
    """Announce every long cell of this notebook from now on. Does nothing outside a notebook."""
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

    for event, call in (("pre_run_cell", before), ("post_run_cell", after)):
        # The first cell may run again. A second call would then announce each cell twice.
        if (earlier := _called.get(event)) in shell.events.callbacks[event]:
            shell.events.unregister(event, earlier)
        shell.events.register(event, call)
        _called[event] = call


def announcement(number: str, source: str) -> str:
    """The line to print before this cell; "" if it is short or unknown."""
    here = remembered().get(name(source))
    if here is not None:
        return f"About {duration(here)}, as last time on this machine."
    seconds, where = solution_took(number).get(name(source), (0.0, ""))
    return f"About {duration(seconds)} {where}." if seconds >= LONG_S else ""


@functools.cache
def solution_took(number: str) -> dict[str, tuple[float, str]]:
    """Seconds of each cell in the solution's own run, and the machine. Empty if that run had another size."""
    lab = registry.find_lab(number)
    where: Mapping[str, Any] = checks.notebook(lab)["metadata"].get("run_on", {})
    if where.get("size") != detect().size:
        return {}
    on = f"on {where['cores']} cores ({where['processor']})"
    cells = checks.notebook(lab)["cells"]
    return {name(c["source"]): (c["metadata"][TOOK], on) for c in cells if TOOK in c["metadata"]}


def name(source: str) -> str:
    """A hash of a cell's text, by which the cell is recognised."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:16]


def times_file() -> Path:
    return paths.results() / ".pace.json"


def remembered() -> dict[str, float]:
    """Seconds by cell name, on this machine at this size. Empty if the file is missing or damaged."""
    try:
        return {key: float(value) for key, value in stored()[situation()].items()}
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError):
        return {}


def stored() -> dict[str, Any]:
    """What the file holds, by situation."""
    try:
        found = json.loads(times_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def remember(source: str, seconds: float) -> None:
    """Record how long a cell took on this machine. Raises LabError if the file can't be written."""
    here = {**remembered(), name(source): round(seconds, 1)}
    files.write(times_file(), json.dumps({**stored(), situation(): here}).encode())


def situation() -> str:
    """What decides how long a cell takes: the machine, and the size of its measurements."""
    machine = detect()
    return f"{machine.processor}, {machine.cores}, {machine.size}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes"
