"""The student's page: its files read anew, merged with the reference's, and started. JavaScript as well as Python."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared import LabError, javascript, paths
from shared.course import attempts, checks, labs, registry, starter
from shared.course.authoring import Place, student_text
from shared.course.webui import student_webui
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay

NUMBER = "3.3.6"
LAB = registry.find_lab(NUMBER)
SOLUTION = paths.REPO / "solutions" / "webui"
IN_FILES = {exercise.function for exercise in LAB.exercises if exercise.file}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The starter code beside a notebook, as `make labs` makes it; the notebook's folder is the current one."""
    folder = tmp_path / "webui"
    for file in SOLUTION.rglob("*"):
        if file.suffix in {".py", ".js", ".css", ".html"} and "__pycache__" not in file.parts:
            new = folder / file.relative_to(SOLUTION)
            new.parent.mkdir(parents=True, exist_ok=True)
            new.write_text(student_text(file.read_text(), Place(file)))
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def relay() -> Iterator[OllamaRelay]:
    with OllamaRelay() as relay:
        yield relay


def solve(beside: Path, name: str) -> None:
    """Write the reference's file in place of the student's."""
    [exercise] = [one for one in LAB.exercises if one.function == name]
    (beside.parent / exercise.file).write_text((LAB.solution.parent / exercise.file).read_text())


def test_everything_is_open_at_first_and_the_reference_is_used(
    beside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = checks.of(NUMBER)
    assert check.use_own() == set()
    printed = capsys.readouterr().out
    for name in IN_FILES:
        assert repr(check(name)).startswith(f"○ not attempted: Write the body of {name}")
        assert f"Using the reference solution of {name}, because yours is not written yet." in printed
    merged = starter.merge(LAB, set(), tmp_path / "merged")
    assert starter.code_of(merged) == starter.code_of(SOLUTION)


def test_a_module_in_javascript_is_judged_as_its_file_is_now(beside: Path, tmp_path: Path) -> None:
    check, file = checks.of(NUMBER), beside / "static" / "pacer.js"
    solve(beside, "pacer")
    assert check("pacer").outcome == "correct"
    file.write_text("export function pacer(render) { return { add: render, flush() {} }; }")
    wrong = check("pacer")
    assert (wrong.outcome, "before a frame came" in wrong.text) == ("incorrect", True)
    own = check.use_own()
    assert attempts.read_attempts(NUMBER)["pacer"]["uses"] == "reference"
    merged = starter.merge(LAB, own, tmp_path / "merged") / "static" / "pacer.js"
    assert merged.read_text() == (SOLUTION / "static" / "pacer.js").read_text()
    file.unlink()
    assert "webui/static/pacer.js is missing" in check("pacer").text


def test_a_right_module_is_taken_with_the_students_other_files(beside: Path, tmp_path: Path) -> None:
    solve(beside, "lines")
    for name in ("static/lines.js", "static/style.css"):
        (beside / name).write_text((beside / name).read_text() + "\n/* mine */\n")
    (beside / "static" / "mine.svg").write_text("<svg/>")
    own = checks.of(NUMBER).use_own()
    assert own == {"lines"}
    merged = starter.merge(LAB, own, tmp_path / "merged")
    for name in ("static/lines.js", "static/style.css"):
        assert "mine" in (merged / name).read_text()
    assert (merged / "static" / "mine.svg").exists()
    assert starter.code_of(merged)["answers.py"] == starter.code_of(SOLUTION)["answers.py"]


def test_the_reference_in_javascript_can_be_shown_without_its_markers(beside: Path) -> None:
    text = checks.of(NUMBER).reveal("lines").text
    assert "reader.cancel()" in text
    assert "SOLUTION" not in text


def test_the_started_page_is_the_students(beside: Path, relay: OllamaRelay, capsys: pytest.CaptureFixture[str]) -> None:
    lab = labs.open(NUMBER)
    (beside / "static" / "style.css").write_text("/* mine */")
    solve(beside, "refusal")
    with student_webui.running(lab, relay.url) as server:
        client = httpx.Client(base_url=server.url, timeout=60, trust_env=False)
        assert client.get("/static/style.css").text == "/* mine */"
        assert client.get("/", headers={"host": "evil.example"}).status_code == 403
        assert client.get("/api/models").json()["targets"] == ["ollama:simulated"]
        assert "static/style.css" in server.made_of
        again = student_webui.start(lab, relay.url)
        assert server.process.exit_code() is not None
        assert again.made_of == server.made_of
    assert not server.folder.exists()
    again.end()
    printed = capsys.readouterr().out
    assert "Using the reference solution of lines" in printed
    assert "Using the reference solution of refusal" not in printed


def test_a_page_that_cannot_start_shows_its_log(beside: Path, relay: OllamaRelay) -> None:
    (beside / "settings.py").write_text("1 / 0\n")
    with pytest.raises(LabError, match=r"(?s)ended while it started.*ZeroDivisionError"):
        student_webui.start(labs.open(NUMBER), relay.url)


def test_the_plain_page_is_the_authors(beside: Path, relay: OllamaRelay) -> None:
    (beside / "baseline" / "chat.js").write_text("")
    with student_webui.plain(relay.url) as server:
        right = (SOLUTION / "baseline" / "chat.js").read_text()
        assert httpx.get(f"{server.url}/chat.js", timeout=60, trust_env=False).text == right
        assert server.chat_page.stop == ""


def run(text: str, scene: str = "return f(data)", data: object = 3) -> object:
    return javascript.run(text, "f", scene, data)


def test_what_took_too_long_is_tried_again(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a time limit ends what is right, too. No judgement and no run of it may last."""
    starter.judged.cache_clear()  # another test may have asked the same
    javascript._ran.cache_clear()
    text = "export const f = () => 11;"
    solve(beside, "pacer")
    with monkeypatch.context() as busy:
        busy.setattr(javascript, "LIMIT_S", 0.001)
        busy.setattr(starter, "LIMIT_S", 0.001)
        assert "no end within" in str(run(text))
        assert "no end within" in checks.of(NUMBER)("pacer").text
    assert run(text) == {"result": 11}
    assert checks.of(NUMBER)("pacer").outcome == "correct"


def test_javascript_is_run_and_what_goes_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("export const f = (x) => x * 2") == {"result": 6}
    assert run("export const f = (x) => console.log(x)") == {"result": None}
    assert run("export const f = async (x) => ({ x })") == {"result": {"x": 3}}
    assert run("export const g = 1") == {"error": "the file exports no function f"}
    assert run("export const f = (x) => x.y.z") == {
        "error": "TypeError: Cannot read properties of undefined (reading 'z')"
    }
    assert run("export const f = (") == {"error": "SyntaxError: Unexpected end of input"}
    assert "something that never happens" in str(run("export const f = () => new Promise(() => {})"))
    late = "setTimeout(() => { throw new Error('late'); }); return new Promise(() => {});"
    assert run(f"export const f = () => {{ {late} }}") == {"error": "Error: late"}
    monkeypatch.setattr(javascript, "LIMIT_S", 1.0)
    assert "no end within 1 s" in str(run("export const f = () => { for (;;); }"))
