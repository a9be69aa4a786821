"""labs/ is made from solutions/, whole and the same each time, and gives nothing away."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from shared import LabError, paths
from shared.course import authoring

SOURCE = '''\
import math


def area(radius):
    """Of a circle."""
    # BEGIN SOLUTION: what is "π"?
    squared = radius**2
    return math.pi * squared
    # END SOLUTION


print("below")
'''
STUDENT = '''\
import math


def area(radius):
    """Of a circle."""
    # TODO: what is "π"?
    raise NotImplementedError("ex-area: what is \\"π\\"?")


print("below")
'''


def written(folder: Path, *cells: tuple[str, str, list[str]]) -> Path:
    """A solution notebook that was run."""
    notebook = nbformat.v4.new_notebook()
    for name, source, tags in cells:
        cell = nbformat.v4.new_code_cell(source, metadata={"tags": tags, "took_s": 3}, execution_count=1)
        cell.outputs = [nbformat.v4.new_output("stream", text="42")]
        cell.id = name
        notebook.cells.append(cell)
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / "lab-3.3.1-x.ipynb")
    return folder


def test_a_solution_becomes_a_todo_that_names_its_exercise(tmp_path: Path) -> None:
    solutions = written(tmp_path / "solutions", ("ex-area", SOURCE, []), ("all-done", "assert 1", ["solution-only"]))
    made = authoring.make_labs(solutions, tmp_path / "labs")
    assert made == [Path("lab-3.3.1-x.ipynb")]
    lab = nbformat.read(tmp_path / "labs" / "lab-3.3.1-x.ipynb", as_version=4)
    nbformat.validate(lab)
    [cell] = lab.cells
    assert cell.id == "ex-area"
    assert cell.source == STUDENT
    assert (cell.outputs, cell.execution_count, dict(cell.metadata)) == ([], None, {})
    names: dict[str, object] = {}
    exec(cell.source, names)  # the cell runs; the function doesn't
    with pytest.raises(NotImplementedError, match='ex-area: what is "π"'):
        names["area"](1)  # type: ignore[operator]


def test_the_same_bytes_twice_and_nothing_to_do_the_second_time(tmp_path: Path) -> None:
    solutions = written(tmp_path / "solutions", ("ex-area", SOURCE, []))
    authoring.make_labs(solutions, tmp_path / "labs")
    first = (tmp_path / "labs" / "lab-3.3.1-x.ipynb").read_bytes()
    assert authoring.make_labs(solutions, tmp_path / "labs") == []
    (tmp_path / "labs" / "lab-3.3.1-x.ipynb").unlink()
    authoring.make_labs(solutions, tmp_path / "labs")
    assert (tmp_path / "labs" / "lab-3.3.1-x.ipynb").read_bytes() == first


def test_starter_code_of_a_folder_is_made_the_same_way(tmp_path: Path) -> None:
    folder = tmp_path / "solutions" / "gateway"
    (folder / "static").mkdir(parents=True)
    (folder / "app.py").write_text(SOURCE)
    (folder / "__main__.py").write_text("import app\n")
    (folder / "static" / "chat.js").write_text(
        "function f() {\n  // BEGIN SOLUTION: read it\n  return 1;\n  // END SOLUTION\n}"
    )
    (folder / "logo.png").write_bytes(b"\x89PNG\xff")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "app.pyc").write_bytes(b"x")
    authoring.make_labs(tmp_path / "solutions", tmp_path / "labs")
    made = tmp_path / "labs" / "gateway"
    assert (made / "app.py").read_text() == STUDENT.replace("ex-area", "app")
    assert (made / "static" / "chat.js").read_text() == (
        'function f() {\n  // TODO: read it\n  throw new Error("chat: read it");\n}'
    )
    assert (made / "logo.png").read_bytes() == b"\x89PNG\xff"
    assert (made / "__main__.py").read_text() == "import app\n"
    assert not (made / "__pycache__").exists()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a\n# END SOLUTION", r"cell ex-area, line 2: a solution ends without a beginning"),
        (
            "# BEGIN SOLUTION: x\n\n# BEGIN SOLUTION: y\n# END SOLUTION",
            r"line 3: a solution begins inside the one that begins in line 1",
        ),
        ("\n# BEGIN SOLUTION: x\nreturn 1", r"line 2: this solution never ends"),
        ("# BEGIN SOLUTION\n# END SOLUTION", r"line 1: the solution has no hint"),
        ("# BEGIN SOLUTION:\n# END SOLUTION", r"line 1: `# BEGIN SOLUTION:` looks like a marker, but is not one"),
        (
            "# begin solution: x\n1\n# END SOLUTION",
            r"line 1: `# begin solution: x` looks like a marker, but is not one",
        ),
        ("x = 1  # BEGIN SOLUTION: x", r"line 1: .* looks like a marker, but is not one"),
        ("# BEGIN_SOLUTION: x", r"line 1: .* looks like a marker, but is not one"),
    ],
)
def test_a_stray_marker_is_named_with_its_place(tmp_path: Path, source: str, said: str) -> None:
    solutions = written(tmp_path / "solutions", ("ex-area", source, []))
    with pytest.raises(LabError, match=rf"lab-3.3.1-x.ipynb, {said}|lab-3.3.1-x.ipynb, cell ex-area, {said}"):
        authoring.make_labs(solutions, tmp_path / "labs")
    assert not (tmp_path / "labs").exists()


@pytest.mark.parametrize("run", [True, False])
def test_a_lab_that_a_student_has_changed_is_kept(tmp_path: Path, run: bool) -> None:
    solutions = written(tmp_path / "solutions", ("ex-area", SOURCE, []))
    labs = tmp_path / "labs"
    authoring.make_labs(solutions, labs)
    lab = nbformat.read(labs / "lab-3.3.1-x.ipynb", as_version=4)
    lab.cells[0].execution_count = 4 if run else None
    lab.cells[0].source = "my work"
    nbformat.write(lab, labs / "lab-3.3.1-x.ipynb")
    authoring.make_labs(solutions, labs)
    [kept] = labs.glob("yours-lab-3.3.1-x-2*.ipynb")
    assert "my work" in kept.read_text()
    assert "my work" not in (labs / "lab-3.3.1-x.ipynb").read_text()


def test_what_make_labs_wrote_itself_is_not_kept(tmp_path: Path) -> None:
    solutions, labs = tmp_path / "solutions", tmp_path / "labs"
    for source in ("1", "2", "3"):  # an instructor edits, and looks at the lab each time
        authoring.make_labs(written(solutions, ("some", source, [])), labs)
    assert [file.name for file in labs.iterdir() if not file.name.startswith(".")] == ["lab-3.3.1-x.ipynb"]


def repository(folder: Path) -> tuple[Path, Path]:
    """A committed solution with its lab: a notebook, and starter code in a folder."""
    solutions = written(folder / "solutions", ("ex-area", SOURCE, []))
    (solutions / "gateway").mkdir()
    (solutions / "gateway" / "app.py").write_text(SOURCE)
    authoring.make_labs(solutions, folder / "labs")
    me = ["-c", "user.name=n", "-c", "user.email=e"]
    for arguments in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "labs"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    (folder / "labs" / authoring.MADE).unlink()  # as in a clone
    return solutions, folder / "labs"


def test_a_solved_exercise_is_no_difference_and_an_edited_solution_is_one(tmp_path: Path) -> None:
    solutions, labs = repository(tmp_path)
    for file in (labs / "lab-3.3.1-x.ipynb", labs / "gateway" / "app.py"):
        file.write_text(file.read_text().replace("TODO", "solved"))
    assert authoring.uncommitted_differences(solutions, labs) == []
    app = solutions / "gateway" / "app.py"
    app.write_text(app.read_text().replace("below", "above"))
    [(path, _)] = authoring.uncommitted_differences(solutions, labs)
    assert path == Path("gateway/app.py")


def test_starter_code_that_a_student_has_changed_is_kept_and_the_rest_renewed(tmp_path: Path) -> None:
    solutions, labs = repository(tmp_path)
    mine = labs / "gateway" / "app.py"
    mine.write_text("my work")
    (labs / "gateway" / "notes.py").write_text("mine as well")
    (solutions / "gateway" / "app.py").unlink()
    (solutions / "gateway" / "routes.py").write_text(SOURCE)
    written(solutions, ("ex-area", SOURCE.replace("below", "above"), []))
    authoring.make_labs(solutions, labs)
    [kept] = labs.glob("gateway/yours-app-2*.py")
    assert kept.read_text() == "my work"
    assert not mine.exists()
    assert {file.name for file in (labs / "gateway").iterdir()} == {kept.name, "notes.py", "routes.py"}
    assert not list(labs.glob("yours-*"))
    assert "above" in (labs / "lab-3.3.1-x.ipynb").read_text()


@pytest.mark.parametrize(
    ("solution", "lab"),
    [
        ("mine = lab.guess(growth=8)", "mine = lab.guess(growth=...)"),
        ("lab.guess(growth=8.5, ttft_ms=-1e3)  # yours", "lab.guess(growth=..., ttft_ms=...)  # yours"),
        ("lab.guess(\n    growth=1_000,\n)\nx = 3", "lab.guess(\n    growth=...,\n)\nx = 3"),
        ("lab.measure(growth=8)", "lab.measure(growth=8)"),
    ],
)
def test_a_guess_is_left_to_the_student(solution: str, lab: str) -> None:
    assert authoring.student_text(solution, authoring.Place(Path("x.ipynb"), "guess")) == lab


def test_a_lab_without_solution_goes_and_other_files_stay(tmp_path: Path) -> None:
    solutions = written(tmp_path / "solutions", ("ex-area", SOURCE, []))
    labs = tmp_path / "labs"
    labs.mkdir()
    (labs / "lab-old.ipynb").write_text(json.dumps(nbformat.v4.new_notebook()))
    (labs / "notes.txt").write_text("mine")
    authoring.make_labs(solutions, labs)
    there = {f.name for f in labs.iterdir() if f.name != authoring.MADE}
    assert {name for name in there if not name.startswith("yours-lab-old-")} == {"lab-3.3.1-x.ipynb", "notes.txt"}
    assert len(there) == 3  # the old one is kept: nothing shows that it wasn't changed here


def test_labs_are_as_their_solutions_say() -> None:
    said = subprocess.run([sys.executable, "-m", "shared.course.authoring", "--check"], capture_output=True, text=True)
    assert (said.stdout, said.returncode) == ("", 0)


def solution_lines(solutions: Path) -> Iterator[tuple[Any, str]]:
    """Every line that no lab may contain, with its place."""
    public = {  # such as `return found`, which other functions of the starter code also contain
        line.strip()
        for file in solutions.rglob("*")
        if file.suffix in authoring.TEXTS
        for line in authoring.student_text(file.read_text(), authoring.Place(file)).split("\n")
    }
    public |= {'"""', "[engines.engine]"}  # the settings of a gateway are a text in a cell, in both trees
    for file in sorted(solutions.rglob("*")):
        if file.suffix == ".ipynb":
            for cell in nbformat.read(file, as_version=4).cells:
                only = authoring.SOLUTION_ONLY in cell.metadata.get("tags", [])
                lines = (line for line in between(cell.source, only) if line not in public)
                yield from ((authoring.Place(file, cell.id), line) for line in lines)
        elif file.suffix in authoring.TEXTS and file.parent != solutions:
            yield from ((authoring.Place(file), ln) for ln in between(file.read_text(), False) if ln not in public)


def between(source: str, everything: bool) -> Iterator[str]:
    inside = everything
    for line in source.split("\n"):
        if authoring.BEGIN.match(line) or authoring.END.match(line):
            inside = everything or bool(authoring.BEGIN.match(line))
        elif inside:
            yield line.strip()


def test_labs_hold_no_outputs_and_no_line_of_a_solution() -> None:
    labs = sorted((paths.REPO / "labs").rglob("*"))
    text = {file: file.read_text() for file in labs if file.suffix in (*authoring.TEXTS, ".ipynb")}
    notebooks = [nbformat.read(file, as_version=4) for file in labs if file.suffix == ".ipynb"]
    assert notebooks
    lines = {line.strip() for nb in notebooks for c in nb.cells for line in c.source.split("\n")}
    lines |= {line.strip() for file, one in text.items() if file.suffix != ".ipynb" for line in one.split("\n")}
    secret = [(place, line) for place, line in solution_lines(paths.REPO / "solutions") if line]
    assert len(secret) > 10
    assert [(place, line) for place, line in secret if line in lines] == []
    for notebook in notebooks:
        for cell in notebook.cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None
