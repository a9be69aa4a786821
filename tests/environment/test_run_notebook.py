"""`make report`'s program on tiny notebooks: output is shown, and every way of ending gives one plain message."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from shared import paths
from tests.helpers.processes import appears


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path / "results"))
    (tmp_path / "results").mkdir()


def notebook(folder: Path, code: str) -> Path:
    cell = nbformat.v4.new_code_cell(code, id="the-cell")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "tiny.ipynb")
    return folder / "tiny.ipynb"


def start(*arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "environment.run_notebook", *arguments],
        cwd=paths.REPO,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def test_it_prints_what_a_notebook_prints_and_writes_a_copy(tmp_path: Path) -> None:
    file = notebook(tmp_path, "print('hello')")
    before = file.read_bytes()
    process = start(file)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "the-cell\nhello\n" in out
    assert file.read_bytes() == before
    [cell] = nbformat.read(tmp_path / "results" / "tiny.ipynb", as_version=4).cells
    assert cell.outputs[0].text == "hello\n"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "The notebook stopped because this cell failed. ZeroDivisionError: division by zero\n"),
        ("import os; os._exit(1)", "kernel died, perhaps because memory ran out.\nFix: close other programs, then run"),
    ],
)
def test_a_cell_that_fails_ends_it(tmp_path: Path, code: str, message: str) -> None:
    process = start(notebook(tmp_path, code))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    waiting = (
        f"from pathlib import Path; Path({str(tmp_path / 'waiting')!r}).write_text('x'); import time; time.sleep(60)"
    )
    process = start(notebook(tmp_path, waiting))
    appears(tmp_path / "waiting")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "\nStopped. The results so far are in results/. The notebook's engines end now.\n"


@pytest.mark.parametrize("arguments", [[], ["nowhere.ipynb"]])
def test_without_a_notebook_it_shows_the_command(arguments: list[str]) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("One notebook is expected, and ")
    assert "\nFix: .venv/bin/python -m environment.run_notebook " in err
