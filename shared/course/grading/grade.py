"""Grades the results and notebooks of many students, one after the other.

    make grade FOLDER=submissions                          # a folder per student, named as the student
    python -m shared.course.grading.grade submissions --csv grades.csv    # default: submissions/grades.csv

For each lab the table shows how many claims of its milestone hold, how many could not be run on the student's machine,
and how the exercises were solved. Claims are numbered in the order of the milestone. Collect the submissions as
archives, because these keep the times of files: a report must be newer than its results.

No code of a student runs. A submission is copied (shared.course.grading.submissions) and graded by a process with
limited memory and time, so a broken or hostile one costs only its owner's row, and the row names the reason. These
processes are forks of one that has imported everything, because the imports take longer than the grading. Results of
other code than this checkout's count, with a note, because the course may have changed since. A person should look at
each problem.
"""

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import astuple, replace
from pathlib import Path

from tqdm import tqdm

from shared import files, paths
from shared.course import registry
from shared.course.grading import one_student
from shared.course.grading.one_student import CPU_S, Grade
from shared.course.grading.submissions import Prints, printable, students, take
from shared.course.registry import Lab
from shared.errors import LabError
from shared.report.compare import one_line
from shared.report.table import Table

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([one_student.__name__, *one_student.MODULES])
WALL_S = 120.0
MOST = 20  # problems that are listed for one student
FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")  # a cell that a spreadsheet would take for a formula
HEADER = ("student", "lab", "claims", "right alone", "with hints", "revealed", "open", "machine")


def cells(grade: Grade) -> tuple[str, ...]:
    """The row without its problems and notes."""
    return astuple(grade)[: len(HEADER)]


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for the temporary folders of all students. It goes at the end.

    Ctrl-C can come while one of those is made or removed, and would leave it behind.
    """
    folder = Path(tempfile.gettempdir()) / f"grade-{secrets.token_hex(8)}"
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judge_student(copy: Path) -> list[Grade]:
    """Grade every lab of one student in a process of its own. Raises LabError if that process fails."""
    # All of its files go with this folder, even if it is killed.
    with tempfile.TemporaryDirectory(dir=copy) as own:
        rows, errors = Path(own) / "rows.json", Path(own) / "stderr"
        judge = FORKS.Process(target=one_student.main, args=(copy, rows, errors, {**os.environ, "TMPDIR": own}))
        judge.start()
        try:
            judge.join(WALL_S)
            if judge.exitcode is None:
                raise LabError(f"grading took more than {WALL_S:.0f} s")
        finally:
            judge.kill()
            judge.join()
        if judge.exitcode < 0:
            name = signal.Signals(-judge.exitcode).name
            after = f", after {CPU_S} s of CPU time" if name == "SIGXCPU" else ""
            raise LabError(f"grading was ended by {name}{after}")
        if judge.exitcode:
            lines = errors.read_text(errors="replace").split("\n") if errors.exists() else []
            raise LabError(
                f"grading failed: {one_line(next((line for line in reversed(lines) if line), 'no error message'))}"
            )
        found = json.loads(rows.read_bytes())
    return [Grade(**{**row, "problems": tuple(row["problems"]), "notes": tuple(row["notes"])}) for row in found]


def graded(student: Path, scratch: Path) -> tuple[list[Grade], Prints]:
    """All rows of one student, and the hashes of their raw data. Temporary files are in `scratch`."""
    written = [lab for lab in registry.LABS.values() if lab.claims]
    with tempfile.TemporaryDirectory(dir=scratch) as copy:
        handed = take(student, Path(copy))
        problems = handed.problems
        try:
            rows = judge_student(handed.copy) if handed.anything else [nothing(lab) for lab in written]
        except LabError as e:
            problems = [*problems, f"{e}: look at {printable(paths.show(student))}, then run make grade again"]
            rows = [Grade("", lab.number, "not graded") for lab in written]
    first = replace(
        rows[0], problems=few([*problems, *rows[0].problems])
    )  # problems of the whole submission, only once
    return [replace(row, student=printable(student.name)) for row in (first, *rows[1:])], handed.prints


def nothing(lab: Lab) -> Grade:
    """The row of a lab without any results."""
    return Grade("", lab.number, f"0 of {len(lab.claims)}", "0", "0", "0", str(len(lab.exercises)))


def few(problems: Sequence[str]) -> tuple[str, ...]:
    """The first 20 problems, and how many more there are."""
    more = (f"and {len(problems) - MOST} more",) if len(problems) > MOST else ()
    return (*problems[:MOST], *more)


def same_raw_data(prints: Sequence[Prints], rows: Sequence[Sequence[Grade]]) -> Iterator[Grade]:
    """The rows, with a problem for raw data that equals another student's: no two runs have the same nanoseconds."""
    for own, grades in zip(prints, rows, strict=True):
        for grade in grades:
            copied = []
            for other, theirs in zip(prints, rows, strict=True):
                alike = [own[key] for key in own.keys() & other.keys() if key[0] == grade.lab]
                if other is not own and alike:
                    copied.append(
                        f"raw data is identical to that of {theirs[0].student}: {len(alike)} loads, "
                        f"for example {printable(min(alike))}"
                    )
            yield replace(grade, problems=(*grade.problems, *few(copied)))


def grade(folder: Path, csv_file: Path) -> None:
    """Grade all students, print the table and write the CSV.

    Raises LabError if there is no student, or if the CSV can't be written.
    """
    there, others = students(folder)
    with scratch_folder() as scratch:
        found = [graded(one, scratch) for one in tqdm(there, "grading", unit="student", leave=False, disable=None)]
    grades = list(same_raw_data([prints for _, prints in found], [rows for rows, _ in found]))
    failed = save(csv_file, as_csv(grades))  # before anything is printed: output can break off, as into `head`
    header = (*HEADER, "problems")
    print(Table("", header, [(*cells(one), str(len(one.problems))) for one in grades]).markdown())
    for one in grades:
        if one.problems or one.notes:
            print(f"\n{one.student}, {one.lab}")
            print("\n".join([*(f"  ✘ {text}" for text in one.problems), *(f"  - {text}" for text in one.notes)]))
    if others:
        print(f"\nIgnored, because not a folder: {one_line(', '.join(others))}")
    if failed:
        raise failed
    print(f"\nwritten: {printable(paths.show(csv_file))}")


def save(file: Path, data: bytes) -> LabError | None:
    """Write the CSV, or return why it can't be written: the printed table then shows the grades all the same."""
    try:
        with files.staged(file, data) as new:
            files.commit(new, file)
    except OSError as e:
        fix = 'choose another file: make grade FOLDER=submissions ARGS="--csv ~/grades.csv"'
        return LabError(f"{printable(paths.show(file))} can't be written: {e.strerror}.", fix)
    return None


def as_csv(grades: Sequence[Grade]) -> bytes:
    """The table as CSV. A cell that a spreadsheet would take for a formula gets a ' in front."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow((*HEADER, "problems", "notes"))
    for one in grades:
        row = (*cells(one), "; ".join(one.problems), "; ".join(one.notes))
        table.writerow([f"'{cell}" if FORMULA.match(cell) else cell for cell in row])
    return text.getvalue().encode()


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m shared.course.grading.grade", description="Grade what many students handed in."
    )
    parser.add_argument("folder", help="contains one folder per student")
    parser.add_argument(
        "--csv", type=Path, metavar="FILE", help="where to write the table (default: FOLDER/grades.csv)"
    )
    asked = parser.parse_args(arguments)
    try:
        if not asked.folder:
            raise LabError(
                "No folder is given.", "name the one with a folder per student: make grade FOLDER=submissions"
            )
        folder = Path(asked.folder).expanduser()
        grade(folder, (asked.csv or folder / "grades.csv").expanduser())
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped: nothing was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
