"""`make report`'s program on tiny notebooks: output is shown, and every way of ending gives one plain message."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from shared import paths
from tests.helpers.processes import INTERRUPTED, appears


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path / "results"))
    (tmp_path / "results").mkdir()


def notebook(folder: Path, code: str, before: str = "") -> Path:
    cells = [nbformat.v4.new_code_cell(before, id="before")] if before else []
    cells.append(nbformat.v4.new_code_cell(code, id="the-cell"))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "tiny.ipynb")
    return folder / "tiny.ipynb"


def kept(folder: Path) -> list[str]:
    """What each cell printed, by the copy of a run that did not come to its end."""
    cells = nbformat.read(folder / "results" / "unfinished-tiny.ipynb", as_version=4).cells
    return ["".join(output.get("text", output.get("ename", "")) for output in cell.outputs) for cell in cells]


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
    assert [file.name for file in (tmp_path / "results").glob("*.ipynb")] == ["tiny.ipynb"]


def test_only_a_report_of_this_run_is_named(tmp_path: Path) -> None:
    report = tmp_path / "results" / "report.html"
    report.write_text("of an earlier run")
    os.utime(report, (0, 0))
    out, _ = start(notebook(tmp_path, "print('hello')")).communicate(timeout=120)
    assert "Report:" not in out
    write = f"import pathlib; _ = pathlib.Path({str(report)!r}).write_text('new')"
    out, _ = start(notebook(tmp_path, write)).communicate(timeout=120)
    assert f"Report: {report} and {report.with_suffix('.md')}\n" in out


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", "The notebook stopped because this cell failed. ZeroDivisionError: division by zero\n"),
        ("import os; os._exit(1)", "kernel died, perhaps because memory ran out.\nFix: close other programs, then run"),
    ],
)
def test_a_cell_that_fails_ends_it(tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "results" / "tiny.ipynb").write_text("an earlier whole run")
    process = start(notebook(tmp_path, code, before="print('measured')"))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert message in err
    assert err.endswith("unfinished-tiny.ipynb.\n")
    assert "Traceback" not in err, err
    assert kept(tmp_path)[0] == "measured\n"
    assert (tmp_path / "results" / "tiny.ipynb").read_text() == "an earlier whole run"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_with_one_line(tmp_path: Path, number: signal.Signals) -> None:
    waiting = (
        f"from pathlib import Path; Path({str(tmp_path / 'waiting')!r}).write_text('x'); import time; time.sleep(60)"
    )
    process = start(notebook(tmp_path, waiting, before="print('measured')"))
    appears(tmp_path / "waiting")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode in INTERRUPTED
    shown = paths.show(tmp_path / "results" / "unfinished-tiny.ipynb")
    assert err == f"\nStopped. The notebook's engines end now.\nThe cells that ran are kept in {shown}.\n"
    assert kept(tmp_path)[0] == "measured\n"


def with_patience(seconds: float, file: Path, *more: str) -> "subprocess.CompletedProcess[str]":
    """Run the notebook as `start` does; a cell without a sign of life is stopped after so many seconds."""
    code = f"""
import sys
import environment.run_notebook as runner
runner.SILENT_S = {seconds}
sys.argv[1:] = {[*more, str(file)]!r}
sys.exit(runner.main())
"""
    return subprocess.run([sys.executable, "-c", code], cwd=paths.REPO, capture_output=True, text=True, timeout=120)


SLOW = {
    "prints": "import time\nfor _ in range(10):\n    time.sleep(0.5)\n    print('.', end='', flush=True)",
    "computes": "import time\nend = time.monotonic() + 5\nwhile time.monotonic() < end:\n    pass\nprint('done')",
    "waits for a program that computes": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 4: pass'])",
}


@pytest.mark.parametrize("how", SLOW)
def test_a_slow_cell_that_shows_signs_of_life_is_not_ended(tmp_path: Path, how: str) -> None:
    done = with_patience(3, notebook(tmp_path, SLOW[how]))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_cell_without_a_sign_of_life_is_stopped_and_what_ran_is_kept(tmp_path: Path) -> None:
    file = notebook(tmp_path, "import time; time.sleep(100)", before="print('measured')")
    before = file.read_bytes()
    done = with_patience(3, file, "--in-place")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "\nThe cell the-cell printed nothing and used hardly any CPU time for 0.05 minutes, so"
    )
    assert "Traceback" not in done.stderr
    assert kept(tmp_path) == ["measured\n", ""]
    assert file.read_bytes() == before


def test_a_killed_runner_leaves_what_its_long_cells_printed(tmp_path: Path) -> None:
    waiting = f"open({str(tmp_path / 'waiting')!r}, 'w').write('x'); import time; time.sleep(60)"
    file = notebook(tmp_path, waiting, before="print('measured')")
    code = f"""
import sys
from shared.course import cell_times
cell_times.LONG_S = 0
import environment.run_notebook as runner
sys.argv[1:] = [{str(file)!r}]
runner.main()
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=paths.REPO, stdout=subprocess.DEVNULL)
    appears(tmp_path / "waiting")
    process.kill()
    process.wait()
    assert kept(tmp_path)[0] == "measured\n"


@pytest.mark.parametrize("arguments", [[], ["nowhere.ipynb"]])
def test_without_a_notebook_it_shows_the_command(arguments: list[str]) -> None:
    process = start(*arguments)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("One notebook is expected, and ")
    assert "\nFix: .venv/bin/python -m environment.run_notebook " in err
