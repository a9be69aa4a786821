"""What a notebook says about an exercise, what it goes on with, and what it notes."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from shared import LabError
from shared.course import attempts, checks, registry
from shared.course.checks import Checker
from tests.wrong_answers.benchmark_arithmetic import floor_otherwise, floor_seconds

[FLOOR] = [e for e in registry.find_lab("3.3.1").exercises if e.function == "pass_floor_ms"]


@pytest.fixture
def check() -> Checker:
    return checks.of("3.3.1")


def called(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, under the name that the notebook gives it."""

    def renamed(*arguments: Any) -> Any:
        return function(*arguments)

    renamed.__name__ = name
    return renamed


def pass_floor_ms(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    raise NotImplementedError("ex-pass-floor: what limits a pass over few tokens, and what one over many?")


def test_the_three_outcomes(check: Checker) -> None:
    assert repr(check(pass_floor_ms)).startswith("○ not attempted: Write the body of pass_floor_ms")
    wrong = check(called("pass_floor_ms", floor_seconds))
    assert re.fullmatch(r"✘ incorrect: [^\n]*; the function must return ms\.", repr(wrong))
    assert "✘ Incorrect." in wrong._repr_html_()
    right = check(called("pass_floor_ms", floor_otherwise))
    assert repr(right) == f"✔ correct: {FLOOR.why}"
    assert attempts.read_attempts("3.3.1")["pass_floor_ms"]["attempts"] == 2  # an open one is no attempt


def test_an_open_exercise_goes_on_with_the_reference(check: Checker, capsys: pytest.CaptureFixture[str]) -> None:
    taken = check.use(pass_floor_ms)
    assert taken(1, 10**6, 10**9, 100, 1) == 10
    assert capsys.readouterr().out == (
        "Using the reference solution of pass_floor_ms, because yours is not written yet. "
        "Yours is used once it passes.\n"
    )
    assert attempts.read_attempts("3.3.1")["pass_floor_ms"]["uses"] == "reference"


def test_a_wrong_one_is_not_taken_and_a_right_one_is(check: Checker, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, right = (called("pass_floor_ms", f) for f in (floor_seconds, floor_otherwise))
    assert check.use(wrong) is not wrong
    assert capsys.readouterr().out == (
        "Using the reference solution of pass_floor_ms, because yours is incorrect. Yours is used once it passes.\n"
    )
    assert check.use(right) is right
    assert capsys.readouterr().out == ""
    assert attempts.read_attempts("3.3.1")["pass_floor_ms"]["uses"] == "own"


def test_hints_come_one_by_one_and_the_solution_is_noted(check: Checker) -> None:
    said = [check.hint(pass_floor_ms).text for _ in range(4)]
    assert said[0] == f"1 of 3: {FLOOR.hints[0]}"
    assert said[2].endswith("(This is the last hint. check.reveal(pass_floor_ms) shows the solution.)")
    assert said[3] == said[2]
    revealed = check.reveal("pass_floor_ms")
    assert "return max(reading_ms, computing_ms)" in revealed.text
    assert "SOLUTION" not in revealed.text
    noted = attempts.read_attempts("3.3.1")["pass_floor_ms"]
    assert (noted["hints"], noted["revealed"]) == (4, True)


def test_a_name_that_is_no_exercise_is_said(check: Checker) -> None:
    with pytest.raises(LabError, match=r"has no exercise 'ceiling'.\nFix: give one of these functions: closed_loop"):
        check("ceiling")
    with pytest.raises(LabError, match="has no exercise"):
        check(3)  # type: ignore[arg-type]
    with pytest.raises(LabError, match=r"There is no lab '9'"):
        checks.of("9")


DAMAGES = [
    b"",
    b"\0" * 100,
    b"[]",
    b'{"pass_floor_ms": 3}',
    b"[" * 100_000,
    b'{"pass_floor_ms": {"hints": "many"}}',
    b'{"pass_floor_ms": {"outcome": "A+"}}',
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_tally_is_as_if_nothing_had_happened(check: Checker, damage: bytes) -> None:
    check.hint(pass_floor_ms)
    attempts.attempts_file("3.3.1").write_bytes(damage)
    assert attempts.read_attempts("3.3.1") == {}
    assert check.hint(pass_floor_ms).text.startswith("1 of 3")
    assert set(json.loads(attempts.attempts_file("3.3.1").read_text())) == {"pass_floor_ms"}


def test_a_changed_solution_cell_is_missed_with_a_fix(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.solution.cache_clear()
    monkeypatch.setattr(checks, "notebook", lambda lab: {"cells": []})
    with pytest.raises(LabError, match=r"has no cell `ex-pass-floor`.\nFix: git checkout solutions"):
        check.reveal(pass_floor_ms)
