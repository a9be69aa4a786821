"""How notebooks are run by nbval here: a broken cell fails the run, engines are shared, their logs are shown."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from shared import paths
from shared.processes import port_taken
from tests.helpers.processes import eventually

pytestmark = pytest.mark.engine

LAUNCH = """
from shared import hardware, models
from shared.launch import launch
engine = launch("llamacpp", models.choose(hardware.detect()), {"-np": 2, "-c": 4096})
"""
SAME_AS_BEFORE = "earlier = open('../port').read(); assert earlier == str(engine.port), (earlier, engine.port)"
NOTEBOOKS = {
    "a": [LAUNCH, "open('../port', 'w').write(str(engine.port)); engine.stop(); assert engine.alive"],
    "b": [LAUNCH, SAME_AS_BEFORE, "1 / 0", "engine.stop()"],
    "c": [LAUNCH.replace("2,", "4,"), "assert open('../port').read() != str(engine.port); assert engine.alive"],
    "d": ["raise KeyboardInterrupt", "assert False"],
    "e": [LAUNCH, SAME_AS_BEFORE],  # held still while c had one with other flags
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, Path]:
    """Five notebooks in one run: exit code, what pytest printed, where."""
    folder = tmp_path_factory.mktemp("nbval")
    (folder / "labs").mkdir()
    for name, sources in NOTEBOOKS.items():
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "labs" / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-p", "tests.helpers.nbval_plugin", "-p", "no:cacheprovider",
               "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout", "120", "-rA",
               str(folder / "labs")]  # fmt: skip
    env = {**os.environ, "LABS_RESULTS": str(folder / "results")}
    done = subprocess.run(command, cwd=paths.REPO, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout, folder


def outcome(said: str, name: str) -> list[str]:
    return re.findall(rf"^(PASSED|FAILED) \S*{name}\.ipynb::Cell (?:\d+)", said, re.M)


def test_a_broken_cell_fails_the_run(ran: tuple[int, str, Path]) -> None:
    code, said, _ = ran
    assert code == 1
    assert sorted(outcome(said, "b")) == ["FAILED", "PASSED", "PASSED", "PASSED"]
    assert outcome(said, "d") == ["FAILED", "FAILED"]
    assert "ZeroDivisionError" in said


def test_the_next_notebook_goes_on_with_the_engine_of_the_one_before(ran: tuple[int, str, Path]) -> None:
    _, said, _ = ran
    assert outcome(said, "a") == outcome(said, "c") == outcome(said, "e") == ["PASSED", "PASSED"]


def test_the_run_ends_with_the_time_of_each_notebook(ran: tuple[int, str, Path]) -> None:
    _, said, _ = ran
    times = re.findall(r"^ +\d+\.\ds \S*?([a-e])\.ipynb$", said.partition("= notebooks =")[2], re.M)
    assert sorted(times) == ["a", "b", "c", "d", "e"]


def test_the_logs_of_the_engines_stand_below_the_error(ran: tuple[int, str, Path]) -> None:
    _, said, _ = ran
    failed = said[said.index("ZeroDivisionError") :]
    assert "log of llamacpp, its last lines" in failed
    assert re.search(r"srv|slot|llama", failed.split("log of llamacpp")[1][:2000])


def test_nothing_is_left_when_the_run_is_over(ran: tuple[int, str, Path]) -> None:
    _, _, folder = ran
    port = int((folder / "port").read_text())
    assert eventually(lambda: not port_taken(port))
