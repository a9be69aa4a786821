"""A student's history of each exercise: `results/3.3.1.exercises.json`, for the milestone and the instructor.

    {"pass_floor_ms": {"outcome": "correct", "attempts": 3, "hints": 1, "revealed": false, "uses": "own", "time": …}}

`uses` is the function that the lab's later cells use: the student's "own" or the "reference".
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared import files, paths

OUTCOMES = ("not attempted", "incorrect", "correct")
USES = ("", "own", "reference")
FRESH: Mapping[str, Any] = {"outcome": "not attempted", "attempts": 0, "hints": 0, "revealed": False, "uses": ""}

Attempts = dict[str, dict[str, Any]]


def attempts_file(lab: str) -> Path:
    return paths.results() / f"{lab}.exercises.json"


def read_attempts(lab: str) -> Attempts:
    """The history by function. A damaged file counts as empty, and a damaged entry is left out."""
    try:
        found = json.loads(attempts_file(lab).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: {**FRESH, **one} for name, one in found.items() if isinstance(one, dict) and sound({**FRESH, **one})}


def sound(one: Mapping[str, Any]) -> bool:
    """Whether an entry has the form that `add_attempt` writes."""
    counts = all(type(one[name]) is int and 0 <= one[name] < 10**6 for name in ("attempts", "hints"))
    return counts and one["outcome"] in OUTCOMES and type(one["revealed"]) is bool and one["uses"] in USES


def add_attempt(lab: str, function: str, *, attempts: int = 0, hints: int = 0, **changes: object) -> None:
    """Add to the counts of one exercise, and set the other values. Raises LabError if the file can't be written."""
    file = attempts_file(lab)
    lock, waiting = file.with_name(f".{file.name}.lock"), "Another notebook is recording an attempt; waiting for it ..."
    with files.exclusive(lock, waiting, paths.show(file)):
        there = read_attempts(lab)
        one = there.get(function, dict(FRESH))
        counted = {"attempts": one["attempts"] + attempts, "hints": one["hints"] + hints}
        there[function] = {**one, **counted, **changes, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        files.write(file, json.dumps(there, indent=1).encode())
