"""A terminal that isn't UTF-8 shows every output, with ASCII for the signs that it lacks."""

import io
import locale
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import paths, terminal

NOT_UTF_8 = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "cp437"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},  # files are then read as ASCII, too
]
EVERYWHERE = pytest.mark.parametrize("env", NOT_UTF_8, ids=lambda env: " ".join(env.values()))


def run(env: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    return subprocess.run(
        [sys.executable, *command], cwd=paths.REPO, env={**plain, **env}, capture_output=True, encoding="cp437"
    )


@EVERYWHERE
def test_grades_are_shown_and_written(env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "anna" / "3.3.1"
    folder.mkdir(parents=True)
    (folder / "x.json").write_text("torn")
    done = run(env, "-m", "shared.course.grading.grade", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "  x results/3.3.1/x.json is torn" in done.stdout
    assert "is torn" in (tmp_path / "grades.csv").read_text(encoding="utf-8")


@EVERYWHERE
@pytest.mark.parametrize(
    ("module", "expected"),
    [
        ("shared.hardware.doctor", "-> profile"),
        ("shared.hardware.doctor --json", '"machine"'),
        ("shared.hardware.doctor --symptoms", "Collected from published reports"),
        ("shared.course.milestones", "3.3.1"),
    ],
)
def test_commands_show_everything(env: dict[str, str], tmp_path: Path, module: str, expected: str) -> None:
    done = run({**env, "LABS_RESULTS": str(tmp_path)}, "-m", *module.split())
    assert (done.returncode in (0, 1), done.stderr) == (True, "")
    assert expected in done.stdout


def test_output_that_breaks_off_loses_no_grades(tmp_path: Path) -> None:
    (tmp_path / "anna").mkdir()
    command = f"{sys.executable} -m shared.course.grading.grade {tmp_path} | true"
    subprocess.run(["bash", "-c", command], cwd=paths.REPO, capture_output=True)
    assert "anna" in (tmp_path / "grades.csv").read_text()


@pytest.mark.parametrize(
    ("encoding", "of_locale", "asked", "written"),
    [
        ("utf-8", "utf-8", "", "✘ é → 世"),
        ("utf-8", "ANSI_X3.4-1968", "", "✘ é → 世"),  # no locale: Python's UTF-8 mode decides
        ("utf-8", "iso-8859-1", "", "x é -> ?"),  # UTF-8 mode under a locale of another encoding
        ("utf-8", "iso-8859-1", "utf-8", "✘ é → 世"),
        ("iso-8859-1", "iso-8859-1", "", "x é -> ?"),
        ("ascii", "ANSI_X3.4-1968", "", "x e -> ?"),
    ],
)
def test_the_encoding_is_the_terminals(
    monkeypatch: pytest.MonkeyPatch, encoding: str, of_locale: str, asked: str, written: str
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # a notebook's is no file either
    monkeypatch.setattr(locale, "getencoding", lambda: of_locale)
    monkeypatch.setenv("PYTHONIOENCODING", asked)
    terminal.adapt()
    print("✘ é → 世", end="", flush=True)
    assert stream.buffer.getvalue().decode(stream.encoding) == written  # type: ignore[attr-defined]


def test_letters_lose_their_marks_and_no_more() -> None:
    assert "".join(map(terminal.without_marks, "Größe ²")) == "Gro?e 2"
