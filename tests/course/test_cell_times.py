"""A long cell says beforehand how long it takes, from the last time here or from the solution's own run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from IPython.core.events import EventManager, available_events
from nbclient import NotebookClient

from shared import paths
from shared.course import cell_times, checks, registry
from shared.hardware import detect


def run(*sources: str) -> list[str]:
    """What each cell of a notebook printed; the first sets the limit for this test low."""
    first = "from shared.course import cell_times\ncell_times.LONG_S = 1\ncell_times.announce_long_cells('3.3.1')"
    cells = [nbformat.v4.new_code_cell(source) for source in (first, *sources)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, timeout=60).execute()
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in notebook.cells[1:]]


def test_a_cell_that_was_long_here_says_so_the_next_time(own_results: Path) -> None:
    slow, quick = "import time; time.sleep(1.5)", "1 + 1"
    assert run(slow, quick) == ["", ""]
    assert run(slow, quick) == ["About 10 seconds, as last time on this machine.\n", ""]
    assert run(slow + "  # edited") == [""]
    assert (own_results / ".pace.json").exists()


def test_a_first_cell_that_runs_twice_announces_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(events=EventManager(None, available_events))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    for _ in range(2):
        cell_times.announce_long_cells("3.3.1")
    assert [len(shell.events.callbacks[name]) for name in ("pre_run_cell", "post_run_cell")] == [1, 1]


def test_a_cell_that_failed_is_no_measure() -> None:
    with pytest.raises(Exception, match="ZeroDivisionError"):
        run("import time; time.sleep(1.5); 1 / 0")
    assert cell_times.remembered() == {}


def test_the_first_time_the_solutions_own_run_is_the_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    cell_times.solution_took.cache_clear()
    cell = nbformat.v4.new_code_cell("launch()", metadata={cell_times.TOOK: 400})
    notebook = nbformat.v4.new_notebook(cells=[cell])
    notebook["metadata"]["run_on"] = {"processor": "Grace", "cores": 20, "size": detect().size}
    monkeypatch.setattr(checks, "notebook", lambda lab: notebook)
    assert cell_times.announcement("3.3.1", "launch()\n") == "About 7 minutes on 20 cores (Grace)."
    assert cell_times.announcement("3.3.1", "launch(2)") == ""
    cell_times.solution_took.cache_clear()
    notebook["metadata"]["run_on"]["size"] = "another"
    assert cell_times.announcement("3.3.1", "launch()") == ""
    cell_times.solution_took.cache_clear()


@pytest.mark.parametrize("damage", [b"", b"\0" * 50, b"[]", b'{"x": 3}', b"[" * 100_000, b"null"])
def test_a_torn_memory_is_none(damage: bytes) -> None:
    cell_times.remember("a", 30)
    assert cell_times.remembered() == {cell_times.name("a"): 30}
    cell_times.times_file().write_bytes(damage)
    assert cell_times.remembered() == {}
    cell_times.remember("a", 40)
    assert json.loads(cell_times.times_file().read_text())[cell_times.situation()] == {cell_times.name("a"): 40}


def test_a_run_of_another_size_forgets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, seconds in (("full", 300), ("quick", 40)):
        monkeypatch.setenv("LABS_SIZE", size)
        cell_times.remember("a", seconds)
    assert cell_times.remembered() == {cell_times.name("a"): 40}
    monkeypatch.setenv("LABS_SIZE", "full")
    assert cell_times.remembered() == {cell_times.name("a"): 300}


def test_outside_of_a_notebook_nothing_happens() -> None:
    code = "from shared.course import cell_times; cell_times.announce_long_cells('3.3.1')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=paths.REPO, env={**os.environ})


@pytest.mark.parametrize("lab", [lab for lab in registry.LABS.values() if lab.claims], ids=lambda lab: lab.number)
def test_the_long_cells_of_a_solution_carry_what_they_took(lab: registry.Lab) -> None:
    notebook = checks.notebook(lab)
    assert notebook["metadata"]["run_on"]["size"] == "full"
    long = {cell["id"] for cell in notebook["cells"] if cell_times.TOOK in cell["metadata"]}
    longest = {
        "3.3.1": "run-load", "3.3.2": "run-load", "3.3.3": "measure-curve", "3.3.4": "measure-vllm",
        "3.3.5": "overload-yours", "3.3.6": "parallel",
    }  # fmt: skip
    assert longest[lab.number] in long
