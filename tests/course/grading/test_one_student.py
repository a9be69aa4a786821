"""One student's lab as a row: what their machine could not run is a note for the instructor, and no problem."""

from pathlib import Path

import pytest

from shared import results
from shared.course import registry
from shared.course.evidence import Claim, Evidence
from shared.course.grading import one_student
from shared.results.participants import MISSING

LAB = registry.find_lab("3.3.1")


def holds(_: Evidence) -> tuple[bool, str]:
    return True, "seen"


def needs_sglang(evidence: Evidence) -> tuple[bool, str]:
    evidence.raise_if_not_run("engine/sglang")
    return False, "nothing recorded"


def test_what_a_students_machine_could_not_run_is_a_note_and_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LAB.__dict__, "claims", (Claim("A", holds), Claim("B", needs_sglang)))
    results.record("3.3.1", "engine/sglang", {MISSING: "SGLang needs a GPU."})
    found = one_student.grade_lab(LAB, Path("nowhere"))
    assert (found.claims, found.problems) == ("1 of 2, 1 not run here", ())
    assert found.notes[0].startswith("claim 2: not run here: SGLang needs a GPU [")
