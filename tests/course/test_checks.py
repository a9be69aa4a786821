"""What a notebook says about an exercise, what it goes on with, and what it notes."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from shared import LabError
from shared.course import attempts, checks, registry
from shared.course.checks import Checker
from tests.wrong_answers.benchmark_figures import ceiling_otherwise, in_gb

[CEILING] = [e for e in registry.find_lab("3.3.1").exercises if e.function == "ceiling_tok_s"]


@pytest.fixture
def check() -> Checker:
    return checks.of("3.3.1")


def called(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, under the name that the notebook gives it."""

    def renamed(*arguments: Any) -> Any:
        return function(*arguments)

    renamed.__name__ = name
    return renamed


def ceiling_tok_s(bandwidth_gb_s: float, weight_bytes: float) -> float:
    raise NotImplementedError("ex-ceiling: how often can the weights be read in a second?")


def test_the_three_outcomes(check: Checker) -> None:
    assert repr(check(ceiling_tok_s)).startswith("○ not attempted: Write the body of ceiling_tok_s")
    wrong = check(called("ceiling_tok_s", in_gb))
    assert re.fullmatch(r"✘ incorrect: [^\n]*: multiply the bandwidth by 10⁹\.", repr(wrong))
    assert "✘ Incorrect." in wrong._repr_html_()
    right = check(called("ceiling_tok_s", ceiling_otherwise))
    assert repr(right) == f"✔ correct: {CEILING.why}"
    assert attempts.read_attempts("3.3.1")["ceiling_tok_s"]["attempts"] == 2  # an open one is no attempt


def test_an_open_exercise_goes_on_with_the_reference(check: Checker, capsys: pytest.CaptureFixture[str]) -> None:
    taken = check.use(ceiling_tok_s)
    assert taken(100, 10**9) == 100
    assert capsys.readouterr().out == (
        "Using the reference solution of ceiling_tok_s, because yours is not written yet. "
        "Yours is used once it passes.\n"
    )
    assert attempts.read_attempts("3.3.1")["ceiling_tok_s"]["uses"] == "reference"


def test_a_wrong_one_is_not_taken_and_a_right_one_is(check: Checker, capsys: pytest.CaptureFixture[str]) -> None:
    wrong, right = (called("ceiling_tok_s", f) for f in (in_gb, ceiling_otherwise))
    assert check.use(wrong) is not wrong
    assert capsys.readouterr().out == (
        "Using the reference solution of ceiling_tok_s, because yours is incorrect. Yours is used once it passes.\n"
    )
    assert check.use(right) is right
    assert capsys.readouterr().out == ""
    assert attempts.read_attempts("3.3.1")["ceiling_tok_s"]["uses"] == "own"


def test_hints_come_one_by_one_and_the_solution_is_noted(check: Checker) -> None:
    said = [check.hint(ceiling_tok_s).text for _ in range(4)]
    assert said[0] == f"1 of 3: {CEILING.hints[0]}"
    assert said[2].endswith("(This is the last hint. check.reveal(ceiling_tok_s) shows the solution.)")
    assert said[3] == said[2]
    revealed = check.reveal("ceiling_tok_s")
    assert "return bandwidth_gb_s * 1e9 / weight_bytes" in revealed.text
    assert "SOLUTION" not in revealed.text
    noted = attempts.read_attempts("3.3.1")["ceiling_tok_s"]
    assert (noted["hints"], noted["revealed"]) == (4, True)


def test_a_name_that_is_no_exercise_is_said(check: Checker) -> None:
    with pytest.raises(LabError, match=r"has no exercise 'ceiling'.\nFix: give one of these functions: ceiling_t"):
        check("ceiling")
    with pytest.raises(LabError, match="has no exercise"):
        check(3)  # type: ignore[arg-type]
    with pytest.raises(LabError, match=r"There is no lab '9'"):
        checks.of("9")


DAMAGES = [
    b"",
    b"\0" * 100,
    b"[]",
    b'{"ceiling_tok_s": 3}',
    b"[" * 100_000,
    b'{"ceiling_tok_s": {"hints": "many"}}',
    b'{"ceiling_tok_s": {"outcome": "A+"}}',
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_torn_tally_is_as_if_nothing_had_happened(check: Checker, damage: bytes) -> None:
    check.hint(ceiling_tok_s)
    attempts.attempts_file("3.3.1").write_bytes(damage)
    assert attempts.read_attempts("3.3.1") == {}
    assert check.hint(ceiling_tok_s).text.startswith("1 of 3")
    assert set(json.loads(attempts.attempts_file("3.3.1").read_text())) == {"ceiling_tok_s"}


def test_a_changed_solution_cell_is_missed_with_a_fix(check: Checker, monkeypatch: pytest.MonkeyPatch) -> None:
    checks.solution.cache_clear()
    monkeypatch.setattr(checks, "notebook", lambda lab: {"cells": []})
    with pytest.raises(LabError, match=r"has no cell `ex-ceiling`.\nFix: git checkout solutions"):
        check.reveal(ceiling_tok_s)
