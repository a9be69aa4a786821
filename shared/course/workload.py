"""How long a lab takes a student: reading, exercises and waiting, section by section.

    show(lab.workload())

A section is the part of the notebook under one heading `## …`. A section whose heading ends with "(extra)" is optional:
it is not counted in the hours that the course's outline plans.
"""

import re
from dataclasses import dataclass
from typing import Any

from shared.course import checks
from shared.course.cell_times import TOOK
from shared.course.registry import Lab
from shared.report.table import Table

# People read non-fiction silently at about 238 words a minute (Brysbaert, "How many words do we read per minute?",
# Journal of Memory and Language 109, 2019). They read a text to learn from more slowly, and code line by line.
WORDS_PER_MINUTE = 150
CODE_LINES_PER_MINUTE = 10
HEADING = re.compile(r"^## (.+)$", re.M)
EXTRA = "(extra)"


@dataclass
class Section:
    """One section of a lab, in minutes."""

    title: str
    reading: float = 0.0
    exercises: float = 0.0
    waiting: float = 0.0

    @property
    def extra(self) -> bool:
        return self.title.endswith(EXTRA)

    @property
    def minutes(self) -> float:
        return self.reading + self.exercises + self.waiting


def sections(lab: Lab) -> list[Section]:
    """The sections of the lab's solution. Waiting is the time that its cells took in the solution's own run."""
    minutes = {exercise.cell: exercise.minutes for exercise in lab.exercises}
    found = [Section("Opening")]
    for cell in checks.notebook(lab)["cells"]:
        if "solution-only" in cell["metadata"].get("tags", ()):
            continue
        text = cell["source"]
        if cell["cell_type"] == "markdown":
            if heading := HEADING.search(text):
                found.append(Section(heading[1].strip()))
            found[-1].reading += len(re.findall(r"\w+", text)) / WORDS_PER_MINUTE
        elif cell["id"] in minutes:
            found[-1].exercises += minutes[cell["id"]]
        else:
            found[-1].reading += len(text.splitlines()) / CODE_LINES_PER_MINUTE
            found[-1].waiting += cell["metadata"].get(TOOK, 0) / 60
    return found


def core_hours(lab: Lab) -> float:
    """The hours of all sections that are not extra."""
    return sum(section.minutes for section in sections(lab) if not section.extra) / 60


def workload(lab: Lab) -> Table:
    """The minutes of each section, and the sums of the core and of the extra sections."""
    found = sections(lab)
    rows = [row(section.title, [section]) for section in found]
    core, extra = ([section for section in found if section.extra is kind] for kind in (False, True))
    rows.append(row("**core**", core))
    if extra:
        rows.append(row("**extra**", extra))
    title = f"What this lab takes, in minutes (the outline plans {60 * lab.outline_hours:.0f})"
    return Table(title, ("section", "reading", "exercises", "waiting", "together"), rows)


def row(title: str, those: list[Section]) -> tuple[str, ...]:
    """A row with the sums of these sections' minutes."""
    parts: list[Any] = [
        sum(getattr(one, name) for one in those) for name in ("reading", "exercises", "waiting", "minutes")
    ]
    return (title, *(f"{part:.0f}" for part in parts))
