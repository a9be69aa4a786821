"""A verdict on a line-up is tested on the ledger: the unfair run, and a field that shows what was done differently."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError, metrics, models, results
from shared.course import labs, milestones
from shared.course.benchmark import line_up
from shared.course.benchmark.line_up import runs, verdict
from shared.engines import ENGINES
from shared.hardware.machine import detect
from shared.load import Run
from shared.results.ledger import raw_file
from shared.results.provenance import functions_sha256
from tests.helpers.ledger import fill, provenance, trace

BUSY = {"client_lag_ms": {"p50": 25.0, "p99": 60.0, "max": 70.0}}
CACHED = {"cached_tokens": 100}
WAYS: list[tuple[str, dict[str, Any], str]] = [
    ("precision", {"precision": "Q8_0"}, "provenance.precision"),
    ("cores", {"cores": 1}, "provenance.cores"),
    ("cache", CACHED, "values.cached_tokens"),
    ("client", BUSY, "values.client_lag_ms.p50"),
]


def record(number: int, unfair: str, change: dict[str, Any]) -> None:
    """Four runs, of which one has this change."""
    for name in line_up.NAMES:
        mine = change if name == unfair else {}
        source = {**provenance("llamacpp"), **{k: v for k, v in mine.items() if k in ("precision", "cores")}}
        one = trace(gap_ms=10 + ord(name) / 100)
        traces = tuple(
            replace(one, cached_tokens=mine["cached_tokens"]) if "cached_tokens" in mine else one for _ in range(4)
        )
        lag_ms = mine.get("client_lag_ms", {"p50": 0.15, "p99": 3.0, "max": 5.0})
        settings = {"kind": "closed", "about_cache": True}
        run = Run(traces, 4, 8, "shared-prefix-160", source, 0.02, load=settings, client_lag_ms=lag_ms)
        results.record("3.3.1", f"line-up/{number}/{name}", metrics.summarise(run))


@pytest.mark.parametrize(("way", "change", "proof"), WAYS, ids=[way for way, _, _ in WAYS])
def test_each_way_is_found_by_what_was_done_and_not_by_its_effect(way: str, change: dict[str, Any], proof: str) -> None:
    record(3, "C", change)
    lab = labs.open("3.3.1")
    assert line_up.solved(lab, 3)[0] == "C"
    found = line_up.judge(lab, 3, "C", proof)
    assert found
    assert found.title == f"✔ Found: run C: {verdict.MEANING[way]}"
    for suspect, evidence, answer in (
        ("A", proof, "run A was measured as the others were"),
        ("C", "values.tpot_ms.median", "is an effect, or differs by chance"),
        ("C", "values.users", "is the same in all four runs"),
    ):
        wrong = line_up.judge(lab, 3, suspect, evidence)
        assert wrong
        assert answer in wrong.title
        assert wrong.title.startswith("✘ Not yet")


def test_a_verdict_needs_a_run_and_a_field_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    lab = labs.open("3.3.1")
    with pytest.raises(LabError, match=r"Line-up 3 is not measured yet.\nFix: run the cell `run-line-up`"):
        line_up.figures(lab, 3)
    record(3, "C", CACHED)
    assert len(line_up.figures(lab, 3).rows) == 4
    assert line_up.judge(lab, 3, "", "") is None
    assert capsys.readouterr().out.startswith("Still open")
    with pytest.raises(LabError, match="There is no run 'E'"):
        line_up.judge(lab, 3, "E", "values.users")
    with pytest.raises(LabError, match=r"no field 'cached_tokens'.\nFix: name one such as values.cached_tokens"):
        line_up.judge(lab, 3, "C", "cached_tokens")


def test_a_number_always_draws_the_same_line_up_and_all_ways_occur() -> None:
    machine = detect()
    drawn = [runs.line_up(number, machine) for number in range(40)]
    assert drawn == [runs.line_up(number, machine) for number in range(40)]
    assert {one.unfair for one in drawn} == set(line_up.NAMES)
    assert {one.way for one in drawn} >= {"precision", "cache", "client"}


def test_the_hash_of_a_run_betrays_nothing() -> None:
    engine = SimpleNamespace(spec=ENGINES["llamacpp"])
    hashes = set()
    for way in ("fair", "precision", "cores", "client"):
        hashes |= set(functions_sha256(runs.run_of(way, engine, models.small(), 8, True)).items())  # type: ignore[arg-type]
    assert len(hashes) == 1


def not_installed() -> None:
    raise LabError("llama.cpp is not installed.", "make engines")


def test_a_torn_verdict_is_judged_again_and_not_measured() -> None:
    fill({"llamacpp": 10})
    raw_file("3.3.1", verdict.VERDICT).write_bytes(b"\0" * 50)
    assert milestones.check("3.3.1").claims[-1].evidence == (
        "refused: line-up/verdict: its raw data is missing or damaged: run the cell `judge-verdict` again"
    )


def test_a_number_that_names_no_line_up_is_no_lack_of_the_machine() -> None:
    """A reason is evidence that the line-up could not be run here. A number that is typed wrong is none."""
    fill({"llamacpp": 10})
    results.set_aside("3.3.1", "line-up/")
    lab = labs.open("3.3.1")
    with pytest.raises(LabError, match="'line-up/-3/A' can't be the key of a result"):
        lab.attempt("line-up/runs", "the line-up", lambda: lab.measure("line-up/-3/A", lambda: {"x": 1}))
    assert "no verdict on the line-up" in milestones.check("3.3.1").claims[-1].evidence


def test_the_milestone_tests_the_verdict_again() -> None:
    fill({"llamacpp": 10})

    def last() -> str:
        return milestones.check("3.3.1").claims[-1].evidence

    assert "no verdict" not in last()
    results.record("3.3.1", verdict.VERDICT, {"number": 1, "suspect": "A", "evidence": "provenance.precision"})
    assert "line-up 1, run A was measured as the others were" in last()
    results.set_aside("3.3.1", verdict.VERDICT)
    assert "no verdict on the line-up" in last()
    lab = labs.open("3.3.1")
    assert lab.attempt("line-up/runs", "the line-up", not_installed) is None
    assert "no verdict" not in last()
    assert lab.attempt("line-up/runs", "the line-up", lambda: 7) == 7  # it is installed now
    assert "no verdict on the line-up" in last()
