"""The provenance of a result: machine, code and time."""

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

# Fields that may differ between results of one figure. The rest of the provenance must be equal, code hash included.
VOLATILE = {"time", "startup_s", "memory_gib", "git_commit", "git_dirty"}

# The modules that every number depends on, as paths below shared/ ("*" is a whole room), and those of one lab.
MADE_BY = (
    "processes", "models/choice", "models/weights", "models/llama", "models/llamacpp_library", "engines/*",
    "launch/launcher", "launch/running", "launch/process", "launch/watchdog", "load/*",
    "metrics/summary", "metrics/spread", "metrics/validity", "metrics/correctness", "metrics/roofline",
    "results/packing", "results/step_time", "report/live_panel",
)  # fmt: skip
OF_LAB = {
    "3.3.1": ("course/benchmark/experiments", "course/benchmark/line_up/runs"),
    "3.3.2": (
        "course/batching/mini_engine", "course/batching/paged_kv", "course/batching/mini_load",
        "course/batching/own_text",
    ),
    "3.3.3": (
        "course/prefill/ahead_of_time/*", "course/prefill/curve", "course/prefill/experiments", "course/prefill/kit",
        "course/prefill/mix", "course/prefill/quality", "course/prefill/servers",
    ),
    "3.3.4": (
        "course/speculation/choose", "course/speculation/draft_and_verify", "course/speculation/drafts",
        "course/speculation/exactness", "course/speculation/experiments", "course/speculation/eagle3/*",
        "course/speculation/on_engines/*",
    ),
    "3.3.5": (
        "course/gateway/fault_proxy", "course/gateway/five_failures", "course/gateway/grade_run",
        "course/gateway/injections", "course/gateway/naive_gateway", "course/gateway/overload",
        "course/gateway/running", "course/gateway/seven_faults/*",
    ),
    "3.3.6": (
        "course/webui/ollama_api", "course/webui/chat_widget", "course/webui/browser_checks",
        "course/webui/in_chromium/*", "course/webui/render_lag", "course/webui/own_renderer",
        "course/webui/open_webui", "course/webui/open_webui_experiments", "course/webui/student_webui",
    ),
}  # fmt: skip

SIMPLE = bool | int | float | str | None  # types of outside values that count for a function's hash


def code_sha256(lab: str) -> str:
    """The hash of the code that a lab's numbers depend on, as it is on disk, committed or not."""
    return source_sha256((*MADE_BY, *OF_LAB.get(lab, ())))


@functools.cache
def source_sha256(modules: tuple[str, ...]) -> str:
    """The hash of these modules as syntax trees without docstrings, so that a new docstring changes nothing."""
    digest = hashlib.sha256()
    for name in modules:
        for file in sorted((paths.REPO / "shared").glob(f"{name}.py")):
            digest.update(f"{file.relative_to(paths.REPO)}\n{syntax(file.read_text())}".encode())
    return digest.hexdigest()


def syntax(source: str) -> str:
    """The source as a syntax tree without docstrings: comments and layout don't show in it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def functions_sha256(*functions: Callable[..., Any]) -> dict[str, str]:
    """The hash of each of these functions of a notebook, by name. It includes the notebook's functions that they call.

    Comments, docstrings and the place in a cell don't count. Numbers and texts that a function takes from outside do.
    Functions of a package don't count, because the code hash or the engine's version covers them.
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
    """A function's syntax (its compiled code if there is no source), and the names that it takes from outside."""
    code = function.__code__
    names = {*_globals(code), *code.co_freevars}
    try:
        if function.__name__ == "<lambda>":
            raise OSError("its lines hold more than it")
        return syntax(textwrap.dedent(inspect.getsource(function))), names
    except (OSError, SyntaxError):
        return _compiled(code), names


def _globals(code: CodeType) -> set[str]:
    """The global names that this code and its inner functions read. A local of the same name doesn't count."""
    own = {one.argval for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_globals(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def _compiled(code: CodeType) -> str:
    """The compiled code as text that is the same in every process."""
    values = [_compiled(one) if isinstance(one, CodeType) else repr(one) for one in code.co_consts]
    return repr((code.co_code.hex(), values, code.co_names, code.co_varnames))


def _of_notebook(function: Any) -> bool:
    """Whether a cell defined the function: its module is __main__, or empty where a cell was run by itself."""
    module = function.__module__ or ""
    return module in ("", "__main__", "builtins") or module.startswith("tests.")


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def made_here(lab: str) -> dict[str, Any]:
    """The machine, the code and the time, for an entry that is made on this machine."""
    machine = detect()
    return {
        "time": now(),
        "host": platform.node(),
        "profile": machine.profile,
        "size": machine.size,
        "processor": machine.processor,
        "machine_cores": machine.cores,
        "memory_gib": None if machine.memory_gib is None else round(machine.memory_gib, 1),
        "gpu": machine.gpu,
        "git_commit": _git("rev-parse", "--short=12", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--", "shared", "solutions", "environment")),
        "code_sha256": code_sha256(lab),
    }


@functools.cache  # the code that runs is the code that was imported, even if more is committed later
def _git(*arguments: str) -> str | None:
    """The output of this git command in the repository; None in a copy without history, or without git."""
    try:
        answer = subprocess.run(["git", *arguments], cwd=paths.REPO, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
