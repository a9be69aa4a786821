"""Makes labs/ from solutions/.

    python -m shared.course.authoring              # make labs: write labs/
    python -m shared.course.authoring --check      # make labs-check: print what differs, change nothing

In code, the lines between these two markers are the solution. In the lab they become a TODO and an error that names
the exercise:

    # BEGIN SOLUTION: keep the chunks with text
    ...
    # END SOLUTION

(In JavaScript and CSS, `//` instead of `#`.) The numbers in a `lab.guess(…)` become `...`, for the student to replace.
A notebook cell tagged `solution-only` is left out. Labs contain no outputs. Signatures, docstrings and imports stay
outside the markers: a lab's cell must run, while its function raises.

Students work in labs/. So the check accepts a file that a student has changed if the committed one is right, and
`make labs` keeps a changed file beside the new one, as `yours-…`.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat

from shared import files, paths
from shared.errors import LabError, command

BEGIN = re.compile(r"^(?P<indent>\s*)(?P<sign>#|//) BEGIN SOLUTION(?:: (?P<hint>\S.*))?$")
END = re.compile(r"^\s*(?:#|//) END SOLUTION$")
LOOKS_LIKE_ONE = re.compile(r"\b(BEGIN|END)[ _-]?SOLUTION\b", re.I)
GUESS = re.compile(r"\blab\.guess\([^)]*\)")
NUMBER = re.compile(r"(?<==)\s*-?[\d._]+(e-?\d+)?\b")
SOLUTION_ONLY = "solution-only"
MADE = ".made.json"  # in labs/: the hashes of the files that the last `make labs` wrote there
TEXTS = {".py", ".js", ".css", ".html", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".svg"}


@dataclass(frozen=True)
class Place:
    """A file or a notebook's cell, for error messages."""

    file: Path
    cell: str = ""

    @property
    def name(self) -> str:
        """The exercise's name in a stub: the cell's id, or the file's name."""
        return self.cell or self.file.stem

    def at(self, number: int) -> str:
        """The place with a line number."""
        return f"{paths.show(self.file)}{f', cell {self.cell}' if self.cell else ''}, line {number}"


def student_text(source: str, place: Place) -> str:
    """The source without its solutions. Raises LabError for a stray, nested or misspelt marker."""
    kept: list[str] = []
    opened = 0  # the line of the open marker
    for number, line in enumerate(source.split("\n"), 1):
        begin, end = BEGIN.match(line), END.match(line)
        if begin and opened:
            raise LabError(
                f"{place.at(number)}: a solution begins inside the one that begins in line {opened}.",
                "end that one first: # END SOLUTION",
            )
        if end and not opened:
            raise LabError(
                f"{place.at(number)}: a solution ends without a beginning.", "begin it: # BEGIN SOLUTION: <hint>"
            )
        if begin and not begin["hint"]:
            raise LabError(f"{place.at(number)}: the solution has no hint.", "add one: # BEGIN SOLUTION: <hint>")
        if not begin and not end and LOOKS_LIKE_ONE.search(line):
            raise LabError(
                f"{place.at(number)}: `{line.strip()}` looks like a marker, but is not one.",
                "write # BEGIN SOLUTION: <hint> or # END SOLUTION on a line of its own",
            )
        if begin:
            opened = number
            kept += stub(begin["indent"], begin["sign"], begin["hint"], place)
        elif end:
            opened = 0
        elif not opened:
            kept.append(line)
    if opened:
        raise LabError(f"{place.at(opened)}: this solution never ends.", "end it: # END SOLUTION")
    return GUESS.sub(lambda guess: NUMBER.sub("...", guess[0]), "\n".join(kept))


def stub(indent: str, sign: str, hint: str, place: Place) -> list[str]:
    """The TODO, and the statement that raises an error, in place of a solution."""
    message = json.dumps(f"{place.name}: {hint}", ensure_ascii=False)
    error = f"raise NotImplementedError({message})" if sign == "#" else f"throw new Error({message});"
    return [f"{indent}{sign} TODO: {hint}", f"{indent}{error}"]


def student_notebook(file: Path) -> bytes:
    """The lab made from a solution notebook, the same bytes each time. Raises LabError if it can't be read."""
    try:
        notebook = nbformat.read(file, as_version=4)
    except (OSError, ValueError) as e:
        raise LabError(
            f"{paths.show(file)} can't be read as a notebook ({e}).", "see what changed: git diff solutions"
        ) from None
    cells = []
    for cell in notebook.cells:
        if SOLUTION_ONLY in cell.metadata.get("tags", []):
            continue
        place = Place(file, cell.id)
        if cell.cell_type == "code":
            new = nbformat.v4.new_code_cell(student_text(cell.source, place))
        else:
            if LOOKS_LIKE_ONE.search(cell.source):
                raise LabError(f"{place.at(1)}: a text cell contains a marker.", "put markers into code cells only")
            new = nbformat.v4.new_markdown_cell(cell.source)
        new.id = cell.id
        cells.append(new)
    kernel = {name: notebook.metadata[name] for name in ("kernelspec",) if name in notebook.metadata}
    lab = nbformat.v4.new_notebook(cells=cells, metadata={**kernel, "language_info": {"name": "python"}})
    return (json.dumps(lab, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def labs_of(solutions: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file of labs/ as (path there, content): the notebooks, and the starter code in folders beside them."""
    for file in sorted(solutions.rglob("*")):
        path = file.relative_to(solutions)
        if (
            not file.is_file()
            or path.parts[0] == "pictures"
            or any(part.startswith(".") or part == "__pycache__" for part in path.parts)
        ):
            continue
        if file.suffix == ".ipynb":
            yield path, student_notebook(file)
        elif len(path.parts) > 1 and file.suffix in TEXTS:
            yield path, student_text(file.read_text(), Place(file)).encode()
        elif len(path.parts) > 1:
            yield path, file.read_bytes()


def make_labs(solutions: Path, labs: Path) -> list[Path]:
    """Write labs/ and return the paths that were written or removed. A notebook without a solution is removed.

    A file that was changed in labs/ is kept beside the new one, as `yours-…`. A student's work is never overwritten.
    """
    wanted, right = dict(labs_of(solutions)), committed(labs)
    ours = (made_before(labs), right)
    wrong = differences(wanted, labs, right)
    for path, data in wrong:
        file = labs / path
        if file.is_file() and blob_sha1(file.read_bytes()) not in [made.get(path) for made in ours]:
            keep(file)
        if data is None:
            file.unlink(missing_ok=True)
        else:
            files.write(file, data)
    if wrong:
        hashes = {str(path): blob_sha1(data) for path, data in wanted.items()}
        files.write(labs / MADE, json.dumps(hashes, indent=1).encode())
    return [path for path, _ in wrong]


def differences(wanted: Mapping[Path, bytes], labs: Path, right: Mapping[Path, str]) -> list[tuple[Path, bytes | None]]:
    """What differs in labs/ from the wanted files: each path, and its right content or None for a file to remove.

    A file is to be removed if no solution makes it and it is named as a lab's notebook or is committed (one of `right`)
    in a folder of starter code. Other files belong to the student.
    """
    wrong: list[tuple[Path, bytes | None]] = [
        (path, data) for path, data in wanted.items() if bytes_of(labs / path) != data
    ]
    there = {file.relative_to(labs) for file in labs.glob("lab-*.ipynb")}
    there |= {path for path in right if len(path.parts) > 1 and (labs / path).exists()}
    return wrong + [(path, None) for path in sorted(there - wanted.keys())]


def uncommitted_differences(solutions: Path, labs: Path) -> list[tuple[Path, bytes | None]]:
    """The differences, without the files that only a student has changed: their committed version is right."""
    right = committed(labs)
    return [
        (path, data)
        for path, data in differences(dict(labs_of(solutions)), labs, right)
        if data is None or right.get(path) != blob_sha1(data)
    ]


def committed(labs: Path) -> dict[Path, str]:
    """Git's ids of the committed contents of labs/, by path. Empty without git."""
    git = ["git", "-C", str(labs), "ls-tree", "-r", "-z", "HEAD", "."]
    try:
        listed = subprocess.run(git, capture_output=True, text=True).stdout
    except OSError:
        return {}
    entries = (line.split("\t", 1) for line in listed.split("\0") if line)
    return {Path(path): kind_and_id.split()[2] for kind_and_id, path in entries}


def made_before(labs: Path) -> dict[Path, str]:
    """Git's ids of the contents that the last `make labs` wrote, by path."""
    try:
        return {Path(path): str(sha1) for path, sha1 in json.loads((labs / MADE).read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def blob_sha1(data: bytes) -> str:
    """Git's id of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def keep(file: Path) -> None:
    """Rename a file that was changed in labs/ to `yours-…`, and print its new name."""
    aside = files.unused(file.with_name(f"yours-{file.stem}"))
    aside = aside.with_name(f"{aside.name}{file.suffix}")
    file.rename(aside)
    print(f"{paths.show(file)} has changes of yours. It is kept as {aside.name}.")


def bytes_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


@command
def main(arguments: list[str]) -> int:
    solutions, labs = paths.REPO / "solutions", paths.REPO / "labs"
    if arguments == ["--check"]:
        wrong = uncommitted_differences(solutions, labs)
        for path, data in wrong:
            print(f"labs/{path} {'differs from its solution' if data is not None else 'has no solution'}.")
        if wrong:
            print("Fix: make labs (labs/ is made from solutions/, so edit there)")
        return int(bool(wrong))
    for path in make_labs(solutions, labs):
        print(f"labs/{path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
