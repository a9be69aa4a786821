"""Measured once: a result stands as long as nothing that makes it has changed, and no longer."""

import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError, paths, results
from shared.course import labs
from shared.course.labs import OpenLab
from shared.load import Closed, Load, Poisson, Run, prompts
from shared.results import provenance
from shared.results.ledger import raw_file
from shared.results.provenance import functions_sha256, source_sha256
from tests.helpers import ledger
from tests.helpers.truth import MODEL, TruthEngine

PROMPTS = prompts.short(MODEL)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


@pytest.fixture
def lab() -> OpenLab:
    return labs.open("3.3.1")


def test_a_load_is_measured_once(truth: TruthEngine, lab: OpenLab, capsys: pytest.CaptureFixture[str]) -> None:
    one = Load(truth, PROMPTS, Closed(users=2, requests=4), max_tokens=4)
    first = lab.measure("load/a", one)
    asked = len(truth.records())
    again = lab.measure("load/a", one)
    assert len(truth.records()) == asked
    assert again.values() == first.values()
    assert [t.arrivals_ns for t in again.run.traces] == [t.arrivals_ns for t in first.run.traces]
    assert [t.arrivals_ns for t in lab.traces("load/a")] == [t.arrivals_ns for t in first.run.traces]
    lab.measure("load/b", one)
    lab.measure("load/b", one)
    assert capsys.readouterr().out.count("Reusing results of load") == 1  # once a series


@pytest.mark.parametrize(
    "change",
    [
        {"rhythm": Closed(users=3, requests=4)},
        {"rhythm": Closed(users=2, requests=5)},
        {"rhythm": Poisson(rate_per_s=50, requests=4)},
        {"max_tokens": 5},
    ],
    ids=["users", "requests", "rhythm", "tokens"],
)
def test_another_load_is_measured_anew(
    truth: TruthEngine, lab: OpenLab, own_results: Path, change: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {"rhythm": Closed(users=2, requests=4), "max_tokens": 4}
    lab.measure("load/a", Load(truth, PROMPTS, **asked))
    before = len(truth.records())
    lab.measure("load/a", Load(truth, PROMPTS, **{**asked, **change}))
    assert len(truth.records()) > before
    assert re.search(r"Moved 1 earlier results of load to .*: .* changed\.", capsys.readouterr().out)
    assert len(list(own_results.glob("3.3.1.before-*/load--a.json*"))) == 2  # kept whole


def test_another_engine_machine_or_code_makes_a_number_another(
    truth: TruthEngine, lab: OpenLab, own_results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Load(truth, PROMPTS, Closed(users=1, requests=2), max_tokens=4)
    for key in ("load/a", "load/b", "prompt/a"):
        lab.measure(key, one)
    asked = len(truth.records())
    monkeypatch.setattr(TruthEngine, "provenance", lambda _: {"engine": "truth", "flags": {"--slots": 4}})
    lab.measure("load/a", one)
    assert len(truth.records()) > asked
    assert set(results.load_results("3.3.1")) == {"load/a", "load/b", "prompt/a"}  # the others' turn comes
    monkeypatch.setattr("shared.results.provenance.code_sha256", lambda lab: "other code")
    lab.measure("load/a", one)
    assert set(results.load_results("3.3.1")) == {"load/a", "prompt/a"}  # no figure mixes rounds of two codes
    assert len(list(own_results.glob("3.3.1.before-*/load--b.json"))) == 1


def test_what_is_torn_is_measured_again(truth: TruthEngine, lab: OpenLab) -> None:
    one = Load(truth, PROMPTS, Closed(users=1, requests=2), max_tokens=4)
    lab.measure("load/a", one)
    asked = len(truth.records())
    raw_file("3.3.1", "load/a").write_bytes(b"\0" * 100)
    lab.measure("load/a", one)
    assert len(truth.records()) > asked


def test_a_function_is_measured_once_too(lab: OpenLab) -> None:
    calls = []

    def values() -> tuple[dict[str, int], list[int]]:
        calls.append(1)
        return {"x": 1}, [1, 2]

    async def waits() -> dict[str, int]:
        calls.append(1)
        return {"x": 2}

    assert lab.measure("a", values) == lab.measure("a", values) == {"x": 1}
    assert lab.raw("a") == [1, 2]
    assert lab.measure("b", waits) == lab.measure("b", waits) == {"x": 2}
    assert len(calls) == 2
    assert lab.measure("b", waits, depth=3) == {"x": 2}
    assert len(calls) == 3  # a setting that it did not have before


def test_a_result_with_a_draft_or_a_function_does_not_stand_for_one_without(truth: TruthEngine, lab: OpenLab) -> None:
    calls: list[str] = []

    def values() -> dict[str, int]:
        calls.append("values")
        return {"x": 1}

    def own() -> int:
        return 3

    plain = ledger.provenance("vllm")
    drafting = {**plain, "draft": {"kind": "ngram", "tokens": 4}}
    for source in (drafting, plain, plain, drafting):
        lab.measure("a", values, engine=SimpleNamespace(provenance=lambda source=source: source))
    assert len(calls) == 3
    asked = []
    for used in ((own,), (), (), (own,)):
        lab.measure("load/a", Load(truth, PROMPTS, Closed(users=1, requests=2), max_tokens=4), uses=used)
        asked.append(len(truth.records()))
    assert asked[0] < asked[1] == asked[2] < asked[3]


def test_a_run_that_a_function_returns_is_a_load(lab: OpenLab) -> None:
    def load() -> Run:
        traces = tuple(ledger.trace() for _ in range(4))
        return Run(traces, 4, 8, "short", ledger.provenance("vllm"), 0.01)

    assert lab.measure("own/a", load).values() == lab.measure("own/a", load).values()
    assert results.load_results("3.3.1")["own/a"]["provenance"]["engine"] == "vllm"


NOTEBOOK = """
import os
from shared.course import labs

lab = labs.open("3.3.2")

# BEGIN the student's function
{function}
# END

def helper(n):
    return blocks_needed(n, 16)

def schedule():
    print("measured", flush=True)
    return {{"blocks": [blocks_needed(n, 16) for n in (1, 40)]}}

print(lab.measure("own/schedule", schedule, uses=({uses},)))
"""
RIGHT = """
def blocks_needed(tokens, block_size):
    \"""Blocks, rounded up.\"""
    return -(-tokens // block_size)
"""


def notebook(tmp_path: Path, function: str, uses: str = "blocks_needed") -> str:
    """What a notebook with this function prints."""
    file = tmp_path / "notebook.py"
    file.write_text(NOTEBOOK.format(function=function, uses=uses))
    return subprocess.check_output([sys.executable, str(file)], cwd=paths.REPO, text=True)


@pytest.mark.parametrize("uses", ["blocks_needed", "helper"])
def test_a_changed_function_of_the_student_is_measured_and_an_edited_docstring_voids_nothing(
    tmp_path: Path, uses: str
) -> None:
    """A scheduler's old result must not count as the new one's; a comment must not cost a measurement."""
    assert "measured\n" in notebook(tmp_path, RIGHT, uses)
    assert "measured" not in notebook(tmp_path, RIGHT, uses)
    assert "measured" not in notebook(tmp_path, RIGHT.replace("Blocks, rounded up.", "How many blocks?"), uses)
    assert "measured" not in notebook(tmp_path, "# a comment\n\n" + RIGHT.replace("    return", "\n    return"), uses)
    changed = notebook(tmp_path, RIGHT.replace("-(-tokens // block_size)", "tokens // block_size"), uses)
    assert "measured\n" in changed
    assert re.search(rf": {uses}(, \w+)* changed\.", changed)
    assert "{'blocks': [0, 2]}" in changed


def test_the_measuring_function_itself_counts(tmp_path: Path) -> None:
    notebook(tmp_path, RIGHT)
    file = tmp_path / "notebook.py"
    file.write_text(file.read_text().replace("(1, 40)", "(1, 41)"))
    out = subprocess.check_output([sys.executable, str(file)], cwd=paths.REPO, text=True)
    assert ": schedule changed." in out


def test_numbers_from_outside_count_and_the_solutions_function_is_the_students(tmp_path: Path) -> None:
    factor = 2

    def f(x: int) -> int:
        return x * factor

    before = functions_sha256(f)
    factor = 3
    assert functions_sha256(f) != before
    names: dict[str, Any] = {}
    exec("def g(x):\n    return x + 1", names)
    assert functions_sha256(names["g"])["g"]


def test_a_local_that_is_named_as_a_variable_of_the_notebook_does_not_count(tmp_path: Path) -> None:
    cell = tmp_path / "cell.py"
    source = "def f(tokens):\n    return [users for users in range(tokens)]\n"
    alone: dict[str, Any] = {"__name__": "__main__"}
    beside: dict[str, Any] = {"__name__": "__main__", "tokens": 512, "users": 16}
    cell.write_text(source)
    for names in (alone, beside):
        exec(compile(source, str(cell), "exec"), names)
    assert functions_sha256(alone["f"]) == functions_sha256(beside["f"])


def test_a_function_without_a_source_has_the_same_hash_in_every_process() -> None:
    made = "from shared.results.provenance import functions_sha256; f = lambda n: [m for m in (lambda: range(n))()]; "
    seen = {
        subprocess.run(
            [sys.executable, "-c", made + "print(functions_sha256(f))"],
            capture_output=True,
            text=True,
            check=True,
            cwd=paths.REPO,
        ).stdout
        for _ in range(2)
    }
    assert len(seen) == 1
    assert "<lambda>" in seen.pop()


def test_the_hash_of_the_code_leaves_docstrings_and_comments_aside(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setattr(paths, "REPO", tmp_path)

    def hashed(text: str) -> str:
        (tmp_path / "shared" / "a.py").write_text(text)
        source_sha256.cache_clear()
        return source_sha256(("a",))

    first = hashed('"""One."""\n\ndef f(x):\n    """Two."""\n    return x\n')
    assert hashed('"""Other."""\nimport os\n') != first
    assert hashed('"""Other."""\n\n\ndef f(x):\n    """Words."""\n    return x  # a comment\n') == first
    assert hashed('"""One."""\n\ndef f(x):\n    """Two."""\n    return x + 1\n') != first
    source_sha256.cache_clear()


def test_an_edited_docstring_voids_no_result(monkeypatch: pytest.MonkeyPatch, truth: TruthEngine, lab: OpenLab) -> None:
    one = Load(truth, PROMPTS, Closed(users=1, requests=2), max_tokens=4)
    lab.measure("load/a", one)
    asked = len(truth.records())
    read = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda self, *a, **k: (
            read(self, *a, **k).replace('"""', '"""Edited. ', 1) if self.suffix == ".py" else read(self, *a, **k)
        ),
    )
    source_sha256.cache_clear()
    lab.measure("load/a", one)
    source_sha256.cache_clear()
    assert len(truth.records()) == asked


def test_the_modules_of_the_hash_exist_and_each_lab_has_its_own() -> None:
    for name in (*provenance.MADE_BY, *(one for lab in provenance.OF_LAB.values() for one in lab)):
        assert list((paths.REPO / "shared").glob(f"{name}.py")), name
    assert provenance.code_sha256("3.3.1") != provenance.code_sha256("3.3.2")


def test_what_is_typed_wrong_is_refused_before_it_is_measured(lab: OpenLab) -> None:
    measured = []
    with pytest.raises(LabError, match="'load users' can't be the key"):
        lab.measure("load users", lambda: measured.append(1))
    with pytest.raises(LabError, match=r"a dict can't be measured.*\nFix: give a Load, or the function itself"):
        lab.measure("load/users", {"tok_s": 3})  # type: ignore[call-overload]
    assert measured == []
    assert lab.results() == {}


@pytest.mark.parametrize("one", [functools.partial(dict, x=1), dict, len], ids=["partial", "class", "builtin"])
def test_what_has_no_code_of_its_own_is_refused(lab: OpenLab, one: Any) -> None:
    """Nothing could tell whether it has changed since."""
    with pytest.raises(LabError, match=r"can't be measured.*\nFix: give a Load, or the function itself"):
        lab.measure("a", one)


@pytest.mark.parametrize("made", [None, 3.5, [1, 2], (1, 2, 3)])
def test_a_function_that_returns_no_values_is_told(lab: OpenLab, made: Any) -> None:
    with pytest.raises(LabError, match=r"a: measuring returned a .*\nFix: return the values by name"):
        lab.measure("a", lambda: made)
    assert lab.results() == {}


def test_values_that_are_not_recorded_are_told(lab: OpenLab) -> None:
    lab.record("predict/limits", {"x": 1})
    with pytest.raises(LabError, match=r"Lab 3.3.1 has no result 'predict/limit'.\nFix: .*predict/limits"):
        lab.values("predict/limit")


def test_a_lab_that_is_none_is_told() -> None:
    with pytest.raises(LabError, match=r"There is no lab '3\.3\.9'"):
        labs.open("3.3.9")
