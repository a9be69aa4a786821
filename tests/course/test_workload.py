"""What a lab takes a student is counted from its notebook, and its core fits the outline's hours."""

import pytest

from shared.course import checks, registry, workload
from shared.course.exercise import Exercise
from shared.course.registry import Lab

CELLS = [
    {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Lab\n\n" + "word " * 299},
    {"cell_type": "markdown", "id": "b", "metadata": {}, "source": "## 1 · First"},
    {"cell_type": "code", "id": "ex-f", "metadata": {}, "source": "def f():\n    pass"},
    {"cell_type": "code", "id": "run", "metadata": {"took_s": 120}, "source": "1\n" * 10},
    {"cell_type": "markdown", "id": "c", "metadata": {}, "source": "## 2 · More (extra)\n\n" + "word " * 1500},
    {"cell_type": "code", "id": "done", "metadata": {"tags": ["solution-only"], "took_s": 600}, "source": "1"},
]


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setattr(checks, "notebook", lambda _: {"cells": CELLS, "metadata": {}})
    asked = Exercise("f", "ex-f", 1, 1, 15, "", (), lambda _: None)
    monkeypatch.setattr(Lab, "exercises", (asked,))
    return registry.find_lab("3.3.2")


def test_reading_exercises_and_waiting_add_up_by_section(lab: Lab) -> None:
    opening, first, more = workload.sections(lab)
    assert opening.minutes == pytest.approx(2)
    assert (first.exercises, first.waiting) == (15, 2)
    assert first.reading == pytest.approx(1 + 2 / 150)
    assert (more.extra, more.waiting) == (True, 0)
    assert workload.core_hours(lab) == pytest.approx(20 / 60, rel=0.01)


def test_the_table_has_a_row_for_each_section_and_the_sums(lab: Lab) -> None:
    table = workload.workload(lab)
    assert [row[0] for row in table.rows] == ["Opening", "1 · First", "2 · More (extra)", "**core**", "**extra**"]
    assert table.rows[3] == ("**core**", "3", "15", "2", "20")
    assert "the outline plans 120" in table.title
