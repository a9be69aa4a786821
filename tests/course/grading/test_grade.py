"""The results and notebooks of many students are graded without running or trusting any of them."""

import contextlib
import csv
import gzip
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import LabError, paths, results
from shared.course import attempts, milestones, registry
from shared.course.benchmark.comparison import build_report
from shared.course.grading import grade, one_student, submissions
from shared.results import reading
from tests.helpers.ledger import change, fill
from tests.helpers.processes import INTERRUPTED, START_S, eventually

LAB = registry.find_lab("3.3.1")
KEY = "load/users-4/vllm/round-1"
NO_CODE = "not compared: 9 exercises count as correct, but no code of them was handed in"
Row = dict[str, str]


def student(folder: Path, drift: float, place: str = "results") -> Path:
    """A student for whom all claims hold; `drift` makes the results differ from another student's."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("LABS_RESULTS", str(folder / place))
        here.setattr("shared.report.plots.browser", lambda: None)  # no pictures: they take seconds each
        here.setattr("os.fsync", lambda _: None)
        fill({"ollama": 11 + drift, "llamacpp": 10 + drift, "vllm": 20 + drift, "sglang": 25 + drift}, rounds=2)
        build_report("3.3.1")
        for exercise in LAB.exercises:
            attempts.add_attempt("3.3.1", exercise.function, attempts=1, outcome="correct", uses="own")
    return folder


def noted(folder: Path, function: str, **changes: Any) -> None:
    with pytest.MonkeyPatch.context() as here:
        here.setenv("LABS_RESULTS", str(folder))
        attempts.add_attempt("3.3.1", function, **changes)


def entry_file(folder: Path, key: str) -> Path:
    return folder / "3.3.1" / f"{reading.file_name(key)}.json"


def changed(folder: Path, key: str, by: Callable[[dict[str, Any]], None]) -> None:
    """Change an entry with its raw data, in both places."""
    file = entry_file(folder, key)
    raw = file.with_name(f"{file.name}.gz")
    stored = json.loads(gzip.decompress(raw.read_bytes()))
    by(stored)
    raw.write_bytes(gzip.compress(json.dumps(stored).encode()))
    os.utime(raw, (1, 1))  # no newer than the report
    file.write_text(json.dumps(stored["entry"]))


def put(folder: Path, key: str, **other: Any) -> Path:
    """Write a result as the labs do, but without raw data and with the changes in `other`. Returns its file."""
    file = entry_file(folder, key)
    source = {"time": "2026-01-01T00:00:00", "host": "h", "processor": "p", "code_sha256": "0" * 64}
    entry = {"schema": reading.SCHEMA, "key": key, "kind": "measured", "values": {}, "provenance": source}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entry | other))
    return file


def notebook(file: Path, source: Path, last_cell: str = "") -> None:
    """A lab's notebook, with one more cell at its end."""
    there = json.loads((source / LAB.notebook).read_text())
    there["cells"].append({"cell_type": "code", "id": "mine", "metadata": {}, "source": last_cell, "outputs": []})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(there))


def good_and_less_good(folder: Path) -> None:
    anna = student(folder / "anna", 0)
    notebook(anna / "labs" / LAB.notebook, paths.REPO / "solutions")
    shutil.copy(paths.REPO / "labs" / LAB.notebook, anna / "results")  # one that she left as it was
    ben = student(folder / "ben", 0.1, "handed in/module 3/results")
    there = ben / "handed in/module 3/results"
    noted(there, "latencies_ms", hints=2)
    noted(there, "output_tok_s", revealed=True)
    noted(there, "ahead", outcome="incorrect")
    changed(there, KEY, lambda s: s["entry"]["provenance"].update(code_sha256="0" * 64, host="b", processor="=1+1"))
    carla = student(folder / "carla", 0.2)
    change(entry_file(carla / "results", KEY), lambda entry: entry["values"].update(output_tok_s=9999.0))
    dora = student(folder / "dora", 0.3)
    shutil.copytree(dora, folder / "emil")
    code = f"open({str(folder / 'was-run')!r}, 'w').close()"
    notebook(folder / "emil" / LAB.notebook, paths.REPO / "labs", code)


def hostile(folder: Path) -> None:
    outside = folder.parent / "secret.json"
    outside.write_text('{"secret": 1}')
    (folder / "fay").mkdir()  # empty
    gus = folder / "gus" / "results"
    put(gus, "load/bomb")
    with gzip.open(gus / "3.3.1" / "load--bomb.json.gz", "wb", 9) as bomb:
        for _ in range(reading.LARGEST // 2**24 + 1):
            bomb.write(bytes(2**24))
    with (gus / "3.3.1" / "x.json").open("wb") as huge:
        huge.truncate(submissions.FILE_LIMIT + 1)
    hal = folder / "hal"
    put(hal, "x").write_text("[" * 10**6)
    put(hal, "own/figures").rename(hal / "3.3.1" / "other.json")
    (hal / "3.3.1" / os.fsdecode(b"\xff\x1b[31m.json")).write_bytes(b"\0" * 100)
    (hal / "3.3.1.exercises.json").write_text('{"latencies_ms":' * 10**5)
    (hal / "lab-3.3.1-x.ipynb").write_text('{"cells": [1]}')
    (hal / "yours-lab-3.3.1-y.ipynb").write_bytes(b"\xff\x00")
    ida = student(folder / "ida", 0.4) / "results"
    changed(ida, KEY, lambda s: s["traces"]["sent_ns"].__setitem__(0, 10**4000))
    changed(ida, "greedy/vllm", lambda s: s.update(raw=[{"gaps": 10**4000}]))
    changed(ida, "own/figures", lambda s: s.update(raw=["no", "figures"]))
    jon = folder / "jon"
    put(jon, "own/figures")
    (jon / "results").symlink_to(folder / "anna" / "results")
    (jon / "3.3.2").symlink_to(folder / "anna" / "results" / "3.3.1")
    (jon / "3.3.1" / "x.json").symlink_to(outside)
    (jon / "3.3.1.json").symlink_to(outside)
    (jon / "lab-3.3.1-x.ipynb").symlink_to(outside)
    (folder / "kim").symlink_to(folder / "anna")
    lea = folder / "lea"
    (lea / "3.3.1").mkdir(parents=True)
    os.mkfifo(lea / "3.3.1" / "x.json")
    os.mkfifo(lea / "3.3.1" / "load--x.json.gz")
    with socket.socket(socket.AF_UNIX) as s, contextlib.chdir(lea):
        s.bind("report.md")
    evil = folder / "=cmd()|'\x1b[31m\n<b>ü"
    source = {"time": "\x1b[2J", "processor": "@SUM(1)\n\x1b]0;x\x07<script>", "host": "\ud800"}
    put(evil, "greedy/vllm", provenance=source)
    strange = Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))
    put(strange, "x", provenance=source, schema=10**9)
    put(folder / "max" / "1" / "2" / "3" / "4", "x")
    old = put(folder / "pat", "x", schema=2)
    (folder / "pat" / "3.3.1.json").write_text(json.dumps({"x": json.loads(old.read_text())}))
    (folder / "nina.zip").write_bytes(b"PK")


def everything(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file and folder below: its time, its mode, a hash of its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found[str(path)] = (status.st_mtime_ns, status.st_mode, hashlib.sha256(data).hexdigest())
    return found


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole class, graded once by the command: (its folder, the output, the rows of the CSV by student)."""
    folder = tmp_path_factory.mktemp("class") / "submissions"
    good_and_less_good(folder)
    hostile(folder)
    before = everything(folder)
    scratch = tmp_path_factory.mktemp("scratch")
    file = folder.parent / "grades.csv"
    command = [sys.executable, "-m", "shared.course.grading.grade", str(folder), "--csv", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(scratch)})
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert not list(scratch.iterdir())
    assert everything(folder) == before
    with file.open(newline="") as table:
        rows = {row["student"]: row for row in csv.DictReader(table) if row["lab"] == LAB.number}
    return folder, done.stdout, rows


@pytest.fixture
def rows(judged: Any) -> dict[str, Row]:
    return judged[2]  # type: ignore[no-any-return]


def exercises(row: Row) -> list[str]:
    return [row[name] for name in ("right alone", "with hints", "revealed", "open")]


def test_a_whole_student_has_every_claim_and_no_problem(rows: dict[str, Row]) -> None:
    anna = rows["anna"]
    assert (anna["lab"], anna["claims"], anna["problems"], anna["notes"]) == ("3.3.1", "8 of 8", "", "")
    assert exercises(anna) == ["9", "0", "0", "0"]
    assert anna["machine"]


def test_hints_revealed_solutions_other_hosts_and_other_code_are_told(judged: Any) -> None:
    folder, _, rows = judged
    ben = rows["ben"]
    assert ben["claims"] == "8 of 8"
    assert exercises(ben) == ["6", "1", "1", "1"]
    assert ben["machine"].endswith("(2 hosts)")
    entries = [json.loads(file.read_bytes()) for file in folder.glob("ben/**/3.3.1/*.json")]
    measured = sum(entry["kind"] == "measured" for entry in entries)
    assert ben["notes"] == f"1 of {measured} results were made by other code than this checkout's"
    assert ben["problems"] == NO_CODE.replace("9", "8")


def test_an_edited_figure_is_refused_by_name(rows: dict[str, Row]) -> None:
    assert rows["carla"]["claims"] == "2 of 8"
    assert rows["carla"]["problems"] == (
        f"claims 2, 3, 4, 5, 6, 8: refused: {KEY}: it differs from the copy beside its raw data: "
        f"run the cell `run-load` again; {NO_CODE}"
    )


def test_students_with_the_same_raw_data_are_named_to_each_other(rows: dict[str, Row]) -> None:
    for one, other in (("dora", "emil"), ("emil", "dora")):
        said = (
            f"raw data is identical to that of {other}: 32 loads, for example load--users-1--llamacpp--round-1.json.gz"
        )
        assert said in rows[one]["problems"]
    assert not [name for name, row in rows.items() if "identical" in row["problems"] and name not in "dora emil"]


def test_an_exercise_that_is_right_by_the_tally_but_a_stub_in_the_notebook_is_noticed(rows: dict[str, Row]) -> None:
    assert "latencies_ms counts as correct, but the code handed in contains only its stub" in rows["emil"]["problems"]
    assert "stub" not in rows["anna"]["problems"] + rows["dora"]["problems"]


def test_more_files_of_starter_code_than_a_lab_has_are_not_all_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "CODE_FILES", 2)
    (tmp_path / "yan" / "webui").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "yan" / "webui" / f"{number}.js").write_text("")
    put(tmp_path / "yan", "x")
    handed = submissions.take(tmp_path / "yan", tmp_path / "copy")
    assert handed.problems == ["webui contains more than 2 files: the rest is ignored"]
    assert len(list((tmp_path / "copy").rglob("*.js"))) == 2


def test_no_cell_of_a_notebook_is_run(judged: Any) -> None:
    assert not (judged[0] / "was-run").exists()


HOSTILE = {
    "fay": ["no results: no folder 3.3.1 with results was found within 3 levels of folders"],
    "gus": ["results/3.3.1/x.json is too large: 64 MiB (the limit is 64 MiB)",
            "refused: load/bomb: its raw data is missing or damaged"],
    "hal": ["; results/3.3.1/x.json is torn or not a result: run the cell that measures it again",
            "; results/3.3.1/other.json is torn or not a result: run the cell that measures it again",
            "; results/3.3.1/  [31m.json is torn or not a result: run the cell that measures it again",
            "3.3.1.exercises.json is damaged, or contains entries that no check writes",
            "; lab-3.3.1-x.ipynb is not a notebook", "yours-lab-3.3.1-y.ipynb is not a notebook"],
    "ida": [f"refused: {KEY}: its figures can't be computed again from its raw traces (OverflowError",
            "claim 1: refused: a result has an unexpected format (TypeError"],
    "jon": ["results is a link: not followed", "; 3.3.1.json is a link: not followed",
            "; 3.3.1/x.json is a link: not followed", "; 3.3.2 is a link: not followed",
            "lab-3.3.1-x.ipynb is a link: not followed"],
    "kim": ["the folder is a link: not followed"],
    "lea": ["3.3.1/x.json is not a regular file: not opened", "3.3.1/load--x.json.gz is not a regular file: not opened",
            "report.md is not a regular file: not opened"],
    "'=cmd()|'\\x1b[31m\\n<b>ü": ["greedy/vllm: it lacks code_sha256"],
    "\\xff\\xfe": ["results/3.3.1/x.json has schema 1000000000, but these labs read 3 at most"],
    "max": ["no results: no folder 3.3.1 with results was found within 3 levels of folders"],
    "pat": ["results/3.3.1.json was written by an older version of these labs, which kept all results of a lab in one "
            "file. It is not used: measure again",
            "results/3.3.1 has 1 results of a schema before 3: measure them again"],
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_broken_or_hostile_is_named_and_costs_only_its_row(rows: dict[str, Row], name: str) -> None:
    for said in HOSTILE[name]:
        assert said in "; " + rows[name]["problems"]
    assert rows[name]["claims"] in ("0 of 8", "1 of 8", "2 of 8"), "no claim without evidence"


def test_every_student_has_a_row_and_no_cell_can_start_a_formula(judged: Any) -> None:
    _, said, rows = judged
    assert rows.keys() == {"anna", "ben", "carla", "dora", "emil", "ida"} | HOSTILE.keys()
    cells = [cell for row in rows.values() for cell in row.values()]
    assert not [cell for cell in cells if cell.strip()[:1] in ("=", "+", "-", "@")]
    assert rows["ben"]["machine"].startswith("'=1+1, ")
    assert all(cell.isprintable() for cell in cells)
    assert all(c.isprintable() or c == "\n" for c in said)
    assert "secret" not in said + str(cells)
    assert "Ignored, because not a folder: nina.zip" in said
    assert "\nwritten: " in said
    assert len({len(line) for line in said.splitlines() if line.startswith("|")}) == 1, "the table is aligned"


def test_names_that_a_spreadsheet_would_compute_are_quoted() -> None:
    for name in ("=1", "+1", "-1", "@x", " =1", "＝1"):
        table = grade.as_csv([one_student.Grade(name, "3.3.1", "0 of 8")]).decode()
        assert next(csv.reader(table.splitlines()[1:]))[0] == f"'{name}"


def test_a_file_that_may_not_be_read_is_named() -> None:
    with tempfile.TemporaryDirectory() as scratch, anybody(Path(scratch)):
        here = Path(scratch) / "olga"
        (here / "results" / "3.3.2").mkdir(parents=True)
        for path in (put(here / "results", "x"), here / "results" / "3.3.2"):
            path.chmod(0)
        handed = submissions.take(here, Path(scratch) / "copy")
        (here / "results" / "3.3.2").chmod(0o700)
    assert "results/3.3.1/x.json can't be read: Permission denied" in handed.problems
    assert "results/3.3.2 can't be read: Permission denied" in handed.problems


@contextlib.contextmanager
def anybody(folder: Path) -> Iterator[None]:
    """Root may read every file, so become another user for a while, who owns this folder."""
    if os.geteuid():
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_all_that_one_student_hands_in_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "STUDENT_LIMIT", 3 * 2**20)
    monkeypatch.setattr(submissions, "FILES", 6)
    monkeypatch.setattr(submissions, "FOLDERS", 4)
    raw = put(tmp_path / "pia", "load/0").parent
    for number in range(7):
        (raw / f"load--{number}.json.gz").write_bytes(bytes(2**20))
        (raw.parent / f"more-{number}").mkdir()
    handed = submissions.take(raw.parent, tmp_path / "copy")
    assert "3.3.1 contains 8 files: only 6 are read" in handed.problems
    assert "more than 4 folders: the rest is ignored" in handed.problems
    assert "3.3.1/load--4.json.gz is left out: all files together exceed 3 MiB" in handed.problems
    assert len(list((tmp_path / "copy").rglob("load--*.gz"))) == 2


def test_who_takes_too_long_to_judge_is_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "quinn", "x")
    monkeypatch.setattr(grade, "WALL_S", 0.01)
    [row, *_], _ = grade.graded(tmp_path / "quinn", tmp_path)  # one for each lab
    assert (row.student, row.claims) == ("quinn", "not graded")
    assert row.problems == (f"grading took more than 0 s: look at {tmp_path / 'quinn'}, then run make grade again",)


def test_who_takes_too_much_memory_to_judge_is_not_judged_and_the_others_are(tmp_path: Path) -> None:
    for name in ("tim", "uma"):
        put(tmp_path / name, "x")
    with gzip.open(tmp_path / "tim" / "3.3.1" / "x.json.gz", "wb", 1) as many:
        many.write('"😀'.encode() + b"a" * 80 * 2**20 + b'"')  # read as text, each character takes 4 bytes
    command = f"ulimit -v 500000; {sys.executable} -m shared.course.grading.grade {tmp_path}"
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert "grading failed: MemoryError" in said
    rows = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in said.splitlines() if "3.3.1 |" in line}
    assert rows == {"tim": "not graded", "uma": "0 of 8"}


def test_two_places_with_results_are_told_and_the_least_deep_counts(tmp_path: Path) -> None:
    for place in ("a/b", "z"):
        put(tmp_path / "rob" / place, "x", values=place)
    handed = submissions.take(tmp_path / "rob", tmp_path / "copy")
    assert json.loads((tmp_path / "copy/results/3.3.1/x.json").read_text())["values"] == "z"
    assert handed.problems == ["there are more results in a/b: ignored"]


@pytest.mark.parametrize("place", ["results", "3.3.1/results"])
def test_a_folder_named_as_a_lab_that_holds_no_result_hides_no_results(tmp_path: Path, place: str) -> None:
    notebook(tmp_path / "vic" / "3.3.1" / LAB.notebook, paths.REPO / "labs")
    put(tmp_path / "vic" / place, "x")
    handed = submissions.take(tmp_path / "vic", tmp_path / "copy")
    assert handed.problems == []
    assert (tmp_path / "copy/results/3.3.1/x.json").exists()


def test_exercises_without_any_result_are_taken(tmp_path: Path) -> None:
    noted(tmp_path / "wim" / "a", "latencies_ms", hints=1)
    handed = submissions.take(tmp_path / "wim", tmp_path / "copy")
    assert handed.problems == []
    assert json.loads((tmp_path / "copy/results/3.3.1.exercises.json").read_text())["latencies_ms"]["hints"] == 1


@pytest.mark.parametrize("arguments", [[""], ["nowhere"], ["empty"], ["file"]])
def test_no_folder_no_student_is_an_error_with_its_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    assert grade.main(arguments) == 1
    said = capsys.readouterr()
    assert "\nFix: " in said.err
    assert "make grade FOLDER=submissions" in said.err
    assert said.out == ""


def test_a_table_that_can_not_be_written_says_where_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sam").mkdir()
    assert grade.main([str(tmp_path), "--csv", str(tmp_path / "none" / "x.csv")]) == 1
    assert "x.csv can't be written: No such file" in capsys.readouterr().err
    assert grade.main([str(tmp_path)]) == 0
    assert (tmp_path / "grades.csv").read_text().startswith("student,lab,claims,")
    assert grade.main([str(tmp_path)]) == 0, "its own table is no student"
    assert "Ignored" not in capsys.readouterr().out


def test_ctrl_c_leaves_no_copy_behind(judged: Any, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "shared.course.grading.grade",
        str(judged[0]),
        "--csv",
        str(tmp_path / "grades.csv"),
    ]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(scratch)})
    # Not any file: Python's search for a folder for temporary files writes one, and if it is interrupted it leaves it.
    assert eventually(lambda: bool(list(scratch.glob("grade-*"))), START_S)
    process.send_signal(2)
    assert "Stopped: nothing was written." in process.communicate(timeout=START_S)[1]
    assert process.returncode in INTERRUPTED
    assert not list(scratch.iterdir())
    assert not (tmp_path / "grades.csv").exists()


def test_ctrl_c_while_a_copy_is_removed_leaves_none_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "class" / "rosa").mkdir(parents=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    removing, calls = shutil.rmtree, []

    def interrupted(*given: Any, **more: Any) -> None:
        calls.append(list(scratch.iterdir()))
        if len(calls) == 1:
            raise KeyboardInterrupt
        removing(*given, **more)

    monkeypatch.setattr("shutil.rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        grade.grade(tmp_path / "class", tmp_path / "grades.csv")
    assert calls[0]  # it was there
    assert not list(scratch.iterdir())


def test_a_result_that_unpacks_to_too_much_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results.record("3.3.1", "own/figures", {}, raw="x" * 1000)
    assert results.load_raw("3.3.1", "own/figures") == "x" * 1000
    monkeypatch.setattr(reading, "LARGEST", 1000)
    with pytest.raises(LabError, match="is missing or torn"):
        results.load_raw("3.3.1", "own/figures")


def test_claims_on_nonsense_are_refused_and_not_an_error() -> None:
    for engine in ("ollama", "llamacpp", "vllm", "sglang"):
        results.record("3.3.1", f"greedy/{engine}", {"worst_gap_nats": 1}, raw={"gaps": None})
    found = milestones.check("3.3.1").claims[0]
    assert not found.ok
    assert found.evidence == (
        "refused: a result has an unexpected format (TypeError: string indices must be integers, not 'str'): "
        "run the cell `check-greedy` again"
    )
