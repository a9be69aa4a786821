"""Exercises that are functions in files of starter code, beside the notebook.

    starter.judge_own(lab, exercise)          # the student's function, as its file is on disk now
    starter.merge(lab, own, folder)           # a copy of the starter code: the student's files, with the reference's
                                              # function in place of each exercise that is not in `own`

Every judgement loads a merged copy in which only the judged function is the student's. So an open exercise does not
decide the judgement of another one.

An exercise in JavaScript is a module of its own, which exports its function. It is judged alone, and merged as a file.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import io
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

from shared import javascript, paths
from shared.course.exercise import LIMIT_S, Exercise, Function, Judgement, Wrong, judge, not_attempted
from shared.course.registry import Lab
from shared.results.provenance import syntax

Package = dict[str, ModuleType]  # the modules by their name in the package, such as "relay"
MARK = "__starter_package__"  # in a loaded module: the package that it belongs to
IGNORED = ("__pycache__", ".*", "yours-*")
LEFT_OUT = shutil.ignore_patterns(*IGNORED)


class Module:
    """A function that a JavaScript module exports. A test calls it with a scene, in which the function is `f`."""

    def __init__(self, name: str, text: str) -> None:
        self.__name__, self.text = name, text

    def __call__(self, scene: str, data: object = None) -> Any:
        """What the scene returns. Raises Wrong for an error in it."""
        found = javascript.run(self.text, self.__name__, scene, data)
        if "error" in found:
            raise Wrong(f"{self.__name__} failed: {found['error']}.")
        return found["result"]


def folder(lab: Lab) -> Path:
    """The student's starter code: beside the notebook that runs, else in labs/."""
    here = Path.cwd() / lab.starter
    return here if here.is_dir() else paths.REPO / "labs" / lab.starter


def reference_folder(lab: Lab) -> Path:
    return lab.solution.with_name(lab.starter)


def modules_in(package: Path) -> list[Path]:
    """The student's Python files. Kept copies and the hidden files of editors and archives are none of the package."""
    return [file for file in sorted(package.glob("*.py")) if not any(fnmatch(file.name, one) for one in IGNORED)]


def code_of(package: Path) -> dict[str, str]:
    """A hash of each file of a package's code. In Python files comments and docstrings don't count."""
    found = {}
    for file in sorted(package.rglob("*")):
        if file.suffix in {".py", ".js", ".css", ".html"} and "vendor" not in file.parts:
            text = syntax(file.read_text()) if file.suffix == ".py" else file.read_text()
            found[str(file.relative_to(package))] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def judge_own(lab: Lab, exercise: Exercise) -> Judgement:
    """Judge the student's function as its file is on disk now.

    Unchanged files are not judged again, unless it took so long that a time limit may have ended it.
    """
    package, module = folder(lab), str(Path(exercise.file).relative_to(lab.starter))
    try:
        found = modules_in(package) if module.endswith(".py") else package.glob(module)
        files = {file.name: file.read_text() for file in found}
    except (OSError, UnicodeDecodeError) as e:
        return Judgement("incorrect", f"The folder {lab.starter} can't be read: {e}.")
    began_s = time.monotonic()
    judgement = judged(lab, exercise, tuple(files.items()))
    if time.monotonic() - began_s >= LIMIT_S:  # a time limit may have decided, as on a busy machine: judge it again
        judged.cache_clear()
    return judgement


@functools.cache
def judged(lab: Lab, exercise: Exercise, files: tuple[tuple[str, str], ...]) -> Judgement:
    """Judge the function of these files, given as name and text."""
    text = dict(files).get(Path(exercise.file).name)
    if text is None:
        return Judgement("incorrect", f"{exercise.file} is missing: git checkout labs/{exercise.file} restores it.")
    if exercise.file.endswith(".js"):
        open_yet = is_open_module(text, exercise)
        return not_attempted(exercise) if open_yet else judge(exercise, Module(exercise.function, text))
    try:
        source = function_source(text, qualified(exercise))
    except SyntaxError as e:
        return Judgement("incorrect", f"{exercise.file} is not valid Python: {e.msg}, line {e.lineno}.")
    if source is None:
        return Judgement("incorrect", f"{exercise.file} has no function {qualified(exercise)} any more.")
    if is_open(source):
        return not_attempted(exercise)
    with tempfile.TemporaryDirectory() as made:
        try:
            package = load(merge(lab, {exercise.function}, Path(made)))
        except Exception as e:  # whatever the student's code does while it is imported
            return Judgement("incorrect", f"{lab.starter} can't be imported. {type(e).__name__}: {e}")
        return judge(exercise, function_of(package, exercise))


def reference(lab: Lab, exercise: Exercise) -> Function:
    """The reference's function."""
    if exercise.file.endswith(".js"):
        return Module(exercise.function, reference_source(lab, exercise))
    return function_of(reference_package(lab), exercise)


def reference_source(lab: Lab, exercise: Exercise) -> str:
    """The source of the reference's function; for one in JavaScript its whole module."""
    text = (lab.solution.parent / exercise.file).read_text()
    if exercise.file.endswith(".js"):
        return text
    found = function_source(text, qualified(exercise))
    assert found is not None, f"{exercise.file} has no {qualified(exercise)}"
    return found


@functools.cache
def reference_package(lab: Lab) -> Package:
    return load(reference_folder(lab))


def qualified(exercise: Exercise) -> str:
    return f"{exercise.within}.{exercise.function}" if exercise.within else exercise.function


def function_of(package: Package, exercise: Exercise) -> Function:
    owner, name = owner_of(package, exercise)
    found: Function = getattr(owner, name)
    return found


def owner_of(package: Package, exercise: Exercise) -> tuple[Any, str]:
    """The module or class that has the exercise's function, and the function's name there."""
    module = package[Path(exercise.file).stem]
    return (getattr(module, exercise.within) if exercise.within else module), exercise.function


def package_of(lab: Lab, function: Function) -> Package:
    """The package that the function was loaded with; the reference's for any other function."""
    found: Package | None = getattr(function, "__globals__", {}).get(MARK)
    return found or reference_package(lab)


@contextlib.contextmanager
def installed(lab: Lab, exercise: Exercise, function: Function) -> Iterator[Package]:
    """Within the block the function stands in its package, in the place of the exercise's own."""
    package = package_of(lab, function)
    owner, name = owner_of(package, exercise)
    before = owner.__dict__[name]
    setattr(owner, name, function)
    try:
        yield package
    finally:
        setattr(owner, name, before)


def merge(lab: Lab, own: Collection[str], into: Path) -> Path:
    """Copy the starter code to `into`, and return the copy's folder.

    Its files are the student's. Each exercise that is not in `own` is replaced by the reference's function, or by the
    reference's module in JavaScript. A Python file that is missing, can't be parsed or lacks an exercise's function is
    the reference's as a whole.
    """
    theirs, right, copy = folder(lab), reference_folder(lab), into / lab.starter
    shutil.copytree(right, copy, ignore=LEFT_OUT)
    if theirs.is_dir():
        modules = {Path(one.file).name for one in lab.exercises if one.file.endswith(".js") and one.function not in own}
        shutil.copytree(theirs, copy, ignore=shutil.ignore_patterns(*IGNORED, "*.py", *modules), dirs_exist_ok=True)
    for file in modules_in(theirs):
        with contextlib.suppress(SyntaxError, UnicodeDecodeError):
            text, whole = file.read_text(), True
            ast.parse(text)
            for exercise in lab.exercises:
                if Path(exercise.file).name == file.name and exercise.function not in own:
                    replaced = with_function(text, qualified(exercise), reference_source(lab, exercise))
                    whole, text = whole and replaced is not None, replaced or text
            if whole:
                (copy / file.name).write_text(text)
    return copy


def load(package: Path) -> Package:
    """Import every module of the package in this folder, whatever else has been imported under its name."""

    def of_package() -> list[str]:
        return [name for name in sys.modules if name == package.name or name.startswith(f"{package.name}.")]

    others = {name: sys.modules.pop(name) for name in of_package()}
    keep, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.insert(0, str(package.parent))
    importlib.invalidate_caches()
    try:
        stems = sorted(file.stem for file in package.glob("*.py") if not file.stem.startswith("__"))
        found = {stem: importlib.import_module(f"{package.name}.{stem}") for stem in stems}
    finally:
        sys.path.remove(str(package.parent))
        sys.dont_write_bytecode = keep
        for name in of_package():
            del sys.modules[name]
        sys.modules.update(others)
    for module in found.values():
        setattr(module, MARK, found)
    return found


def is_open(source: str) -> bool:
    """Whether this function still raises the starter code's NotImplementedError."""
    return any(
        isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id == "NotImplementedError"
        for node in ast.walk(ast.parse(source))
    )


def is_open_module(text: str, exercise: Exercise) -> bool:
    """Whether this JavaScript module still throws the starter code's error."""
    return f'throw new Error("{Path(exercise.file).stem}: ' in text


def function_source(text: str, name: str) -> str | None:
    """The function of this name (`Class.method` for a method) with its decorators, not indented; None without one.

    Raises SyntaxError if the text is not valid Python.
    """
    span = lines_of(text, name)
    if span is None:
        return None
    lines = lines_in(text)[slice(*span)]
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "".join(line[indent:] if line[:indent].isspace() or not indent else line for line in lines)


def with_function(text: str, name: str, source: str) -> str | None:
    """The text with another source for the function of this name; None if it has no such function."""
    span = lines_of(text, name)
    if span is None:
        return None
    lines = lines_in(text)
    indent = lines[span[0]][: len(lines[span[0]]) - len(lines[span[0]].lstrip())]
    new = [indent + line if line.strip() else line for line in lines_in(source)]
    return "".join([*lines[: span[0]], *new, *lines[span[1] :]])


def lines_in(text: str) -> list[str]:
    """The lines as Python counts them. `splitlines` ends some at a form feed too, and at signs of Unicode."""
    return io.StringIO(text).readlines()


def lines_of(text: str, name: str) -> tuple[int, int] | None:
    """The function's first line and the line after its last, counted from 0."""
    body: list[ast.stmt] = ast.parse(text).body
    *classes, function = name.split(".")
    for one in classes:
        body = next((node.body for node in body if isinstance(node, ast.ClassDef) and node.name == one), [])
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == function:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            return first - 1, node.end_lineno or node.lineno
    return None
