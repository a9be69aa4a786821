"""One source: labs/ is made from solutions/.

    python -m shared.course.authoring              # make labs: write labs/
    python -m shared.course.authoring --check      # make labs-check: print what differs, change nothing

In code, what lies between these two lines is the solution, and becomes a TODO and an error that names the exercise:

    # BEGIN SOLUTION: keep the chunks with text
    ...
    # END SOLUTION

(`//` instead of `#` in JavaScript and CSS.) The numbers of a `lab.guess(…)` become `...`, for a student to replace.
A notebook's cell tagged `solution-only` is left out. Labs carry no outputs. Signatures, docstrings and imports stay
outside the markers: a lab's cell must run, its function must not.

Students work in labs/. So the check accepts a file that a student has changed, as long as the committed one is right;
and `make labs` keeps a changed file beside the new one, as `yours-…`.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat

from shared import files, paths
from shared.errors import LabError

BEGIN = re.compile(r"^(?P<indent>\s*)(?P<sign>#|//) BEGIN SOLUTION(?:: (?P<hint>\S.*))?$")
END = re.compile(r"^\s*(?:#|//) END SOLUTION$")
LOOKS_LIKE_ONE = re.compile(r"\b(BEGIN|END)[ _-]?SOLUTION\b", re.I)
GUESS = re.compile(r"\blab\.guess\([^)]*\)")
NUMBER = re.compile(r"(?<==)\s*-?[\d._]+(e-?\d+)?\b")
SOLUTION_ONLY = "solution-only"
MADE = ".made.json"  # in labs/: the hashes of what `make labs` wrote there, for its next run
TEXTS = {".py", ".js", ".css", ".html", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".svg"}


@dataclass(frozen=True)
class Place:
    """Where a line of source stands, for an error."""

    file: Path
    cell: str = ""

    @property
    def name(self) -> str:
        """What a stub calls its exercise."""
        return self.cell or self.file.stem

    def at(self, number: int) -> str:
        return f"{paths.show(self.file)}{f', cell {self.cell}' if self.cell else ''}, line {number}"


def student_text(source: str, place: Place) -> str:
    """The source without its solutions. Raises LabError for a marker that is stray, nested or misspelt."""
    kept: list[str] = []
    opened = 0  # the line of the open marker
    for number, line in enumerate(source.split("\n"), 1):
        begin, end = BEGIN.match(line), END.match(line)
        if begin and opened:
            raise LabError(
                f"{place.at(number)}: a solution begins within the one of line {opened}.",
                "end that one first: # END SOLUTION",
            )
        if end and not opened:
            raise LabError(f"{place.at(number)}: a solution ends that never began.", "# BEGIN SOLUTION: <hint>")
        if begin and not begin["hint"]:
            raise LabError(f"{place.at(number)}: the solution has no hint.", "# BEGIN SOLUTION: <hint>")
        if not begin and not end and LOOKS_LIKE_ONE.search(line):
            raise LabError(
                f"{place.at(number)}: `{line.strip()}` is no marker, but looks like one.",
                "# BEGIN SOLUTION: <hint>, or # END SOLUTION",
            )
        if begin:
            opened = number
            kept += stub(begin["indent"], begin["sign"], begin["hint"], place)
        elif end:
            opened = 0
        elif not opened:
            kept.append(line)
    if opened:
        raise LabError(f"{place.at(opened)}: this solution never ends.", "# END SOLUTION")
    return GUESS.sub(lambda guess: NUMBER.sub("...", guess[0]), "\n".join(kept))


def stub(indent: str, sign: str, hint: str, place: Place) -> list[str]:
    message = json.dumps(f"{place.name}: {hint}", ensure_ascii=False)
    error = f"raise NotImplementedError({message})" if sign == "#" else f"throw new Error({message});"
    return [f"{indent}{sign} TODO: {hint}", f"{indent}{error}"]


def student_notebook(file: Path) -> bytes:
    """The lab of a solution notebook, the same bytes each time."""
    try:
        notebook = nbformat.read(file, as_version=4)
    except (OSError, ValueError) as e:
        raise LabError(f"{paths.show(file)} can't be read as a notebook ({e}).", "git diff says what changed") from None
    cells = []
    for cell in notebook.cells:
        if SOLUTION_ONLY in cell.metadata.get("tags", []):
            continue
        place = Place(file, cell.id)
        if cell.cell_type == "code":
            new = nbformat.v4.new_code_cell(student_text(cell.source, place))
        else:
            if LOOKS_LIKE_ONE.search(cell.source):
                raise LabError(f"{place.at(1)}: a marker stands in text.", "markers belong into code")
            new = nbformat.v4.new_markdown_cell(cell.source)
        new.id = cell.id
        cells.append(new)
    kernel = {name: notebook.metadata[name] for name in ("kernelspec",) if name in notebook.metadata}
    lab = nbformat.v4.new_notebook(cells=cells, metadata={**kernel, "language_info": {"name": "python"}})
    return (json.dumps(lab, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def labs_of(solutions: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file of labs/, by its path there: notebooks, and the starter code in folders beside them."""
    for file in sorted(solutions.rglob("*")):
        path = file.relative_to(solutions)
        if not file.is_file() or path.parts[0] == "pictures" or any(p.startswith((".", "__")) for p in path.parts):
            continue
        if file.suffix == ".ipynb":
            yield path, student_notebook(file)
        elif len(path.parts) > 1 and file.suffix in TEXTS:
            yield path, student_text(file.read_text(), Place(file)).encode()
        elif len(path.parts) > 1:
            yield path, file.read_bytes()


def make_labs(solutions: Path, labs: Path) -> list[Path]:
    """Write labs/; returns what was written or removed. A notebook that solutions/ lacks is removed.

    A file that was changed here is kept beside the new one, as `yours-…`: a student's work is never overwritten.
    """
    ours = (made_before(labs), committed(labs))
    wrong = differences(solutions, labs)
    for path, data in wrong:
        file = labs / path
        if file.is_file() and blob_sha1(file.read_bytes()) not in [made.get(path) for made in ours]:
            keep(file)
        if data is None:
            file.unlink(missing_ok=True)
        else:
            files.write(file, data)
    if wrong:
        hashes = {str(path): blob_sha1(data) for path, data in labs_of(solutions)}
        files.write(labs / MADE, json.dumps(hashes, indent=1).encode())
    return [path for path, _ in wrong]


def differences(solutions: Path, labs: Path) -> list[tuple[Path, bytes | None]]:
    """Which files of labs/ are not as they should be: the path, and the right bytes or None for a superfluous one.

    A file is superfluous if it has the name of a lab's notebook, or is committed in a folder of starter code, and no
    solution makes it. Other files are a student's own.
    """
    wanted = dict(labs_of(solutions))
    wrong: list[tuple[Path, bytes | None]] = [
        (path, data) for path, data in wanted.items() if bytes_of(labs / path) != data
    ]
    there = {file.relative_to(labs) for file in labs.glob("lab-*.ipynb")}
    there |= {path for path in committed(labs) if len(path.parts) > 1 and (labs / path).exists()}
    return wrong + [(path, None) for path in sorted(there - wanted.keys())]


def uncommitted_differences(solutions: Path, labs: Path) -> list[tuple[Path, bytes | None]]:
    """The differences without those that are a student's: there the committed file is right."""
    right = committed(labs)
    return [
        (path, data)
        for path, data in differences(solutions, labs)
        if data is None or right.get(path) != blob_sha1(data)
    ]


def committed(labs: Path) -> dict[Path, str]:
    """The committed files of labs/, by path: the id that git gives to the content. Empty where there is no git."""
    command = ["git", "-C", str(labs), "ls-tree", "-r", "-z", "HEAD", "."]
    try:
        listed = subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return {}
    entries = (line.split("\t", 1) for line in listed.split("\0") if line)
    return {Path(path): kind_and_id.split()[2] for kind_and_id, path in entries}


def made_before(labs: Path) -> dict[Path, str]:
    """What the last `make labs` wrote, by path, as `committed` gives it."""
    try:
        return {Path(path): str(sha1) for path, sha1 in json.loads((labs / MADE).read_bytes()).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def blob_sha1(data: bytes) -> str:
    """The id of a file's content in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def keep(file: Path) -> None:
    """Move a file that was changed here out of the way."""
    aside = files.unused(file.with_name(f"yours-{file.stem}"))
    aside = aside.with_name(f"{aside.name}{file.suffix}")
    file.rename(aside)
    print(f"{paths.show(file)} was changed here. The changed file is kept as {aside.name}.")


def bytes_of(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def main(arguments: list[str]) -> int:
    solutions, labs = paths.REPO / "solutions", paths.REPO / "labs"
    try:
        if arguments == ["--check"]:
            wrong = uncommitted_differences(solutions, labs)
            for path, data in wrong:
                print(f"labs/{path} {'differs from its solution' if data is not None else 'has no solution'}.")
            if wrong:
                print("Fix: make labs (edit solutions/; labs/ is made from it)")
            return int(bool(wrong))
        for path in make_labs(solutions, labs):
            print(f"labs/{path}")
    except LabError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
