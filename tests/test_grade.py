"""An instructor's table: right for honest students, and not to be stopped or fooled by a broken or hostile folder."""

import csv
import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ledger import fill

from shared import paths, tally
from shared.report import build_report

LAB = "lab-3.3.1-engine-benchmark.ipynb"
ENGINES = {"ollama": 11.0, "llamacpp": 10.0, "vllm": 20.0, "sglang": 25.0}


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a student who has done everything."""
    folder = tmp_path_factory.mktemp("complete") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABS_RESULTS", str(folder))
        patch.setattr("shared.plots.browser", lambda: None)  # no pictures: they take seconds each
        fill(ENGINES, rounds=2)
        build_report("3.3.1")
        for name in ("ceiling_tok_s", "ttft_ms", "tpot_ms", "output_tok_s", "ahead"):
            tally.note("3.3.1", name, attempts=1, outcome="correct", uses="own")
    return folder


@pytest.fixture
def submissions(tmp_path: Path) -> Path:
    folder = tmp_path / "submissions"
    folder.mkdir()
    return folder


def graded(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of grades.csv, by student; the table that was printed under "printed"."""
    command = [sys.executable, "-m", "shared.grade", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stderr
    with (folder / "grades.csv").open(newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return {**rows, "printed": {"text": done.stdout}}


def another(complete: Path, folder: Path, number: int) -> Path:
    """The same results as another student would have measured them: no raw file is the same."""
    shutil.copytree(complete, folder)
    for raw in folder.glob("*/*.json.gz"):
        about = raw.stat()
        raw.write_bytes(gzip.compress(gzip.decompress(raw.read_bytes()), number))
        os.utime(raw, ns=(about.st_atime_ns, about.st_mtime_ns))
    return folder


def state(folder: Path) -> dict[str, Any]:
    return {str(f): (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file() and
            f.name != "grades.csv"}  # fmt: skip


def test_honest_students_get_what_they_have_done(submissions: Path, complete: Path, own_results: Path) -> None:
    another(complete, submissions / "ada" / "results", 1)
    helped = another(complete, submissions / "bob" / "deep" / "er" / "results", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABS_RESULTS", str(helped))
        tally.note("3.3.1", "ttft_ms", hints=2)
        tally.note("3.3.1", "tpot_ms", revealed=True)
        tally.note("3.3.1", "ahead", outcome="incorrect")
    (submissions / "eve").mkdir()
    before = state(submissions)
    rows = graded(submissions)
    assert state(submissions) == before
    ada, bob, eve = rows["ada"], rows["bob"], rows["eve"]
    assert (ada["claims"], ada["alone"], ada["problems"]) == ("7 of 7", "5", "")
    assert ada["machine"] != ""
    assert (bob["alone"], bob["hinted"], bob["revealed"], bob["open"]) == ("2", "1", "1", "1")
    assert (eve["claims"], eve["open"], eve["problems"]) == ("0 of 7", "5", "")
    assert "| ada " in rows["printed"]["text"]
    assert not own_results.exists()


def test_an_edited_figure_is_named(submissions: Path, complete: Path) -> None:
    folder = another(complete, submissions / "mallory" / "results", 3)
    ledger = json.loads((folder / "3.3.1.json").read_text())
    ledger["load/users-4/vllm/round-1"]["values"]["output_tok_s"] = 9999
    ledger["load/users-4/sglang/round-1"]["provenance"]["code_sha256"] = "0" * 64
    (folder / "3.3.1.json").write_text(json.dumps(ledger))
    row = graded(submissions)["mallory"]
    assert row["claims"].endswith("of 7")
    assert row["claims"] != "7 of 7"
    assert "it differs from the copy beside its raw data" in row["problems"]
    assert "measured by other code than this checkout's" in row["problems"]


def test_the_same_raw_data_twice_is_named_to_both(submissions: Path, complete: Path) -> None:
    for name in ("ada", "copycat"):
        shutil.copytree(complete, submissions / name / "results")
    rows = graded(submissions)
    assert "raw data identical to that of copycat" in rows["ada"]["problems"]
    assert "raw data identical to that of ada" in rows["copycat"]["problems"]


def test_notebooks_are_read_and_never_run(submissions: Path, complete: Path) -> None:
    another(complete, submissions / "ada" / "results", 4)
    shutil.copy(paths.REPO / "labs" / LAB, submissions / "ada" / LAB)
    bomb = nbformat.v4.new_notebook()
    code = f"import pathlib; pathlib.Path({str(submissions / 'ran')!r}).touch()"
    bomb.cells = [nbformat.v4.new_code_cell(code, id="ex-ttft")]
    another(complete, submissions / "bob" / "results", 5)
    nbformat.write(bomb, submissions / "bob" / LAB)
    rows = graded(submissions)
    assert "ttft_ms is noted as right, but its cell is untouched" in rows["ada"]["problems"]
    assert rows["bob"]["problems"] == ""
    assert not (submissions / "ran").exists()


def test_hostile_folders_are_named_and_stop_nothing(submissions: Path, complete: Path) -> None:
    def student(name: str) -> Path:
        folder = submissions / name / "results"
        folder.mkdir(parents=True)
        return folder

    another(complete, submissions / "zoe" / "results", 6)  # the last of all: she is graded
    (student("deep") / "3.3.1.json").write_text("[" * 200_000)
    (student("huge-number") / "3.3.1.json").write_text('{"a": ' + "9" * 10_000 + "}")
    with (student("huge") / "3.3.1.json").open("wb") as file:
        file.truncate(2**30)
    bomb = student("bomb") / "3.3.1"
    bomb.mkdir()
    (bomb.parent / "3.3.1.json").write_text("{}")
    with gzip.open(bomb / "load--users-1--vllm--round-1.json.gz", "wb", 1) as packed:
        for _ in range(300):
            packed.write(b" " * 2**20)
    (student("binary") / "3.3.1.exercises.json").write_bytes(os.urandom(1000))
    outside = submissions.parent / "secret.json"
    outside.write_text('{"secret": "of another"}')
    (student("linker") / "3.3.1.json").symlink_to(outside)
    (submissions / "linker" / "results" / "3.3.1").symlink_to(submissions / "zoe" / "results" / "3.3.1")
    (submissions / "linked").symlink_to(submissions / "zoe")
    os.mkfifo(student("pipe") / "3.3.1.json")
    (student("=cmd|calc!A0") / "3.3.1.json").write_text("{}")
    (student("<script>alert(1)</script>"[:-9]) / "3.3.1.json").write_text('{"<b>": 3}')
    (student("two\nlines\x1b[31m") / "3.3.1.json").write_text("{}")
    os.makedirs(os.fsencode(submissions) + b"/caf\xe9/results")
    (submissions / "no-notebook").mkdir()
    (submissions / "no-notebook" / LAB).write_text("[[[")

    rows = graded(submissions)
    assert (rows["zoe"]["claims"], rows["zoe"]["problems"]) == ("7 of 7", "")
    assert "is torn or no ledger" in rows["deep"]["problems"]
    assert "is torn or no ledger" in rows["huge-number"]["problems"]
    assert "3.3.1.json is too large or one too many: left out" in rows["huge"]["problems"]
    assert "is torn or no result" in rows["bomb"]["problems"]
    assert rows["binary"]["open"] == "5"
    assert "3.3.1.json is a link: left out" in rows["linker"]["problems"]
    assert "results/3.3.1 is a link: left out" in rows["linker"]["problems"]
    assert rows["linked"]["problems"] == "a link, not a folder: left out"
    assert "3.3.1.json is no file: left out" in rows["pipe"]["problems"]
    assert "'=cmd|calc!A0" in rows
    assert "1 of its entries are torn" in rows["<script>alert(1)"]["problems"]
    assert "two lines [31m" in rows
    assert "caf\N{REPLACEMENT CHARACTER}" in rows
    assert rows["no-notebook"]["claims"] == "0 of 7"
    assert "\x1b" not in rows["printed"]["text"]
    assert "secret" not in rows["printed"]["text"] + (submissions / "grades.csv").read_text()
    assert not any(value.startswith(("=", "+", "-", "@")) for row in rows.values() for value in row.values())


@pytest.mark.parametrize(("folder", "said"), [("", "Whose work"), ("missing", "can't be read"), (".", "no folders")])
def test_a_folder_without_students_is_said(submissions: Path, folder: str, said: str) -> None:
    command = [sys.executable, "-m", "shared.grade", folder]
    done = subprocess.run(command, capture_output=True, text=True, cwd=submissions)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Fix: " in done.stderr
