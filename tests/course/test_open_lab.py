"""A lab in its notebook: it starts engines, tries what a machine may lack, and shows its milestone and timelines."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError, results
from shared.course import labs, milestones
from shared.course.labs import OpenLab
from shared.engines import ENGINES, Flags
from shared.load import Run
from shared.metrics import summarise
from shared.models import ModelChoice
from tests.helpers.ledger import provenance, trace


@pytest.fixture
def lab() -> OpenLab:
    return labs.open("3.3.1")


def no_library() -> int:
    raise LabError("There is no library on this machine.", "make engines")


def test_what_a_machine_lacks_returns_none_and_its_reason_is_recorded(
    lab: OpenLab, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lab.attempt("binding/library", "the library", no_library) is None
    assert "Without the library: There is no library on this machine." in capsys.readouterr().out
    assert lab.values("binding/library") == {"missing": "There is no library on this machine."}
    assert lab.attempt("binding/library", "the library", lambda: 7) == 7


def test_another_error_than_a_lab_error_is_not_hidden(lab: OpenLab) -> None:
    with pytest.raises(ZeroDivisionError):
        lab.attempt("binding/library", "the library", lambda: 1 // 0)
    assert lab.results() == {}


def test_engines_start_with_their_flags_and_one_that_cannot_is_skipped(
    lab: OpenLab, model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, ModelChoice, Flags]] = []

    def launch(name: str, model: ModelChoice, flags: Flags) -> Any:
        if name == "trtllm":
            raise LabError("TensorRT-LLM needs a GPU.", "use another machine")
        started.append((name, model, flags))
        return SimpleNamespace(spec=ENGINES[name], startup_s=1.234, provenance=lambda: provenance(name))

    monkeypatch.setattr("shared.results.participants.launch", launch)
    engines = lab.start_engines(model, {"trtllm": {}, "vllm": {"--max-num-seqs": 4}})
    assert [engine.spec.name for engine in engines] == ["vllm"]
    assert started == [("vllm", model, {"--max-num-seqs": 4})]
    assert lab.values("engine/vllm") == {"startup_s": 1.23}
    assert lab.values("engine/trtllm") == {"missing": "TensorRT-LLM needs a GPU."}
    with pytest.raises(LabError, match="No engine could be started"):
        lab.start_engines(model, {"trtllm": {}})


def test_the_milestone_is_this_labs(lab: OpenLab) -> None:
    found = lab.milestone()
    assert repr(found) == repr(milestones.check("3.3.1"))
    assert found.headline() == "Milestone 3.3.1, comprehensive engine benchmark report: 0 of 8 claims hold"
    assert not found.complete_here


def test_the_milestone_is_displayed(lab: OpenLab, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    lab.show_milestone()
    assert shown[0]["text/plain"] == repr(lab.milestone())


def test_a_timeline_holds_the_requests_of_one_load(lab: OpenLab) -> None:
    run = Run((trace(), trace(start_ms=5)), 2, 8, "short", provenance("vllm"), 0.01)
    results.record("3.3.1", "load/a", summarise(run))
    file = lab.write_timeline("load/a")
    events = json.loads(file.read_bytes())["traceEvents"]
    assert [event["name"] for event in events if event["ph"] == "X"].count("decode") == 2
    with pytest.raises(LabError, match=r"3\.3\.1 has no result 'load/b'.*\nFix: .*load/a"):
        lab.write_timeline("load/b")


def test_results_are_read_by_key(lab: OpenLab) -> None:
    lab.record("quoted/x", {"tok_s": 3}, kind="quoted: a blog, 2026", raw=[1])
    assert lab.results() == {}
    assert lab.results(None).keys() == {"quoted/x"}
    assert (lab.values("quoted/x"), lab.raw("quoted/x")) == ({"tok_s": 3}, [1])
    lab.set_aside("quoted/")
    assert lab.results(None) == {}
