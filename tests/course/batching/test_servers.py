"""The servers of lab 3.3.2: each has a name of its own, so a cell that is run again measures the one that it names."""

import ast
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError, hardware
from shared.course import checks, registry
from tests import machines

STARTS = ("launch", "typed.find_or_launch")
CELLS = [c for c in checks.notebook(registry.find_lab("3.3.2"))["cells"] if c["cell_type"] == "code"]


def servers() -> dict[str, set[str]]:
    """For each name that the cells give to a server: the flags, as they are written in the cells."""
    found: dict[str, set[str]] = {}
    for cell in CELLS:
        given = [node for node in ast.walk(ast.parse(cell["source"])) if isinstance(node, ast.Assign)]
        for node in given:
            if isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in STARTS:
                [name] = map(ast.unparse, node.targets)
                found.setdefault(name, set()).add(ast.unparse(node.value.args[2]))
    return found


def test_no_later_cell_gives_a_servers_name_to_another_one() -> None:
    found = servers()
    assert found.keys() == {"vllm", "one_seat_vllm", "scarce_vllm", "compiled_vllm", "split_vllm"}
    assert {name for name, flags in found.items() if len(flags) > 1} == set()


def test_a_load_names_its_server() -> None:
    """A function that took the server from outside would take whichever was started last."""
    [source] = [c["source"] for c in CELLS if c["id"] == "run-load"]
    [function] = [n for n in ast.walk(ast.parse(source)) if getattr(n, "name", "") == "short_load"]
    assert isinstance(function, ast.FunctionDef)
    assert function.args.args[0].arg == "server"
    assert not {n.id for n in ast.walk(function) if isinstance(n, ast.Name)} & servers().keys()


@pytest.mark.parametrize("size", ["quick", "full"])
def test_at_the_quick_size_the_vllm_of_lab_3_3_1_has_the_flags_of_this_lab(size: str) -> None:
    """Where tests run many notebooks, this lab then goes on with it, and needs no start of its own."""
    asked: dict[str, Any] = {}
    machine = replace(hardware.detect(machines.machine("no-gpu")), size=size)
    names = {
        "machine": machine, "effort": machine.effort, "model": None, "users_at_once": (1, 4, 16, 32),
        "lab": SimpleNamespace(start_engines=lambda model, engines: asked.update(engines)),
    }  # fmt: skip
    [start] = [c for c in checks.notebook(registry.find_lab("3.3.1"))["cells"] if c["id"] == "start-engines"]
    exec(start["source"], names)
    [launched] = [c["source"] for c in CELLS if c["id"] == "launch-vllm"]
    flags = ast.literal_eval(ast.parse(launched).body[0].value)  # type: ignore[attr-defined]
    assert (asked["vllm"] == flags) == (size == "quick")  # at the full size the prompts of lab 3.3.1 are too long
    contexts = {names["context"], asked["ollama"]["OLLAMA_CONTEXT_LENGTH"], asked["llamacpp"]["-c"] // 32}
    assert contexts == {asked["vllm"]["--max-model-len"]}


@pytest.mark.parametrize("size", ["quick", "full"])
def test_a_start_that_the_labs_refuse_is_told_by_their_own_sentence(
    size: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a Spark the sum of the memory refuses a long context before vLLM can."""

    def launch(*_: object, **more: object) -> None:
        raise LabError("vLLM needs too much memory.", "use a shorter context")

    [cell] = [c for c in CELLS if c["id"] == "wrong-starts"]
    exec(cell["source"], {"machine": SimpleNamespace(size=size), "launch": launch, "model": None, "flags": {}})
    said = capsys.readouterr().out.splitlines()
    if size == "quick":
        assert said == ["not tried at the quick size"]
    else:
        assert len(said) == 2
        assert all(line.endswith("}: vLLM needs too much memory.") for line in said)
