"""A guess is recorded once, before the measurement, and stands beside its result."""

import time

import pytest

from shared import LabError, results
from shared.course import labs
from shared.metrics import Spread


@pytest.fixture
def lab() -> labs.OpenLab:
    return labs.open("3.3.2")


def rows(lab: labs.OpenLab, **measured: object) -> list[tuple[str, ...]]:
    return [tuple(row) for row in lab.guess_beside_result("load/", **measured).rows]


def test_a_guess_is_returned_recorded_and_shown_beside_its_result(
    lab: labs.OpenLab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.guess(growth=8, ttft_ms=120.5) == {"growth": 8, "ttft_ms": 120.5}
    assert "Your guess is recorded: growth 8, ttft ms 120" in capsys.readouterr().out
    entry = lab.results(None)["guess/growth"]
    assert (entry["kind"], entry["values"]) == ("guessed", {"guess": 8})
    assert rows(lab, growth=7.61, ttft_ms=Spread.of([90, 100, 110])) == [
        ("growth", "8", "7.61"),
        ("ttft ms", "120", "100 (90–110)"),
    ]


def test_an_open_guess_is_named_and_the_notebook_goes_on(lab: labs.OpenLab, capsys: pytest.CaptureFixture[str]) -> None:
    assert lab.guess(growth=..., share=0.5) == {"share": 0.5}
    assert "Still open: growth. Type your number" in capsys.readouterr().out
    assert rows(lab, growth=7.6) == [("growth", "no guess", "7.6")]


@pytest.mark.parametrize("nonsense", ["8", True, [8], float("nan"), float("-inf"), pytest.param(10**400, id="huge")])
def test_a_guess_that_is_no_number_is_refused(lab: labs.OpenLab, nonsense: object) -> None:
    with pytest.raises(LabError, match=r"The guess growth is .*, which is not a number"):
        lab.guess(growth=nonsense)


def test_a_guess_that_was_typed_after_the_measurement_is_marked(
    lab: labs.OpenLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = iter(f"2026-01-01T00:00:{second:02}+0000" for second in range(60))
    monkeypatch.setattr("shared.results.provenance.now", lambda: next(moment))
    monkeypatch.setattr("shared.results.ledger.now", lambda: next(moment))
    lab.guess(growth=8, share=1)
    results.record("3.3.2", "load/x", {"x": 1})
    lab.guess(growth=8, share=2)  # the cell is run again: only the changed one is a new guess
    assert rows(lab, growth=7.6, share=2) == [
        ("growth", "8", "7.6"),
        ("share", "2 (typed after the measurement)", "2"),
    ]


def test_moments_are_compared_and_not_their_texts(lab: labs.OpenLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks were set back by an hour between the guess and its measurement, as each autumn."""
    moment = iter(("2026-10-25T02:50:00+0200", "2026-10-25T02:10:00+0100", "2026-10-25T01:20:00+0000"))
    for module in ("provenance", "ledger"):
        monkeypatch.setattr(f"shared.results.{module}.now", lambda: next(moment))
    monkeypatch.setattr("shared.results.ledger.made_here", lambda lab: {"time": next(moment)})
    lab.guess(growth=8)
    results.record("3.3.2", "load/x", {"x": 1})
    lab.guess(share=2)
    assert rows(lab, growth=7.6, share=2) == [
        ("growth", "8", "7.6"),
        ("share", "2 (typed after the measurement)", "2"),
    ]


@pytest.mark.parametrize("values", [{}, {"text": None, "guess": "many"}, {"text": 3, "guess": None}])
def test_words_that_a_foreign_file_lacks_stop_nothing(lab: labs.OpenLab, values: dict[str, object]) -> None:
    results.record("3.3.2", "guess/growth", values, kind="guessed")
    results.record("3.3.2", "conclusion", values, kind="written")
    assert rows(lab, growth=7.6) == [("growth", "no guess", "7.6")]
    assert "In your words" not in repr(lab.milestone())
    lab.guess(growth=8)
    assert rows(lab, growth=7.6) == [("growth", "8", "7.6")]


def test_a_guess_is_no_measurement(lab: labs.OpenLab) -> None:
    lab.guess(growth=8)
    assert lab.results() == {}
    assert time.strftime("%Y") in lab.results("guessed")["guess/growth"]["provenance"]["time"]


def test_a_conclusion_is_kept_with_its_evidence_and_shown_by_the_milestone(lab: labs.OpenLab) -> None:
    results.record("3.3.2", "load/users-1/vllm", {"output_tok_s": 50})
    results.record("3.3.2", "load/users-4/vllm", {"output_tok_s": 160})
    table = lab.conclude("Batching pays <here>.\n", "load/", "load/users-4")
    assert table is not None
    assert [tuple(row) for row in table.rows] == [("load/", "2 results"), ("load/users-4", "1 result")]
    entry = lab.results(None)["conclusion"]
    assert entry["kind"] == "written"
    assert entry["values"] == {"text": "Batching pays <here>.", "evidence": ["load/", "load/users-4"]}
    assert "conclusion" not in lab.results()  # no measurement
    assert repr(lab.milestone()).endswith("In your words: Batching pays <here>.")
    assert "Batching pays &lt;here&gt;." in lab.milestone()._repr_html_()


def test_a_conclusion_without_words_or_evidence_is_not_kept(
    lab: labs.OpenLab, capsys: pytest.CaptureFixture[str]
) -> None:
    results.record("3.3.2", "load/users-1/vllm", {"output_tok_s": 50})
    assert lab.conclude(" ", "load/") is None
    assert "There is no conclusion yet" in capsys.readouterr().out
    with pytest.raises(LabError, match="names no result"):
        lab.conclude("Batching pays.")
    with pytest.raises(LabError, match="load/users-9") as wrong:
        lab.conclude("Batching pays.", "load/users-9")
    assert "load/users-1/vllm" in str(wrong.value)
    assert "conclusion" not in lab.results(None)
    assert "In your words" not in repr(lab.milestone())
