"""What goes wrong with engines, docker and the set-up: how it shows, why, and what helps. The one table of causes.

    symptoms.rows("spark")                                   # all that `make doctor ARGS=--symptoms` prints
    symptoms.recognised(log.splitlines(), "vllm", "engine")  # what these lines show, the most special first

The rows stand in environment/containers/symptoms.toml, by area: an engine's name, "engine" for what any engine may
print, "docker", "spark", and "install" for the set-up.
"""

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared import paths

FILE = paths.REPO / "environment" / "containers" / "symptoms.toml"
ONE, SEVERAL, MAINTAINER = "one owner's report", "several", "maintainer"


@dataclass(frozen=True)
class Symptom:
    """One way in which things go wrong. What only a person can see has no pattern."""

    pattern: str  # a regular expression for a line of a log
    cause: str
    fix: str
    symptom: str = ""
    check: str = ""
    reports: str = ""  # ONE | SEVERAL | MAINTAINER (a maintainer's or vendor's word)
    source: str = ""


@functools.cache
def _table() -> Mapping[str, tuple[Symptom, ...]]:
    areas = tomllib.loads(FILE.read_text())
    return {area: tuple(Symptom(**row) for row in rows) for area, rows in areas.items()}


def rows(*areas: str) -> tuple[Symptom, ...]:
    """The rows of these areas, in the order in which they are given; none of an area that has none."""
    return tuple(row for area in areas for row in _table().get(area, ()))


def recognised(lines: Sequence[str], *areas: str) -> list[tuple[Symptom, str]]:
    """Each row of these areas that a line shows, with the first such line; in the rows' order."""
    found = []
    for row in rows(*areas):
        line = next((line for line in lines if row.pattern and re.search(row.pattern, line, re.I)), None)
        if line is not None:
            found.append((row, line))
    return found
