"""Exercises that count as correct are compared with the code handed in, by the names of functions and nothing else."""

import json
from pathlib import Path

import pytest

from shared import paths
from shared.course import attempts, registry
from shared.course.grading import handed_in_code, submissions

LAB = registry.find_lab("3.3.1")
STUB = "def {}(sent_ns, chunks):\n    '''Milliseconds.'''\n    raise NotImplementedError('ex-latencies: stop')"
RIGHT = "%%time\ndef {}(sent_ns, chunks):\n    return 1\n!ls"
ALL = [exercise.function for exercise in LAB.exercises]


def correct(lab: str, *functions: str) -> None:
    for function in functions:
        attempts.add_attempt(lab, function, attempts=1, outcome="correct", uses="own")


def notebook(file: Path, *sources: str | list[str]) -> Path:
    """A notebook whose cells have no ids, as an editor may leave it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"cell_type": "code", "metadata": {}, "source": source, "outputs": []} for source in sources]
    file.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}))
    return file


def compared(tmp_path: Path, lab: str = "3.3.1") -> list[str]:
    """The problems of the student tmp_path/anna, by copying what she handed in as `make grade` does."""
    student = tmp_path / "anna"
    (student / "3.3.1").mkdir(parents=True, exist_ok=True)
    (student / "3.3.1" / "x.json").write_text("{}")
    handed = submissions.take(student, tmp_path / "copy")
    assert handed.problems == []
    return handed_in_code.problems(registry.find_lab(lab), tmp_path / "copy")


def of_the_course(tree: str) -> list[str]:
    """The code cells of the lab's notebook in labs/ or solutions/."""
    cells = json.loads((paths.REPO / tree / LAB.notebook).read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", ["homework 1.ipynb", "homework 10.11.2026.ipynb"])
def test_what_is_no_notebook_is_reported_once(tmp_path: Path, name: str) -> None:
    """A date in its name is no lab's number."""
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / name).write_text("{")
    assert compared(tmp_path) == [f"{name} is not a notebook"]
    assert handed_in_code.problems(registry.find_lab("3.3.2"), tmp_path / "copy") == []


NAMES = [LAB.notebook, "Anna Meyer, homework 1.ipynb", "copy/Untitled.IPYNB"]


@pytest.mark.parametrize("name", NAMES)
def test_neither_the_notebooks_name_nor_its_cells_ids_count(tmp_path: Path, name: str) -> None:
    correct("3.3.1", *ALL)
    notebook(tmp_path / "anna" / name, *of_the_course("solutions"))
    assert compared(tmp_path) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_left_as_it_was_is_noticed_whatever_its_name(tmp_path: Path, name: str) -> None:
    correct("3.3.1", *ALL)
    notebook(tmp_path / "anna" / name, *of_the_course("labs"))
    assert compared(tmp_path) == [
        f"{name} counts as correct, but the code handed in contains only its stub" for name in ALL
    ]


def test_without_a_notebook_the_exercises_that_could_not_be_compared_are_named(tmp_path: Path) -> None:
    correct("3.3.1", *ALL)
    assert compared(tmp_path) == ["not compared: 9 exercises count as correct, but no code of them was handed in"]


def test_nobody_is_accused_without_a_right_exercise(tmp_path: Path) -> None:
    assert compared(tmp_path) == []


def test_right_functions_in_new_cells_below_the_stubs_are_found(tmp_path: Path) -> None:
    correct("3.3.1", *ALL)
    notebook(tmp_path / "anna" / LAB.notebook, *of_the_course("labs"), *(RIGHT.format(name) for name in ALL))
    assert compared(tmp_path) == []


def test_all_functions_in_one_cell_above_the_stubs_are_found(tmp_path: Path) -> None:
    correct("3.3.1", *ALL)
    everything = "\n".join(f"def {name}(*given):\n    return 1" for name in ALL)
    notebook(tmp_path / "anna" / LAB.notebook, everything, *of_the_course("labs"))
    assert compared(tmp_path) == []


def test_a_function_in_another_labs_notebook_is_found(tmp_path: Path) -> None:
    correct("3.3.1", "latencies_ms")
    notebook(tmp_path / "anna" / "lab-3.3.4-mine.ipynb", RIGHT.format("latencies_ms"))
    assert compared(tmp_path) == []


@pytest.mark.parametrize(
    "more",
    ["answers = !ls", "latencies_ms?", "if True:\n    %matplotlib inline", "x = %time 3", "await asyncio.sleep(0)"],
)
def test_what_only_a_notebook_allows_hides_no_function(tmp_path: Path, more: str) -> None:
    correct("3.3.1", "latencies_ms")
    notebook(tmp_path / "anna" / "x.ipynb", f"%%time\ndef latencies_ms(chunks):\n    return 1\n{more}\n")
    assert compared(tmp_path) == []


def test_a_function_that_was_not_handed_in_is_named(tmp_path: Path) -> None:
    correct("3.3.1", "latencies_ms", "output_tok_s", "ahead")
    notebook(tmp_path / "anna" / "x.ipynb", STUB.format("latencies_ms"), "def ahead(rates:\n  return")
    assert compared(tmp_path) == [
        "latencies_ms counts as correct, but the code handed in contains only its stub",
        "output_tok_s was not compared: it counts as correct, but the code handed in lacks it",
        "ahead was not compared: the code handed in that defines it is not valid Python",
    ]


def test_what_is_no_notebook_is_named_once(tmp_path: Path) -> None:
    for name in ("homework.ipynb", "lab-3.3.2-x.ipynb"):
        (tmp_path / "anna").mkdir(exist_ok=True)
        (tmp_path / "anna" / name).write_text('{"cells": [1]}')
    assert compared(tmp_path) == ["homework.ipynb is not a notebook"]
    assert compared(tmp_path, "3.3.2") == ["lab-3.3.2-x.ipynb is not a notebook"]


def test_more_notebooks_than_a_course_has_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submissions, "NOTEBOOKS", 2)
    for number in range(3):
        notebook(tmp_path / "yan" / f"{number}.ipynb")
    handed = submissions.take(tmp_path / "yan", tmp_path / "copy")
    assert handed.problems[0] == "there are 3 notebooks: only 2 are read"
    assert len(list((tmp_path / "copy").rglob("*.ipynb"))) == 2


def test_the_projects_own_solutions_are_no_students_work(tmp_path: Path) -> None:
    correct("3.3.1", "latencies_ms")
    correct("3.3.5", "ask")
    notebook(tmp_path / "anna" / "labs" / "solutions" / LAB.notebook, *of_the_course("solutions"))
    relay = tmp_path / "anna" / "labs" / "solutions" / "gateway" / "relay.py"
    relay.parent.mkdir(parents=True)
    relay.write_bytes((paths.REPO / "solutions" / "gateway" / "relay.py").read_bytes())
    assert len(compared(tmp_path)) == len(compared(tmp_path, "3.3.5")) == 1


PLACES = ["gateway", "labs/gateway", "my gateway", "."]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("tree", ["labs", "solutions"])
def test_starter_code_is_found_wherever_it_is(tmp_path: Path, place: str, tree: str) -> None:
    lab = registry.find_lab("3.3.5")
    names = [exercise.function for exercise in lab.exercises]
    correct("3.3.5", *names)
    for file in (paths.REPO / tree / "gateway").glob("*.py"):
        (tmp_path / "anna" / place).mkdir(parents=True, exist_ok=True)
        (tmp_path / "anna" / place / file.name).write_bytes(file.read_bytes())
    stubs = [f"{name} counts as correct, but the code handed in contains only its stub" for name in names]
    assert compared(tmp_path, "3.3.5") == (stubs if tree == "labs" else [])


def test_a_namesake_elsewhere_hides_no_stub(tmp_path: Path) -> None:
    correct("3.3.6", "stop")
    webui = tmp_path / "anna" / "webui"
    webui.mkdir(parents=True)
    (webui / "answers.py").write_text(
        "class Answer:\n    def stop(self):\n        raise NotImplementedError('stop: x')"
    )
    (webui / "app.py").write_text("def stop():\n    return 1")
    notebook(tmp_path / "anna" / "x.ipynb", "def stop():\n    return 1")
    assert compared(tmp_path, "3.3.6") == ["stop counts as correct, but the code handed in contains only its stub"]


def test_starter_code_is_copied_without_links_and_weights_and_not_run(tmp_path: Path) -> None:
    gateway = tmp_path / "zoe" / "my module" / "gateway"
    (gateway / "routes").mkdir(parents=True)
    (gateway / "routes" / "chat.py").write_text(RIGHT.format("ask"))
    (gateway / "app.py").write_text(f"open({str(tmp_path / 'was-run')!r}, 'w')\n" + STUB.format("find_key"))
    (gateway / "secret.py").symlink_to(tmp_path / "elsewhere.py")
    (gateway / "model.gguf").write_bytes(b"x")
    (tmp_path / "zoe" / "3.3.5").mkdir()
    (tmp_path / "zoe" / "3.3.5" / "x.json").write_text("{}")
    handed = submissions.take(tmp_path / "zoe", tmp_path / "copy")
    assert handed.problems == ["my module/gateway/secret.py is a link: not followed"]
    copied = tmp_path / "copy" / "starter" / "1" / "gateway"
    assert {str(file.relative_to(copied)) for file in copied.rglob("*.*")} == {"app.py", "routes/chat.py"}
    correct("3.3.5", "ask", "find_key")
    assert handed_in_code.problems(registry.find_lab("3.3.5"), tmp_path / "copy") == [
        "find_key counts as correct, but the code handed in contains only its stub"
    ]
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize("place", ["webui/static", "my page"])
def test_a_module_in_javascript_is_compared_as_a_function_is(tmp_path: Path, place: str) -> None:
    static = tmp_path / "anna" / place
    static.mkdir(parents=True)
    (static / "lines.js").write_text('export async function* lines() { throw new Error("lines: read"); }')
    (static / "pacer.js").write_text("export function pacer(render) { return { add: render, flush() {} }; }")
    correct("3.3.6", "lines", "pacer")
    assert compared(tmp_path, "3.3.6") == ["lines counts as correct, but the code handed in contains only its stub"]
