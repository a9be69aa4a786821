"""What students handed in, copied to where it can be judged.

    for student in students(Path("submissions")):
        handed = take(student, Path(empty_folder))     # handed.problems: what was left out, and why

It comes from outside, so it is only looked at: links are not followed, pipes and devices not opened, and of the rest
only files of known names, of known sizes, are copied. Their times are kept, for a claim compares them.
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

DEEP = 3  # folders below the student's own
FOLDERS = 2000
FILES = 2000  # of one lab: each result has two
FILE_LIMIT = 64 * 2**20
STUDENT_LIMIT = 512 * 2**20
LEDGER = re.compile(r"\d+\.\d+\.\d+(\.exercises)?\.json")
NOTEBOOK = re.compile(r"(yours-)?lab-\d+\.\d+\.\d+-.*\.ipynb", re.S)  # "yours-": as `make labs` keeps one
STARTER = {lab.starter for lab in registry.LABS.values() if lab.starter}  # folders of starter code: gateway, webui
CODE = (".py", ".js", ".css", ".html", ".toml")
CODE_FILES = 200  # of one folder
REPORTS = ("report.html", "report.md")
OURS = "solutions"  # who hands in the whole project hands in its solutions as well

Prints = dict[tuple[str, str], str]  # the name of a load's raw file, by its lab and SHA-256


@dataclass
class Handed:
    """What one student handed in."""

    student: Path
    copy: Path  # results/, notebooks/<number>/ and starter/<number>/gateway/ are in here
    problems: list[str] = field(default_factory=list)
    prints: Prints = field(default_factory=dict)
    anything: bool = False
    size: int = 0

    def take(self, entry: os.DirEntry[str], to: Path) -> bool:
        """Copy one file, unless it is none or too large."""
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
                    "free some space, or choose another folder: export TMPDIR=~/tmp",
                ) from None
            fault = f"can't be read: {e.strerror}"
        if fault:
            self.problems.append(f"{self.name(entry.path)} {fault}")
        return not fault

    def _fault(self, status: os.stat_result) -> str:
        if not stat.S_ISREG(status.st_mode):
            return kind(status.st_mode)
        if status.st_size > FILE_LIMIT:
            return f"is too large: {status.st_size / 2**20:,.0f} MiB, {FILE_LIMIT >> 20} at most"
        if self.size + status.st_size > STUDENT_LIMIT:
            return f"is left out: all files together are above {STUDENT_LIMIT >> 20} MiB"
        return ""

    def name(self, path: str | Path) -> str:
        inside = str(Path(path).relative_to(self.student))
        return "the folder" if inside == "." else printable(inside)


def students(folder: Path) -> tuple[list[Path], list[str]]:
    """One folder each, and the names of what is no folder. Raises LabError if there is none."""
    fix = "name the folder that holds one folder per student: make grade FOLDER=submissions"
    try:
        there = sorted(e for e in folder.iterdir() if not e.name.startswith("."))
        found = [e for e in there if e.is_dir()]  # a link as well: `take` names it
    except OSError as e:
        raise LabError(f"{printable(paths.show(folder))} can't be read: {e.strerror}.", fix) from None
    if not found:
        raise LabError(f"{printable(paths.show(folder))} holds no folder of a student.", fix)
    return found, [printable(e.name) for e in there if e not in found and e.suffix != ".csv"]


def take(student: Path, copy: Path) -> Handed:
    """Copy the results that lie least deep, and every notebook. Raises LabError if the copy can't be written."""
    handed = Handed(student, copy)
    if student.is_symlink():
        handed.problems.append(f"the folder {kind(stat.S_IFLNK)}")
        return handed
    try:
        look_through(handed)
    except OSError as e:
        handed.problems.append(f"it can't be looked through: {e.strerror}")
    handed.problems = list(dict.fromkeys(handed.problems))
    return handed


def look_through(handed: Handed) -> None:
    results: list[os.DirEntry[str]] = []
    notebooks = starters = 0
    for folder, entries in folders(handed):
        if any(holds_results(e) for e in entries):
            if results:
                handed.problems.append(f"more results are in {handed.name(folder)}: not looked at")
            results = results or entries
        for entry in entries:
            if entry.is_symlink():
                handed.problems.append(f"{handed.name(entry.path)} {kind(stat.S_IFLNK)}")
            elif NOTEBOOK.fullmatch(entry.name) and folder.name != OURS:
                notebooks += 1
                handed.take(entry, handed.copy / "notebooks" / str(notebooks) / entry.name)
            elif entry.name in STARTER and entry.is_dir(follow_symlinks=False) and folder.name != OURS:
                starters += 1
                take_code(handed, Path(entry.path), handed.copy / "starter" / str(starters) / entry.name)
    if not results:
        handed.problems.append(f"no results: no folder at most {DEEP} deep holds a folder 3.3.1 with results")
    for entry in sorted(results, key=lambda e: e.is_dir(follow_symlinks=False)):
        if LEDGER.fullmatch(entry.name) or entry.name in REPORTS:
            handed.take(entry, handed.copy / "results" / entry.name)
        elif entry.name in registry.LABS and entry.is_dir(follow_symlinks=False):
            take_results(handed, entry)


def holds_results(entry: os.DirEntry[str]) -> bool:
    """Whether a folder with this entry is a results folder: a lab's results, or its exercises.

    A folder 3.3.1 may as well hold a notebook, or results/3.3.1.
    """
    if entry.name not in registry.LABS or not entry.is_dir(follow_symlinks=False):
        return bool(LEDGER.fullmatch(entry.name))
    try:
        with os.scandir(entry.path) as there:
            return any(is_result(one) for one in there)
    except OSError:  # `take_results` names it
        return True


def is_result(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith((".json", ".json.gz"))


def take_results(handed: Handed, folder: os.DirEntry[str]) -> None:
    """The results of one lab, and the fingerprint of each load's raw data."""
    raw = [entry for entry in listed(handed, Path(folder.path)) if is_result(entry)]
    if len(raw) > FILES:
        handed.problems.append(f"{handed.name(folder.path)} holds {len(raw):,} files: {FILES:,} are looked at")
    for entry in raw[:FILES]:
        new = handed.copy / "results" / folder.name / entry.name
        is_load = entry.name.startswith("load--") and entry.name.endswith(".gz")
        if handed.take(entry, new) and is_load and new.stat().st_size:
            with new.open("rb") as data:
                handed.prints[folder.name, hashlib.file_digest(data, "sha256").hexdigest()] = entry.name


def take_code(handed: Handed, folder: Path, to: Path) -> None:
    """The code of one folder of starter code, folders below it included."""
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
        handed.problems.append(f"{handed.name(folder)} holds more than {CODE_FILES} files: the rest is not looked at")
    for entry in found[:CODE_FILES]:
        handed.take(entry, to / Path(entry.path).relative_to(folder))


def folders(handed: Handed) -> Iterator[tuple[Path, list[os.DirEntry[str]]]]:
    """A student's folders with what is in each, the least deep first; hidden ones are passed over."""
    level = [handed.student]
    seen = 0
    for _ in range(DEEP + 1):
        below: list[Path] = []
        for folder in level:
            seen += 1
            if seen > FOLDERS:
                handed.problems.append(f"more than {FOLDERS:,} folders: the rest is not looked at")
                return
            entries = listed(handed, folder)
            yield folder, entries
            below += [Path(e.path) for e in entries if e.is_dir(follow_symlinks=False) and e.name[0] != "."]
        level = below


def listed(handed: Handed, folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as there:
            return sorted(there, key=lambda entry: entry.name)
    except OSError as e:
        handed.problems.append(f"{handed.name(folder)} can't be read: {e.strerror}")
        return []


def kind(mode: int) -> str:
    return "is a link: not followed" if stat.S_ISLNK(mode) else "is no plain file: not opened"


def printable(name: str) -> str:
    """A name on one line of printable characters; other bytes and characters as Python writes them."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return one_line("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
