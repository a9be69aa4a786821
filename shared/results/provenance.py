"""What a result must say of where it came from: machine, code, time."""

import ast
import dis
import functools
import hashlib
import inspect
import platform
import subprocess
import textwrap
import time
from collections.abc import Callable
from types import CodeType
from typing import Any

from shared import paths
from shared.hardware.machine import detect

# What may differ between results of one figure. The rest of a provenance must be equal, the code's hash included.
VOLATILE = {"time", "startup_s", "memory_gib", "git_commit", "git_dirty"}

# The modules that every number depends on, and those of one lab besides, as paths below shared/; "*" is a whole room.
MADE_BY = (
    "processes", "models/choice", "models/weights", "models/llama", "models/llamacpp_library", "engines/*",
    "launch/launcher", "launch/running", "launch/process", "launch/watchdog", "load/*",
    "metrics/summary", "metrics/spread", "metrics/validity", "metrics/correctness", "metrics/roofline",
    "results/packing", "results/step_time", "report/live_panel",
)  # fmt: skip
OF_LAB = {
    "3.3.1": ("course/benchmark/experiments",),
    "3.3.2": (
        "course/batching/mini_engine", "course/batching/paged_kv", "course/batching/mini_load",
        "course/batching/own_text",
    ),
}  # fmt: skip

SIMPLE = bool | int | float | str | None  # what a function may take from outside and be told apart by


def code_sha256(lab: str) -> str:
    """The hash of the code that a lab's numbers depend on: of what runs, committed or not."""
    return source_sha256((*MADE_BY, *OF_LAB.get(lab, ())))


@functools.cache
def source_sha256(modules: tuple[str, ...]) -> str:
    """The hash of these modules as syntax trees without docstrings: what is only described anew stays the same."""
    digest = hashlib.sha256()
    for name in modules:
        for file in sorted((paths.REPO / "shared").glob(f"{name}.py")):
            digest.update(f"{file.relative_to(paths.REPO)}\n{_syntax(file.read_text())}".encode())
    return digest.hexdigest()


def _syntax(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def functions_sha256(*functions: Callable[..., Any]) -> dict[str, str]:
    """The hash of each function of a notebook, by its name, with all of the notebook's functions that it calls.

    Comments, docstrings and the place in a cell don't count; numbers and texts that a function takes from outside do.
    What it calls in a package is not a notebook's: that is in the code's hash, or in the engine's version.
    """
    return {
        function.__name__: hashlib.sha256(_defined(function, set()).encode()).hexdigest()[:16] for function in functions
    }


def _defined(function: Any, seen: set[int]) -> str:
    if id(function) in seen:
        return ""
    seen.add(id(function))
    syntax, names = _source(function)
    closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    outside = {**function.__globals__, **{name: cell.cell_contents for name, cell in closure}}
    parts = [syntax, *(repr(one) for one in (function.__defaults__ or ()) if isinstance(one, SIMPLE))]
    for name in sorted(names & outside.keys()):
        value = outside[name]
        if isinstance(value, SIMPLE):
            parts.append(f"{name} = {value!r}")
        elif inspect.isfunction(value) and _of_notebook(value):
            parts.append(f"{name}: {_defined(value, seen)}")
    return "\n".join(parts)


def _source(function: Any) -> tuple[str, set[str]]:
    """A function's syntax, and the names that it takes from outside; of one without a source of its own, its code."""
    code = function.__code__
    names = {*_globals(code), *code.co_freevars}
    try:
        if function.__name__ == "<lambda>":
            raise OSError("its lines hold more than it")
        return _syntax(textwrap.dedent(inspect.getsource(function))), names
    except (OSError, SyntaxError):
        return _compiled(code), names


def _globals(code: CodeType) -> set[str]:
    """The global names that this code reads, its inner functions included; a local of the same name is none."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_globals(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _compiled(code: CodeType) -> str:
    """The code as text that stays the same from one process to the next."""
    values = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return repr((code.co_code.hex(), values, code.co_names, code.co_varnames))


def _of_notebook(function: Any) -> bool:
    """Whether a cell defined it: its module is __main__, or none where a solution's cell was run by itself."""
    module = function.__module__ or ""
    return module in ("", "__main__", "builtins") or module.startswith("tests.")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def made_here(lab: str) -> dict[str, Any]:
    """Where and when, for every entry that was made here."""
    machine = detect()
    return {
        "time": now(),
        "host": platform.node(),
        "profile": machine.profile,
        "size": machine.size,
        "processor": machine.processor,
        "machine_cores": machine.cores,
        "memory_gib": round(machine.memory_gib, 1),
        "gpu": machine.gpu,
        "git_commit": _git("rev-parse", "--short=12", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--", "shared", "solutions", "environment")),
        "code_sha256": code_sha256(lab),
    }


@functools.cache  # the code that runs is the code that was imported, whatever is committed later
def _git(*arguments: str) -> str | None:
    """What git says of this checkout; None in a copy without history."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=paths.REPO, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
