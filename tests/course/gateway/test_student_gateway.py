"""The student's files: read anew, merged with the reference's functions, and started."""

import json
from pathlib import Path

import httpx
import pytest

from shared import LabError, paths
from shared.course import attempts, checks, labs, registry, starter
from shared.course.authoring import Place, student_text
from shared.course.gateway import running, student_gateway
from tests.helpers.truth import TruthEngine

LAB = registry.find_lab("3.3.5")
NAMES = {exercise.function for exercise in LAB.exercises}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The starter code beside a notebook, as `make labs` makes it; the notebook's folder is the current one."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    for file in (paths.REPO / "solutions" / "gateway").glob("*.py"):
        (folder / file.name).write_text(student_text(file.read_text(), Place(file)))
    monkeypatch.chdir(tmp_path)
    return folder


def solve(beside: Path, name: str, source: str = "") -> None:
    """Write a function into the student's file: the reference's, or another source."""
    [exercise] = [one for one in LAB.exercises if one.function == name]
    file = beside.parent / exercise.file
    new = source or starter.reference_source(LAB, exercise)
    text = starter.with_function(file.read_text(), starter.qualified(exercise), new)
    assert text is not None
    file.write_text(text)


def test_everything_is_open_at_first_and_the_reference_is_used(
    beside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = checks.of("3.3.5")
    assert check.use_own() == set()
    printed = capsys.readouterr().out
    for name in NAMES:
        assert repr(check(name)).startswith(f"○ not attempted: Write the body of {name}")
        assert f"Using the reference solution of {name}, because yours is not written yet." in printed
        assert attempts.read_attempts("3.3.5")[name]["uses"] == "reference"
    merged = starter.merge(LAB, set(), tmp_path / "merged")
    assert running.code_of(merged) == running.code_of(paths.REPO / "solutions" / "gateway")


def test_a_function_is_judged_as_its_file_is_now(beside: Path) -> None:
    check = checks.of("3.3.5")
    solve(beside, "take")
    assert check("take").outcome == "correct"
    solve(beside, "take", "def take(self) -> float:\n    return 0.0\n")
    wrong = check("take")
    assert (wrong.outcome, "the request got in" in wrong.text) == ("incorrect", True)
    solve(beside, "take")
    assert check.use_own() == {"take"}
    assert attempts.read_attempts("3.3.5")["take"]["uses"] == "own"


def test_a_wrong_function_is_replaced_and_a_right_one_of_the_same_file_is_kept(beside: Path, tmp_path: Path) -> None:
    solve(beside, "take", "def take(self) -> float:\n    return 0.0\n")
    solve(beside, "find_key", starter.reference_source(LAB, LAB.exercises[-1]) + "    # mine\n")
    own = checks.of("3.3.5").use_own()
    assert own == {"find_key"}
    text = (starter.merge(LAB, own, tmp_path / "merged") / "keys.py").read_text()
    assert "# mine" in text
    assert "self.level = min(self.burst" in text


def test_helpers_and_imports_of_the_student_stay(beside: Path) -> None:
    file = beside / "keys.py"
    file.write_text(file.read_text() + "\n\ndef enough(level):\n    return level >= 1\n")
    source = starter.reference_source(LAB, next(e for e in LAB.exercises if e.function == "take"))
    assert "if self.level < 1:" in source
    solve(beside, "take", source.replace("if self.level < 1:", "if not enough(self.level):"))
    assert checks.of("3.3.5")("take").outcome == "correct"


@pytest.mark.parametrize(
    ("text", "words"),
    [("def (", "not valid Python"), ("import nothing_there\n", "has no function"), ("1 / 0\n", "has no function")],
)
def test_a_broken_file_is_named_and_replaced_as_a_whole(beside: Path, tmp_path: Path, text: str, words: str) -> None:
    (beside / "keys.py").write_text(text)
    assert words in checks.of("3.3.5")("take").text
    merged = starter.merge(LAB, set(), tmp_path / "merged")
    assert (merged / "keys.py").read_text() == (paths.REPO / "solutions" / "gateway" / "keys.py").read_text()


def test_a_file_that_fails_while_it_is_imported_is_named(beside: Path) -> None:
    solve(beside, "take")
    file = beside / "keys.py"
    file.write_text(file.read_text() + "\n\nprint(1 / 0)\n")
    assert "gateway can't be imported. ZeroDivisionError" in checks.of("3.3.5")("take").text


def test_a_kept_copy_an_editors_lock_and_a_foreign_file_are_no_code(beside: Path, tmp_path: Path) -> None:
    (beside / "yours-keys-20261101-120000.py").write_text("import nothing_there\n")  # `make labs` keeps such a file
    (beside / ".#keys.py").symlink_to("anna@laptop.1234")  # of Emacs, while the file has unsaved changes
    (beside / "._keys.py").write_bytes(b"\x00\x05\x16\x07\xff")  # of an archive that was made on a Mac
    solve(beside, "take")
    assert checks.of("3.3.5")("take").outcome == "correct"
    merged = starter.merge(LAB, {"take"}, tmp_path / "merged")
    assert {file.name for file in merged.glob("*.py")} == {file.name for file in beside.glob("[!.y]*.py")}


def test_a_form_feed_and_a_line_separator_end_no_line(beside: Path) -> None:
    file = beside / "keys.py"
    file.write_text('SIGNS = "\u2028\x85"  # pasted\n\x0c\n' + file.read_text())
    solve(beside, "take")
    assert checks.of("3.3.5")("take").outcome == "correct"
    assert starter.function_source('x = "\u2028"\n\ndef f():\n    return 1\n', "f") == "def f():\n    return 1\n"


def test_the_reference_can_be_shown(beside: Path) -> None:
    assert "compare_digest" in checks.of("3.3.5").reveal("find_key").text
    assert attempts.read_attempts("3.3.5")["find_key"]["revealed"]


def test_functions_are_found_and_replaced_by_name() -> None:
    text = "import x\n\n\nclass A:\n    @x.y\n    def f(self):\n        return 1\n\n\ndef f():\n    return 2\n"
    assert starter.function_source(text, "A.f") == "@x.y\ndef f(self):\n    return 1\n"
    assert starter.with_function(text, "A.f", "def f(self):\n    return 3\n") == text.replace(
        "    @x.y\n    def f(self):\n        return 1\n", "    def f(self):\n        return 3\n"
    )
    assert starter.function_source(text, "B.f") is None
    assert starter.with_function(text, "g", "") is None


def test_the_started_gateway_is_the_students_and_its_code_is_recorded(
    beside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = labs.open("3.3.5")
    solve(beside, "take")
    with TruthEngine.start(tmp_path / "log") as engine:
        keys = student_gateway.keys(anna={"priority": "paid"})
        gateway = student_gateway.start(lab, engine, "most_queued = 3\n[engines.engine]\nseats = 2", keys=keys)
        try:
            url, body = gateway.url + "/v1/chat/completions", {"model": "truth", "messages": [], "max_tokens": 3}
            how = {"json": body, "timeout": 20, "headers": {"authorization": "Bearer sk-anna"}}
            assert httpx.post(url, **how).status_code == 200  # type: ignore[arg-type]
            assert httpx.post(url, json=body, timeout=20).status_code == 401
            made_of = gateway.provenance()["gateway"]
            assert made_of["settings"]["most_queued"] == 3
            assert "relay" in made_of["code"]
            assert "127.0.0.1" not in json.dumps(made_of), "a port would make each result another"
            again = student_gateway.start(lab, engine, "most_queued = 4")
            assert not gateway.alive
            assert again.made_of["code"] == made_of["code"]
        finally:
            running.stop_all()
    assert not again.alive
    assert not again.folder.exists()
    assert "Using the reference solution of ask" in capsys.readouterr().out


def test_a_gateway_that_cannot_start_shows_its_log(beside: Path, tmp_path: Path) -> None:
    lab = labs.open("3.3.5")
    with TruthEngine.start(tmp_path / "log") as engine:
        with pytest.raises(LabError, match=r"(?s)ended while it started.*most_queued"):
            student_gateway.start(lab, engine, "most_queued = -1")
        with pytest.raises(LabError, match="not valid TOML"):
            student_gateway.start(lab, engine, "most_queued = ")
