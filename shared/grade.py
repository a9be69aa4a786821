"""For instructors: many students' results at a glance.

    make grade FOLDER=submissions           # a table, and submissions/grades.csv

FOLDER holds a folder for each student, with that student's `results/` and notebooks somewhere in it. Nothing of
theirs is run and nothing there is changed: plain files of a reasonable size are copied to a temporary folder, and a
process of its own, with limits on memory and time, judges the copy. So what is broken or hostile is named as that
student's problem, and the others are graded all the same.
"""

import argparse
import contextlib
import csv
import hashlib
import io
import json
import os
import re
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared import course, files, ledgers, milestones, paths, results, tally
from shared.course import Lab
from shared.errors import LabError
from shared.plots import Table
from shared.side_by_side import aligned, plain

DEEPEST = 4  # folders below a student's own
FILE_BYTES, ALL_BYTES, ALL_FILES = 64 * 2**20, 512 * 2**20, 5000
JUDGE_S, JUDGE_BYTES = 120, 4 * 2**30
RESULT = re.compile(r"\d+\.\d+\.\d+(\.exercises)?\.json|report\.(html|md)")
RAW = re.compile(r"[\w.-]+\.json\.gz")
NOTEBOOK = re.compile(r"lab-\d+\.\d+\.\d+[\w.-]*\.ipynb")


@dataclass(frozen=True)
class Row:
    """One student's lab."""

    student: str
    lab: str
    claims: str = ""
    alone: int = 0  # exercises right without a hint
    hinted: int = 0  # right after hints
    revealed: int = 0  # the solution was shown
    open: int = 0
    machine: str = ""
    problems: str = ""


def grade(folder: Path) -> list[Row]:
    """A row for each student and lab. Raises LabError if there is no student."""
    try:
        students = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as e:
        raise LabError(f"{paths.show(folder)} can't be read: {e.strerror}.", "make grade FOLDER=submissions") from None
    students = [entry for entry in students if entry.name[0] != "." and (entry.is_symlink() or entry.is_dir())]
    if not students:
        raise LabError(f"{paths.show(folder)} holds no folders.", "one folder for each student, with their results/")
    found: list[tuple[Row, ...]] = []
    owners: dict[str, list[str]] = {}  # hash of a raw file → students who have it
    for entry in tqdm(students, "Grading", unit="student", leave=False):
        name = entry.name.encode(errors="surrogateescape").decode(errors="replace")
        if entry.is_symlink():
            found.append((Row(name, "", problems="a link, not a folder: left out"),))
            continue
        with tempfile.TemporaryDirectory(prefix="grade-") as copy:
            faults = collect(Path(entry.path), Path(copy))
            for digest in hashes(Path(copy)):
                owners.setdefault(digest, []).append(name)
            found.append(judged(name, Path(copy), faults))
    same = {name: sorted({other for names in owners.values() if name in names for other in names} - {name})
            for names in owners.values() for name in names}  # fmt: skip
    return [
        Row(**{**asdict(row), "problems": joined(row.problems, f"raw data identical to that of {', '.join(others)}")})
        if (others := same.get(row.student))
        else row
        for rows in found
        for row in rows
    ]


def collect(student: Path, copy: Path) -> list[str]:
    """Copy what is judged: results/ and notebooks/. Returns what was left out, and why."""
    faults, taken, size = [], 0, 0
    for file, target in wanted(student):
        about = os.lstat(file)
        name = str(file.relative_to(student))
        if stat.S_ISLNK(about.st_mode) or not stat.S_ISREG(about.st_mode):
            faults.append(f"{name} is {'a link' if stat.S_ISLNK(about.st_mode) else 'no file'}: left out")
        elif about.st_size > FILE_BYTES or size + about.st_size > ALL_BYTES or taken >= ALL_FILES:
            faults.append(f"{name} is too large or one too many: left out")
        else:
            place = copy / target
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copy2(file, place, follow_symlinks=False)
            except OSError as e:
                faults.append(f"{name} can't be read: {e.strerror}")
            taken, size = taken + 1, size + about.st_size
    return faults


def wanted(student: Path) -> Iterator[tuple[Path, Path]]:
    """What may be of interest, with its place in the copy. Links to folders are not entered."""
    homes: list[Path] = []
    for at, folders, names in os.walk(student, followlinks=False):
        here = Path(at)
        if len(here.relative_to(student).parts) >= DEEPEST:
            folders.clear()
        folders.sort()
        if any(RESULT.fullmatch(name) for name in names):
            homes.append(here)
        yield from ((here / name, Path("notebooks") / name) for name in sorted(names) if NOTEBOOK.fullmatch(name))
        yield from ((here / name, Path("links") / name) for name in folders if os.path.islink(here / name))
    if not homes:
        return
    home = min(homes, key=lambda path: (len(path.parts), str(path)))
    yield from ((home / name, Path("results") / name) for name in sorted(os.listdir(home)) if RESULT.fullmatch(name))
    for lab in course.LABS:
        raw = home / lab
        if raw.is_dir() and not raw.is_symlink():
            yield from ((raw / n, Path("results") / lab / n) for n in sorted(os.listdir(raw)) if RAW.fullmatch(n))


def hashes(copy: Path) -> set[str]:
    """Of the raw data of every load: two students can't have measured the same nanoseconds."""
    return {hashlib.sha256(file.read_bytes()).hexdigest() for file in copy.glob("results/*/load--*.json.gz")}


def judged(name: str, copy: Path, faults: Sequence[str]) -> tuple[Row, ...]:
    """The copy's rows, from a process that may fail."""

    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (JUDGE_BYTES, JUDGE_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (JUDGE_S, JUDGE_S))

    command = [sys.executable, "-m", "shared.grade", "--one", str(copy)]
    env = {**os.environ, "LABS_RESULTS": str(copy / "results")}
    try:
        done = subprocess.run(command, capture_output=True, env=env, timeout=JUDGE_S, preexec_fn=limits)
        rows = json.loads(done.stdout.splitlines()[-1])
        return tuple(Row(**{**row, "student": name, "problems": joined(*faults, row["problems"])}) for row in rows)
    except subprocess.TimeoutExpired:
        why = f"took longer than {JUDGE_S} s"
    except (ValueError, IndexError, TypeError, KeyError):
        why = f"ended with {(done.stderr.decode(errors='replace').strip().splitlines() or ['nothing said'])[-1]}"
    return (Row(name, "", problems=joined(*faults, f"judging it {why}")),)


def one(copy: Path) -> list[Row]:
    """The rows of one student's copy; runs in a process of its own."""
    return [row(lab, copy) for lab in course.LABS.values() if lab.claims]


def row(lab: Lab, copy: Path) -> Row:
    read = ledgers.read(results.ledger_file(lab.number))
    with contextlib.redirect_stdout(io.StringIO()):  # it says the same faults
        milestone = milestones.check(lab.number, any_code=True)
    problems = [*read.faults, *(c.evidence for c in milestone.claims if c.evidence.startswith("refused: "))]
    sources = [e["provenance"] for e in read.entries.values() if e["kind"] == "measured"]
    if any(source.get("code_sha256") != results.code() for source in sources):
        problems.append("measured by other code than this checkout's")
    counts = tally.read(lab.number)
    states = [counts.get(e.function, tally.FRESH) for e in lab.exercises]
    right = [s for s in states if s["outcome"] == "correct"]
    untouched = stubs(lab, copy)
    problems += [
        f"{e.function} is noted as right, but its cell is untouched"
        for e in lab.exercises
        if e.cell in untouched and counts.get(e.function, tally.FRESH)["outcome"] == "correct"
    ]
    machines = sorted({str(s["processor"]) for s in sources if "processor" in s})
    hosts = {str(s.get("host")) for s in sources}
    return Row(
        "", lab.number, f"{sum(c.ok for c in milestone.claims)} of {len(milestone.claims)}",
        sum(not s["hints"] and not s["revealed"] for s in right),
        sum(s["hints"] > 0 and not s["revealed"] for s in right),
        sum(s["revealed"] for s in states),
        sum(s["outcome"] != "correct" and not s["revealed"] for s in states),
        "; ".join(machines) + (f" ({len(hosts)} hosts)" if len(hosts) > 1 else ""),
        joined(*problems),
    )  # fmt: skip


def stubs(lab: Lab, copy: Path) -> set[str]:
    """The exercises' cells that a student's notebook still has as the lab gave them; its code is read, not run."""
    found: set[str] = set()
    for file in (copy / "notebooks").glob(f"lab-{lab.number}*.ipynb"):
        with contextlib.suppress(OSError, ValueError, RecursionError, TypeError, AttributeError, LookupError):
            for cell in json.loads(file.read_bytes())["cells"]:
                source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
                if f'raise NotImplementedError("{cell["id"]}:' in source:
                    found.add(cell["id"])
    return found


def joined(*problems: str) -> str:
    return "; ".join(problem for problem in problems if problem)


def write_csv(rows: Sequence[Row], file: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([field.name for field in fields(Row)])
    writer.writerows([[cell(value) for value in asdict(row).values()] for row in rows])
    files.write(file, text.getvalue().encode())


def cell(value: Any) -> Any:
    """A spreadsheet takes what begins so for a formula; an apostrophe makes it text."""
    if not isinstance(value, str):
        return value
    text = "".join(c if c.isprintable() else " " for c in value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m shared.grade", description=__doc__.split("\n", 1)[0])
    parser.add_argument("folder", help="a folder that holds one for each student")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="where the table goes (FOLDER/grades.csv)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one:
        print(json.dumps([asdict(row) for row in one(Path(asked.folder))]))
        return 0
    try:
        if not asked.folder:
            raise LabError("Whose work is to be graded?", "make grade FOLDER=submissions")
        folder = Path(asked.folder).expanduser()
        rows = grade(folder)
        file = asked.csv or folder / "grades.csv"
        write_csv(rows, file)
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    header = ("student", "lab", "claims", "alone", "hinted", "revealed", "open", "machine", "problems")
    print(aligned(Table("", header, [[plain(str(value)) for value in asdict(row).values()] for row in rows])))
    print(f"\nwritten: {paths.show(file)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
