"""Compares the exercises that count as correct with the code that a student handed in. None of it is run.

A function is found by its name, in any cell of any notebook and in the starter code. Neither ids of cells nor names of
notebooks count, because editors strip the ids and students rename notebooks.
"""

import ast
import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.course import attempts, registry, starter
from shared.course.exercise import Exercise
from shared.course.grading.submissions import printable
from shared.course.registry import Lab

Defined = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Code:
    """The functions in some of a student's code, by their qualified name such as `ttft_ms` or `Answer.stop`."""

    functions: list[tuple[str, Defined]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # sources that are not valid Python

    def add(self, source: str) -> None:
        try:
            self.functions += named_functions(parsed_code(source).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.broken.append(source)

    def of(self, exercise: Exercise) -> list[Defined]:
        """The functions of this exercise. One of its name in another class or function counts if there is no better."""
        exact = [function for name, function in self.functions if name == starter.qualified(exercise)]
        return exact or [function for _, function in self.functions if function.name == exercise.function]


def problems(lab: Lab, copy: Path) -> list[str]:
    """The lab's unreadable notebooks, and each exercise that counts as correct without its code being there.

    That is an exercise of which only the stub was handed in, or one that can't be compared because its function is
    missing, or stands in code that is not valid Python.
    """
    notebooks, faults = in_notebooks(lab, copy)
    files = in_starter_code(lab, copy)
    counts = attempts.read_attempts(lab.number)
    right = [e for e in lab.exercises if counts.get(e.function, attempts.FRESH)["outcome"] == "correct"]
    found = {e.function: stubs_and_answers(e, notebooks, files, in_modules(e, copy)) for e in right}
    broken = [*notebooks.broken, *files.broken]
    if right and not broken and not any(found.values()):
        return [*faults, f"not compared: {len(right)} exercises count as correct, but no code of them was handed in"]
    for name, stubs in found.items():
        if stubs and all(stubs):
            faults.append(f"{name} counts as correct, but the code handed in contains only its stub")
        elif not stubs and any(re.search(rf"\bdef\s+{name}\b", source) for source in broken):
            faults.append(f"{name} was not compared: the code handed in that defines it is not valid Python")
        elif not stubs:
            faults.append(f"{name} was not compared: it counts as correct, but the code handed in lacks it")
    return faults


def stubs_and_answers(exercise: Exercise, notebooks: Code, files: Code, modules: Collection[str]) -> list[bool]:
    """For each version of this exercise in the code handed in: whether it is the stub."""
    if exercise.file.endswith(".js"):
        return [starter.is_open_module(text, exercise) for text in modules]
    in_files = files.of(exercise) if exercise.file else []  # a notebook may have a namesake of it
    return [is_stub(function) for function in in_files or notebooks.of(exercise)]


def in_notebooks(lab: Lab, copy: Path) -> tuple[Code, list[str]]:
    """(the code of all notebooks, the files that are no notebooks).

    A file without a lab's number in its name is reported with the first lab, so that it is reported once.
    """
    code, faults = Code(), []
    for notebook in sorted((copy / "notebooks").glob("*/*")):
        try:
            for cell in parsed_json(notebook)["cells"]:
                if cell.get("cell_type") == "code":
                    code.add("".join(cell["source"]))
        except (LookupError, TypeError, AttributeError):
            named = (one for one in re.findall(r"\d+\.\d+\.\d+", notebook.name) if one in registry.LABS)  # no date
            if next(named, next(iter(registry.LABS))) == lab.number:
                faults.append(f"{printable(notebook.name)} is not a notebook")
    return code, faults


def in_starter_code(lab: Lab, copy: Path) -> Code:
    code = Code()
    for file in sorted((copy / "starter").glob(f"*/{lab.starter}/**/*.py")) if lab.starter else ():
        code.add(file.read_text(encoding="utf-8", errors="replace"))
    return code


def in_modules(exercise: Exercise, copy: Path) -> list[str]:
    """The texts of this exercise's JavaScript module; none for an exercise in Python."""
    files = sorted((copy / "starter").glob(f"*/{exercise.file}")) if exercise.file.endswith(".js") else []
    return [file.read_text(encoding="utf-8", errors="replace") for file in files]


def parsed_code(source: str) -> ast.Module:
    """A cell's syntax tree, without the notebook's magics. Raises SyntaxError for code that a notebook rejects too."""
    try:
        return ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source))
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # a quarter of a second, so only where it helps

        # It knows all that notebooks allow: `f?`, `files = !ls`. It would hide a cell's code behind a %%magic.
        python: str = TransformerManager().transform_cell(re.sub(r"(?m)^%%.*$", "", source))
        return ast.parse(python)


def named_functions(body: Iterable[ast.AST], within: str = "") -> Iterator[tuple[str, Defined]]:
    """Each function below these statements with its qualified name."""
    for node in body:
        name = node.name if isinstance(node, ast.ClassDef | Defined) else ""
        if isinstance(node, Defined):
            yield within + name, node
        below = (
            one for one in ast.iter_child_nodes(node) if isinstance(one, ast.stmt | ast.excepthandler | ast.match_case)
        )
        yield from named_functions(below, f"{within}{name}." if name else within)


def is_stub(function: Defined) -> bool:
    """Whether the function only raises NotImplementedError."""
    body = [node for node in function.body if not isinstance(node, ast.Expr)]  # without its docstring
    try:
        return isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])
    except (IndexError, RecursionError):
        return False


def parsed_json(file: Path) -> Any:
    """The content of a JSON file; None if it is missing or not JSON."""
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
