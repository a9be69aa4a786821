"""An engine or a part of a lab that isn't available is left out, and the ledger records why."""

from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError, results
from shared.hardware import Machine, detect
from shared.launch import stop_all
from shared.models import ModelChoice
from shared.results import participants
from tests import machines


def refuse() -> int:
    raise LabError("There is no library on this machine.", "make engines")


def test_what_cannot_be_done_is_said_and_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    assert participants.attempt("3.3.1", "binding/library", "the library", refuse) is None
    assert capsys.readouterr().out == "Without the library: There is no library on this machine.\nFix: make engines\n"
    entries = results.load_results("3.3.1")
    assert participants.missing(entries) == {"binding/library": "There is no library on this machine."}
    assert participants.missing(entries, "engine/") == {}
    assert participants.attempt("3.3.1", "binding/library", "the library", lambda: 7) == 7
    assert participants.missing(results.load_results("3.3.1")) == {}


def test_a_result_that_an_attempt_recorded_stays() -> None:
    results.record("3.3.1", "quality/Q4_0", {"bytes": 7})
    assert participants.attempt("3.3.1", "quality/Q4_0", "Q4_0", lambda: 7) == 7
    assert participants.attempt("3.3.1", "quality/Q4", "Q4", refuse) is None
    assert participants.attempt("3.3.1", "quality/Q4", "Q4", lambda: 7) == 7
    entries = results.load_results("3.3.1")
    assert {key: e["values"] for key, e in entries.items()} == {"quality/Q4_0": {"bytes": 7}}  # it only begins alike


def test_without_any_engine_there_is_no_comparison(model: ModelChoice) -> None:
    said = r"No engine could be started; the reasons are printed above\.\nFix: apply the fixes printed above, then run "
    with pytest.raises(LabError, match=said):
        participants.start_engines("3.3.1", model, {"trtllm": {"--max_batch_size": 4}})
    [why] = participants.missing(results.load_results("3.3.1"), "engine/").values()
    assert why == "TensorRT-LLM can't be started here: it needs an NVIDIA GPU."


def test_engines_take_turns_unless_memory_is_too_small_for_all(spark: Machine) -> None:
    engines: Any = ("ollama", "vllm")
    found = participants.in_turn(detect(machines.machine("no-gpu")), engines, 2, (1, 32))
    assert found[:5] == [(1, 1, "ollama"), (1, 1, "vllm"), (1, 32, "ollama"), (1, 32, "vllm"), (2, 1, "ollama")]
    on_spark = participants.in_turn(spark, engines, 2, (1, 32))
    assert [engine for _, _, engine in on_spark] == ["ollama"] * 4 + ["vllm"] * 4  # each is started once
    assert sorted(on_spark) == sorted(found)


def test_an_engine_that_runs_is_not_started_again() -> None:
    engine: Any = SimpleNamespace(ended=False)
    assert participants.again(engine) is engine


@pytest.mark.engine
def test_the_others_start_and_their_memory_can_be_read(model: ModelChoice, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        asked = {"trtllm": {}, "llamacpp": {"-np": 2, "-c": 2048}, "vllm": {"--no-such-flag": 1}}
        [engine] = participants.start_engines("3.3.1", model, asked)  # type: ignore[arg-type]
        assert engine.spec.name == "llamacpp"
        entries = results.load_results("3.3.1")
        assert entries["engine/llamacpp"]["values"] == {"startup_s": pytest.approx(engine.startup_s, abs=0.01)}
        assert set(participants.missing(entries)) == {"engine/trtllm", "engine/vllm"}
        assert "vLLM doesn't know a flag → compare the flags with vLLM's --help" in capsys.readouterr().out
        assert participants.favourite([engine], "vllm") is engine
        assert "doesn't take part, so this uses llama.cpp" in capsys.readouterr().out
        resident = engine.resident_gib()
        assert resident
        assert model.file_bytes("BF16") / 2**30 < resident < 2
    finally:
        stop_all()


@pytest.mark.engine
def test_an_engine_that_is_there_after_all_is_missing_no_more(model: ModelChoice) -> None:
    participants.attempt("3.3.1", "engine/llamacpp", "llama.cpp", refuse)
    try:
        participants.start_engines("3.3.1", model, {"llamacpp": {"-np": 2, "-c": 2048}})
    finally:
        stop_all()
    assert participants.missing(results.load_results("3.3.1")) == {}
