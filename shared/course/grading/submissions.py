"""Copies what students handed in to where it can be graded.

    for student in students(Path("submissions")):
        handed = take(student, Path(empty_folder))     # handed.problems: what was left out, and why

A submission can't be trusted. Links are not followed, pipes and devices not opened, and only files with known names
and limited sizes are copied. Their times are kept, because a claim compares them.
"""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shared import files, paths
from shared.course import registry
from shared.errors import LabError
from shared.report.compare import one_line

DEEP = 3  # levels of folders below the student's
FOLDERS = 2000
FILES = 2000  # in one lab's folder: each result has two
FILE_LIMIT = 64 * 2**20
STUDENT_LIMIT = 512 * 2**20
LEDGER = re.compile(r"\d+\.\d+\.\d+(\.exercises)?\.json")
NOTEBOOK = ".ipynb"  # whatever its name is: students rename notebooks
NOTEBOOKS = 200
STARTER = {lab.starter for lab in registry.LABS.values() if lab.starter}  # folders of starter code: gateway, webui
EXERCISE_FILES = {Path(e.file).name: e.file for lab in registry.LABS.values() for e in lab.exercises if e.file}
CODE = (".py", ".js", ".css", ".html", ".toml")
CODE_FILES = 200  # in one folder of starter code
REPORTS = ("report.html", "report.md")
OURS = ("solutions", "shared/course")  # ignored: they are there if a student handed in the whole project

Prints = dict[tuple[str, str], str]  # the name of a load's raw file, by its lab and its SHA-256


@dataclass
class Handed:
    """One student's submission."""

    student: Path
    copy: Path  # contains results/, notebooks/<number>/ and starter/<number>/gateway/
    problems: list[str] = field(default_factory=list)
    prints: Prints = field(default_factory=dict)
    anything: bool = False
    size: int = 0

    def take(self, entry: os.DirEntry[str], to: Path) -> bool:
        """Copy one file. Returns whether it was copied; if not, the reason is added to the problems."""
        try:
            fault = self._fault(entry.stat(follow_symlinks=False))
            if not fault:
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(entry.path, to, follow_symlinks=False)
                self.size += to.stat().st_size
                self.anything = True
        except OSError as e:
            if e.errno in files.FULL:
                raise LabError(
                    f"{paths.show(self.copy)} can't be written: {e.strerror}.",
                    "free some space, or choose another folder for the copy: export TMPDIR=~/tmp",
                ) from None
            fault = f"can't be read: {e.strerror}"
        if fault:
            self.problems.append(f"{self.name(entry.path)} {fault}")
        return not fault

    def _fault(self, status: os.stat_result) -> str:
        if not stat.S_ISREG(status.st_mode):
            return kind(status.st_mode)
        if status.st_size > FILE_LIMIT:
            return f"is too large: {status.st_size / 2**20:,.0f} MiB (the limit is {FILE_LIMIT >> 20} MiB)"
        if self.size + status.st_size > STUDENT_LIMIT:
            return f"is left out: all files together exceed {STUDENT_LIMIT >> 20} MiB"
        return ""

    def name(self, path: str | Path) -> str:
        """A path inside the student's folder, as it is shown."""
        inside = str(Path(path).relative_to(self.student))
        return "the folder" if inside == "." else printable(inside)


def students(folder: Path) -> tuple[list[Path], list[str]]:
    """(the students' folders, the names of other files). Raises LabError if there is no folder of a student."""
    fix = "name the folder that contains one folder per student: make grade FOLDER=submissions"
    try:
        there = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
        found = [e for e in there if e.is_dir()]  # links too: `take` reports them
    except OSError as e:
        raise LabError(f"{printable(paths.show(folder))} can't be read: {e.strerror}.", fix) from None
    if not found:
        raise LabError(f"{printable(paths.show(folder))} contains no folder of a student.", fix)
    return found, [printable(e.name) for e in there if e not in found and e.suffix != ".csv"]


def take(student: Path, copy: Path) -> Handed:
    """Copy the results that are nearest to the top, every notebook and the starter code of one student.

    Raises LabError if the copy can't be written.
    """
    handed = Handed(student, copy)
    if student.is_symlink():
        handed.problems.append(f"the folder {kind(stat.S_IFLNK)}")
        return handed
    try:
        look_through(handed)
    except OSError as e:
        handed.problems.append(f"the submission can't be read: {e.strerror}")
    handed.problems = list(dict.fromkeys(handed.problems))
    return handed


def look_through(handed: Handed) -> None:
    results: list[os.DirEntry[str]] = []
    notebooks = starters = 0
    taken: list[Path] = []  # folders of starter code
    for folder, entries in folders(handed):
        if any(holds_results(e) for e in entries):
            if results:
                handed.problems.append(f"there are more results in {handed.name(folder)}: ignored")
            results = results or entries
        inside = f"/{folder.relative_to(handed.student)}/"
        if any(f"/{ours}/" in inside for ours in OURS):
            continue
        for entry in entries:
            if entry.is_symlink():
                handed.problems.append(f"{handed.name(entry.path)} {kind(stat.S_IFLNK)}")
            elif entry.name.lower().endswith(NOTEBOOK):
                notebooks += 1
                if notebooks <= NOTEBOOKS:
                    handed.take(entry, handed.copy / "notebooks" / str(notebooks) / entry.name)
            elif entry.name in STARTER and entry.is_dir(follow_symlinks=False):
                starters += 1
                taken.append(Path(entry.path))
                take_code(handed, taken[-1], handed.copy / "starter" / str(starters) / entry.name)
            elif entry.name in EXERCISE_FILES and not any(folder.is_relative_to(one) for one in taken):
                starters += 1  # a file alone, or in a folder that was renamed
                handed.take(entry, handed.copy / "starter" / str(starters) / EXERCISE_FILES[entry.name])
    if notebooks > NOTEBOOKS:
        handed.problems.append(f"there are {notebooks:,} notebooks: only {NOTEBOOKS} are read")
    if not results:
        handed.problems.append(f"no results: no folder 3.3.1 with results was found within {DEEP} levels of folders")
    for entry in sorted(results, key=lambda e: e.is_dir(follow_symlinks=False)):
        if LEDGER.fullmatch(entry.name) or entry.name in REPORTS:
            handed.take(entry, handed.copy / "results" / entry.name)
        elif entry.name in registry.LABS and entry.is_dir(follow_symlinks=False):
            take_results(handed, entry)


def holds_results(entry: os.DirEntry[str]) -> bool:
    """Whether a folder with this entry is a results folder: the entry is a lab's results or its exercise attempts.

    A folder named 3.3.1 alone proves nothing: it may contain a notebook, or results/3.3.1.
    """
    if entry.name not in registry.LABS or not entry.is_dir(follow_symlinks=False):
        return bool(LEDGER.fullmatch(entry.name))
    try:
        with os.scandir(entry.path) as there:
            return any(is_result(one) for one in there)
    except OSError:  # `take_results` reports it
        return True


def is_result(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith((".json", ".json.gz"))


def take_results(handed: Handed, folder: os.DirEntry[str]) -> None:
    """Copy the results of one lab, and record the hash of each load's raw data."""
    raw = [entry for entry in listed(handed, Path(folder.path)) if is_result(entry)]
    if len(raw) > FILES:
        handed.problems.append(f"{handed.name(folder.path)} contains {len(raw):,} files: only {FILES:,} are read")
    for entry in raw[:FILES]:
        new = handed.copy / "results" / folder.name / entry.name
        is_load = entry.name.startswith("load--") and entry.name.endswith(".gz")
        if handed.take(entry, new) and is_load and new.stat().st_size:
            with new.open("rb") as data:
                handed.prints[folder.name, hashlib.file_digest(data, "sha256").hexdigest()] = entry.name


def take_code(handed: Handed, folder: Path, to: Path) -> None:
    """Copy the code in one folder of starter code and in the folders below it."""
    found: list[os.DirEntry[str]] = []
    below = [folder]
    for _ in range(FOLDERS):
        if not below or len(found) > CODE_FILES:
            break
        for entry in listed(handed, below.pop()):
            if entry.is_dir(follow_symlinks=False):
                below += [] if entry.name.startswith((".", "__")) else [Path(entry.path)]
            elif entry.name.endswith(CODE):
                found.append(entry)
    if len(found) > CODE_FILES:
        handed.problems.append(f"{handed.name(folder)} contains more than {CODE_FILES} files: the rest is ignored")
    for entry in found[:CODE_FILES]:
        handed.take(entry, to / Path(entry.path).relative_to(folder))


def folders(handed: Handed) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """A student's folders, each with its entries, from the top down. Hidden folders are skipped."""
    level = [handed.student]
    seen = 0
    for _ in range(DEEP + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > FOLDERS:
                handed.problems.append(f"more than {FOLDERS:,} folders: the rest is ignored")
                return
            entries = listed(handed, folder)
            yield folder, entries
            below += [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
        level = below


def listed(handed: Handed, folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries by name. One that can't be read has none, and is added to the problems."""
    try:
        with os.scandir(folder) as there:
            return sorted(there, key=lambda entry: entry.name)
    except OSError as e:
        handed.problems.append(f"{handed.name(folder)} can't be read: {e.strerror}")
        return []


def kind(mode: int) -> str:
    """What a file is that will not be opened, as the end of a sentence."""
    return "is a link: not followed" if stat.S_ISLNK(mode) else "is not a regular file: not opened"


def printable(name: str) -> str:
    """A name on one line of printable characters. Other bytes and characters are escaped as in Python."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return one_line("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
