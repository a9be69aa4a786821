"""Known failures of engines, docker and the set-up: symptom, cause and fix. This is the only table of causes.

    symptoms.rows("spark")                                   # the rows that `make doctor ARGS=--symptoms` prints
    symptoms.recognised(log.splitlines(), "vllm", "engine")  # rows that match, the most specific first

The rows are in environment/containers/symptoms.toml, by area: an engine's name, "engine" for messages of any engine,
"docker", "spark", and "install" for the set-up.
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
    """One known failure. If it leaves no line in a log, `pattern` is empty."""

    pattern: str  # a regular expression for a line of a log
    cause: str
    fix: str
    symptom: str = ""
    check: str = ""
    reports: str = ""  # ONE | SEVERAL | MAINTAINER (or a vendor)
    source: str = ""


def shown(line: str, limit: int = 300) -> str:
    """A line for a message: if it is longer than `limit`, without its middle. docker's reason stands at the end."""
    line = line.rstrip()
    return line if len(line) <= limit else f"{line[: limit // 2 - 2]} … {line[-limit // 2 + 1 :]}"


@functools.cache
def _table() -> Mapping[str, tuple[Symptom, ...]]:
    areas = tomllib.loads(FILE.read_text())
    return {area: tuple(Symptom(**row) for row in rows) for area, rows in areas.items()}


def rows(*areas: str) -> tuple[Symptom, ...]:
    """The rows of these areas, in the order given. An area without rows adds none."""
    return tuple(row for area in areas for row in _table().get(area, ()))


def recognised(lines: Sequence[str], *areas: str) -> list[tuple[Symptom, str]]:
    """Each row of these areas whose pattern matches a line, with the first such line, in the order of the rows."""
    found = []
    for row in rows(*areas):
        line = next((line for line in lines if row.pattern and re.search(row.pattern, line, re.I)), None)
        if line is not None:
            found.append((row, line))
    return found
