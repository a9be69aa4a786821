"""Grades one student's results, notebooks and starter code from a copy, for shared.course.grading.grade.

    main(copy, rows, errors, environ)     # reads copy/results, /notebooks, /starter; writes the rows as JSON

`main` runs in a process of its own with limited memory and time, because its input can't be trusted. Notebooks and
starter code are read as text and never run. Results of other code than this checkout's count, with a note.
"""

import contextlib
import io
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.course import attempts, milestones, registry
from shared.course.evidence import FAILS, NOT_RUN, ClaimResult, count
from shared.course.grading import handed_in_code
from shared.course.registry import Lab
from shared.errors import LabError
from shared.report.compare import one_line
from shared.results import ledger, provenance

# What is imported from the rooms of the labs on first use.
MODULES = [f"shared.course.{lab.room}.claims" for lab in registry.LABS.values() if lab.room]
MEMORY = 4 * 2**30
CPU_S = 60


@dataclass(frozen=True)
class Grade:
    """One lab of one student: a row of the table."""

    student: str
    lab: str
    claims: str
    alone: str = ""  # number of exercises solved without a hint; the four counts add up to all exercises
    hinted: str = ""
    revealed: str = ""
    open: str = ""
    machine: str = ""
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def grade_lab(lab: Lab, copy: Path) -> Grade:
    """Grade one lab. Its results are in LABS_RESULTS, inside `copy`."""
    problems: list[str] = []
    notes: list[str] = []
    entries: dict[str, Any] = {}
    claims = f"0 of {len(lab.claims)}"
    with contextlib.redirect_stdout(io.StringIO()) as printed:  # reading a ledger prints which of its files are damaged
        try:
            entries = ledger.load_results(lab.number)
            found = milestones.check(lab.number, any_code=True).claims
            claims = count(found).replace(" hold", "")  # the column's title has the word
            problems += reasons(found, FAILS)
            notes += reasons(found, NOT_RUN)
        except LabError as e:
            problems.append(str(e).splitlines()[0])
    other = sum(
        entry["provenance"].get("code_sha256") != provenance.code_sha256(lab.number) for entry in entries.values()
    )
    if other:
        notes.append(f"{other} of {len(entries)} results were made by other code than this checkout's")
    ways = solved(lab)
    alone, hinted, revealed, left = (str(ways.count(way)) for way in ("alone", "hinted", "revealed", "open"))
    code = handed_in_code.problems(lab, copy)
    problems = [*printed.getvalue().splitlines(), *problems, *attempts_faults(lab), *code]
    here = f"{paths.show(copy)}/"
    told = tuple(one_line(one.replace(here, "")) for one in problems)
    return Grade("", lab.number, claims, alone, hinted, revealed, left, machines(entries), told, tuple(notes))


def reasons(claims: Sequence[ClaimResult], outcome: str) -> list[str]:
    """Why claims have this outcome: each reason once, with the claims' places in the milestone."""
    why: dict[str, list[str]] = {}
    for number, claim in enumerate(claims, 1):
        if claim.outcome == outcome:
            why.setdefault(claim.evidence, []).append(str(number))
    return [f"claim{'s' if len(which) > 1 else ''} {', '.join(which)}: {reason}" for reason, which in why.items()]


def solved(lab: Lab) -> list[str]:
    """How each exercise was solved, by the recorded attempts. It counts as revealed once the solution was shown."""
    counts = attempts.read_attempts(lab.number)
    ways = []
    for exercise in lab.exercises:
        one = counts.get(exercise.function, attempts.FRESH)
        right = "hinted" if one["hints"] else "alone"
        ways.append("revealed" if one["revealed"] else right if one["outcome"] == "correct" else "open")
    return ways


def machines(entries: dict[str, Any]) -> str:
    """The processors that the results name, and how many hosts they come from."""
    sources = [entry["provenance"] for entry in entries.values()]
    processors = sorted({one_line(str(source.get("processor", "unknown"))) for source in sources})
    hosts = {str(source.get("host")) for source in sources}
    return one_line(", ".join(processors)) + (f" ({len(hosts)} hosts)" if len(hosts) > 1 else "")


def attempts_faults(lab: Lab) -> Iterator[str]:
    """A problem if the file of exercise attempts is damaged."""
    file = attempts.attempts_file(lab.number)
    stored = handed_in_code.parsed_json(file)
    if file.exists() and (not isinstance(stored, dict) or stored.keys() != attempts.read_attempts(lab.number).keys()):
        yield f"{file.name} is damaged, or contains entries that no check writes"


def limit() -> None:
    """Limit this process's memory and CPU time, and turn off core dumps."""
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main(copy: Path, rows: Path, errors: Path, environ: Mapping[str, str]) -> None:
    """Grade the student whose copy it is, with these environment variables. Error messages go into `errors`."""
    with errors.open("wb") as file:
        os.dup2(file.fileno(), sys.stderr.fileno())
    limit()
    os.environ.clear()
    os.environ.update(environ, LABS_RESULTS=str(copy / "results"))
    tempfile.tempdir = None  # TMPDIR is another one now
    rows.write_text(json.dumps([asdict(grade_lab(lab, copy)) for lab in registry.LABS.values() if lab.claims]))
