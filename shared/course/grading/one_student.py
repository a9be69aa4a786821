"""Grades one student's results, notebooks and starter code from a copy, for shared.course.grading.grade.

    python -m shared.course.grading.one_student COPY     # reads COPY/results, /notebooks, /starter; prints rows as JSON

It runs as a process of its own with limited memory and time, because its input can't be trusted. Notebooks and starter
code are read as text and never run. Results of other code than this checkout's count, with a note.
"""

import ast
import contextlib
import io
import json
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.course import attempts, milestones, registry, starter
from shared.course.evidence import FAILS, NOT_RUN, ClaimResult, count
from shared.course.grading.submissions import printable
from shared.course.registry import Lab
from shared.errors import LabError
from shared.report.compare import one_line
from shared.results import ledger, provenance

Defined = ast.FunctionDef | ast.AsyncFunctionDef

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
    functions, faults = handed_in_code(lab, copy)
    stubs, not_compared = exercise_faults(lab, functions, handed_in_modules(lab, copy))
    problems = [*printed.getvalue().splitlines(), *problems, *attempts_faults(lab), *faults, *stubs]
    notes += not_compared
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
    stored = parsed(file)
    if file.exists() and (not isinstance(stored, dict) or stored.keys() != attempts.read_attempts(lab.number).keys()):
        yield f"{file.name} is damaged, or contains entries that no check writes"


def handed_in_code(lab: Lab, copy: Path) -> tuple[list[Defined], list[str]]:
    """(functions, problems): all functions that the notebooks and starter code define, and the unreadable notebooks."""
    sources: list[str] = []
    faults: list[str] = []
    for notebook in sorted((copy / "notebooks").glob(f"*/*lab-{lab.number}-*")):
        try:
            cells = parsed(notebook)["cells"]
            sources += ["".join(cell["source"]) for cell in cells if cell.get("cell_type") == "code"]
        except (LookupError, TypeError, AttributeError):
            faults.append(f"{printable(notebook.name)} is not a notebook")
    for file in sorted((copy / "starter").glob(f"*/{lab.starter}/**/*.py")) if lab.starter else ():
        sources.append(file.read_text(errors="replace"))
    return [function for source in sources for function in functions_of(source)], faults


def handed_in_modules(lab: Lab, copy: Path) -> dict[str, list[str]]:
    """The texts of the JavaScript modules that exercises are in, by the exercise's function."""
    modules = {e.function: Path(e.file).relative_to(lab.starter) for e in lab.exercises if e.file.endswith(".js")}
    return {
        name: [file.read_text(errors="replace") for file in sorted((copy / "starter").glob(f"*/{lab.starter}/{path}"))]
        for name, path in modules.items()
    }


def functions_of(source: str) -> list[Defined]:
    """The functions that a text defines. Lines with a notebook's magics are dropped; broken code has no functions."""
    source = re.sub(r"(?m)^\s*[%!].*$", "", source)
    try:
        return [node for node in ast.walk(ast.parse(source)) if isinstance(node, Defined)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def exercise_faults(
    lab: Lab, functions: Sequence[Defined], modules: Mapping[str, Sequence[str]]
) -> tuple[list[str], list[str]]:
    """(problems, notes) for the exercises that count as correct.

    It is a problem if the code handed in contains only the stub of the function, and a note if it has no such function.
    """
    counts = attempts.read_attempts(lab.number)
    right = [e for e in lab.exercises if counts.get(e.function, attempts.FRESH)["outcome"] == "correct"]
    problems, absent = [], []
    for exercise in right:
        stubs = [is_stub(function) for function in functions if function.name == exercise.function]
        if exercise.file.endswith(".js"):
            stubs = [starter.is_open_module(text, exercise) for text in modules[exercise.function]]
        if not stubs:
            absent.append(exercise.function)
        elif all(stubs):
            problems.append(f"{exercise.function} counts as correct, but the code handed in contains only its stub")
    if absent and len(absent) == len(right):
        return problems, ["exercises not compared: no notebook or code with their functions was handed in"]
    return problems, [
        f"exercises not compared, because the code handed in lacks them: {', '.join(absent)}"
    ] if absent else []


def is_stub(function: Defined) -> bool:
    """Whether the function only raises NotImplementedError."""
    body = [node for node in function.body if not isinstance(node, ast.Expr)]  # without its docstring
    try:
        return isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])
    except (IndexError, RecursionError):
        return False


def parsed(file: Path) -> Any:
    """The content of a JSON file; None if it is missing or not JSON."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def limit() -> None:
    """Limit this process's memory and CPU time, and turn off core dumps."""
    for what, most in ((resource.RLIMIT_AS, MEMORY), (resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(what)[1]
        resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def main(copy: Path) -> None:
    limit()
    os.environ["LABS_RESULTS"] = str(copy / "results")
    print(json.dumps([asdict(grade_lab(lab, copy)) for lab in registry.LABS.values() if lab.claims]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
