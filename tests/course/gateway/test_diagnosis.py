"""Diagnose it: each fault shows in the figures that its answer names, and each wrong answer gets its own hint."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from shared import LabError
from shared.course import labs
from shared.course.evidence import Evidence
from shared.course.gateway import diagnosis, injections, running
from shared.course.gateway.diagnosis import Case
from shared.course.gateway.seven_faults.figures import CONFUSED, FIGURES, hint, moved, name_of
from shared.course.gateway.seven_faults.stack import (
    CACHE,
    CLIENT,
    CORES,
    FAULTS,
    KV,
    ONE,
    OVERLOAD,
    READER,
    USERS,
    Figures,
    Stack,
    healthy,
)
from shared.hardware import Machine
from shared.launch import stop_all
from shared.models import ModelChoice

# The figures of a healthy run, and what each fault changes in them, as measured on two cores.
HEALTHY: Figures = {
    "sent_per_s": 8.0, "gateway_running": 3.0, "gateway_waiting": 0.0, "refused": 0, "send_wait_s": 0.0,
    "hit_share": 0.74, "engine_running": 3, "engine_waiting": 0.0, "idle_seats": 0.03, "engine_cpu": 1.9,
    "busy_threads": 2, "others_cpu": 0.1, "client_lag_ms": 2.0, "client_cpu": 0.06, "gateway_ttft_ms": 150.0,
    "ttft_ms": 75.0, "itl_ms": 11.0, "tok_s": 200.0, "failed": 0,
}  # fmt: skip
CHANGED: Mapping[str, Figures] = {
    OVERLOAD: {"sent_per_s": 48.0, "gateway_running": 4.0, "gateway_waiting": 13.0, "engine_running": 4},
    KV: {"preemptions": 6, "kv_use": 1.0, "engine_waiting": 1.2, "hit_share": 0.2, "ttft_ms": 900},
    ONE: {"engine_running": 1, "engine_waiting": 1.9, "sent_per_s": 5.0, "ttft_ms": 300, "itl_ms": 7},
    CACHE: {"hit_share": 0.03, "sent_per_s": 4.0, "gateway_ttft_ms": 400, "ttft_ms": 350},
    CLIENT: {"client_lag_ms": 600.0, "engine_running": 1, "sent_per_s": 3.0, "engine_cpu": 0.6, "ttft_ms": 900},
    CORES: {"engine_cpu": 1.0, "busy_threads": 1, "sent_per_s": 5.0, "itl_ms": 20, "ttft_ms": 140},
    READER: {"idle_seats": 2.9, "send_wait_s": 9.0, "gateway_running": 4.0, "gateway_waiting": 1.9, "engine_running": 1,
             "engine_cpu": 1.2, "sent_per_s": 4.0, "ttft_ms": 500},
}  # fmt: skip


def figures(fault: str = "", engine: str = "llamacpp") -> Figures:
    vllm = {"preemptions": 0.0, "kv_use": 0.4} if engine == "vllm" else {}
    return {**HEALTHY, **vllm, **CHANGED.get(fault, {})}


def engine_of(fault: str) -> str:
    return "vllm" if fault == KV else "llamacpp"


def seed_of(fault: str) -> int:
    return next(seed for seed in range(1000) if diagnosis.draw(engine_of(fault), seed) == fault)


def name(fault: str, figure: str) -> str:
    return name_of(figure, engine_of(fault))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Stack]:
    """Recorded figures in place of measurements. Lists the stacks that would have been measured."""
    seen: list[Stack] = []

    def observe(stack: Stack) -> tuple[Figures, dict[str, Any]]:
        seen.append(stack)
        base = healthy(stack.engine, stack.prompts.model)
        found = [one for one, fault in FAULTS.items() if stack == fault.inject(base, HEALTHY)]
        raw = {"samples": [{"s": 0.1, "gateway_running": 3.0}], "metrics": {"before": {}, "after": {}}, "logs": {}}
        return figures(found[0] if found else "", stack.engine), raw

    monkeypatch.setattr(diagnosis, "observe", observe)
    return seen


def opened(fault: str, model: ModelChoice) -> Case:
    return diagnosis.open_case(labs.OpenLab("3.3.5"), model, seed=seed_of(fault), engine=engine_of(fault))


def answered(case: Case, **given: Any) -> bool:
    """Answer, and return whether the answer was recorded as right."""
    case.answer(**given)
    entry = case.lab.results().get(case.key("answer"))
    return bool(entry and entry["values"]["right"])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_every_possible_fault_is_drawn_and_a_seed_always_draws_the_same() -> None:
    for engine in ("llamacpp", "vllm"):
        drawn = [diagnosis.draw(engine, seed) for seed in range(100)]
        assert set(drawn) == {name for name, fault in FAULTS.items() if engine in fault.engines}
        assert drawn == [diagnosis.draw(engine, seed) for seed in range(100)]


def test_where_cores_do_not_show_another_fault_is_drawn(monkeypatch: pytest.MonkeyPatch, spark: Machine) -> None:
    drawn = [diagnosis.draw("llamacpp", seed) for seed in range(100)]
    monkeypatch.setattr(diagnosis, "detect", lambda: spark)
    there = [diagnosis.draw("llamacpp", seed) for seed in range(100)]
    assert CORES not in there
    assert [fault for fault in there if fault != READER] == [
        fault for fault, before in zip(there, drawn, strict=True) if before not in (CORES, READER)
    ]


@pytest.mark.parametrize("fault", FAULTS)
def test_the_ledger_keeps_the_fault_sealed(fault: str, measured: list[Stack], model: ModelChoice) -> None:
    case = opened(fault, model)
    entry = case.lab.results()[case.key("faulty")]
    assert diagnosis.opened(entry, case.seed) == fault
    written = repr(entry)
    for word in (fault, FAULTS[fault].fix, FAULTS[fault].cause, "flags", "-np", "override"):
        assert word not in written
    with pytest.raises(LabError, match="another seed"):
        diagnosis.opened(entry, case.seed + 1)


def test_a_case_is_measured_once(measured: list[Stack], model: ModelChoice) -> None:
    for _ in range(2):
        case = opened(ONE, model)
    assert len(measured) == 2
    case.lab.set_aside("diagnose")
    opened(ONE, model)
    assert len(measured) == 4


def test_a_fault_changes_one_thing_and_its_fix_changes_it_back(model: ModelChoice) -> None:
    for fault in FAULTS.values():
        for engine in fault.engines:
            base = healthy(engine, model)
            faulty = fault.inject(base, HEALTHY)
            changed = [field for field in vars(base) if vars(base)[field] != vars(faulty)[field]]
            assert len(changed) == 1, changed
            mended = fault.mend(base, faulty)
            assert mended == base or replace(mended, gateway=base.gateway) == faulty


@pytest.mark.parametrize("fault", FAULTS)
def test_each_wrong_fault_gets_the_hint_for_this_confusion(fault: str) -> None:
    engine = engine_of(fault)
    before, now = figures(engine=engine), figures(fault, engine)
    hints = {other: hint(engine, fault, other, before, now) for other in FAULTS if other != fault}
    assert len(set(hints.values())) == len(FAULTS) - 1
    for other, text in hints.items():
        assert fault not in text, "the hint names the right fault"
        if (fault, other) in CONFUSED or (other == KV and engine == "llamacpp"):
            continue
        # The figure that it names has really not moved as the wrong answer would move it.
        figure = next(one for one in FAULTS[other].shows if name_of(one, engine) in text)
        assert not moved(figure, before, now, FAULTS[other].shows[figure])
        assert other in text


def test_faults_with_a_figure_in_common_have_a_hint_of_their_own() -> None:
    for fault in FAULTS:
        for other in FAULTS:
            before, now = figures(engine=engine_of(fault)), figures(fault, engine_of(fault))
            if fault != other and all(moved(one, before, now, way) for one, way in FAULTS[other].shows.items()):
                assert (fault, other) in CONFUSED


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_answers_are_told_why(
    fault: str, measured: list[Stack], model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    case = opened(fault, model)
    right = {"fault": fault, "metric": name(fault, next(iter(FAULTS[fault].shows))), "fix": FAULTS[fault].fix}
    assert not answered(case, **{**right, "fault": ...})
    assert "Still open: fault" in said(capsys)
    for wrong, expected in (
        ({"metric": "client_ttft_ms"}, "what users feel"),
        ({"metric": "client_failed_requests"}, "what users feel"),
        ({"metric": "other_programs_cores_used"}, "hardly differs"),
        ({"fix": next(one.fix for other, one in FAULTS.items() if other != fault)}, "the fix is not"),
        ({"fault": ONE if fault != ONE else OVERLOAD}, ""),
    ):
        assert not answered(case, **{**right, **wrong})
        assert expected in said(capsys)
        case.fix()
        assert "once the diagnosis is right" in said(capsys)
    for part in ("fault", "metric", "fix"):
        with pytest.raises(LabError, match="There is no"):
            case.answer(**{**right, part: "nothing of the kind"})
    for figure in FAULTS[fault].shows:
        assert answered(case, **{**right, "metric": name(fault, figure)})
        assert "Right" in said(capsys)


def test_a_metric_that_only_follows_is_refused(
    measured: list[Stack], model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    case = opened(OVERLOAD, model)
    assert not answered(case, fault=OVERLOAD, metric="gateway:num_requests_running", fix=FAULTS[OVERLOAD].fix)
    assert "nearer to the cause" in said(capsys)


def test_a_right_metric_that_the_counters_do_not_show_is_refused(
    measured: list[Stack], model: ModelChoice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHANGED, CORES, {**CHANGED[CORES], "engine_cpu": 1.8})  # type: ignore[index]
    case = opened(CORES, model)
    assert not answered(case, fault=CORES, metric="engine_cores_used", fix=FAULTS[CORES].fix)
    assert "doesn't show it" in said(capsys)


def test_the_claim_needs_the_answer_the_evidence_and_the_fix(
    measured: list[Stack], model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert diagnosis.diagnosed(Evidence("3.3.5")) == (False, "")
    case = opened(CACHE, model)
    assert diagnosis.diagnosed(Evidence("3.3.5")) == (False, "")
    right = {"fault": CACHE, "metric": "gateway:prefix_cache_hits_total", "fix": FAULTS[CACHE].fix}
    case.answer(**{**right, "fault": ONE})
    ok, text = diagnosis.diagnosed(Evidence("3.3.5"))
    assert not ok
    assert "not right yet" in text
    case.answer(**right)
    ok, text = diagnosis.diagnosed(Evidence("3.3.5"))
    assert not ok
    assert "case.fix()" in text
    case.fix()
    assert "with the fix" in said(capsys)
    ok, text = diagnosis.diagnosed(Evidence("3.3.5"))
    assert ok, text
    assert "74%, 3%, 74%" in text
    case.reveal()
    assert CACHE in said(capsys)
    for _ in range(2):
        ok, text = diagnosis.diagnosed(Evidence("3.3.5"))
        assert (ok, "revealed" in text) == (False, True), "a revealed case is no evidence"
        case.answer(**right)  # what it has read is right, and stays revealed
    case.fix()
    assert not diagnosis.diagnosed(Evidence("3.3.5"))[0]
    another = opened(ONE, model)
    another.answer(fault=ONE, metric=name(ONE, next(iter(FAULTS[ONE].shows))), fix=FAULTS[ONE].fix)
    another.fix()
    assert diagnosis.diagnosed(Evidence("3.3.5"))[0], "another case is"


def test_a_figure_that_the_fix_leaves_as_it_is_shows_the_fault_all_the_same(
    measured: list[Stack], model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a short queue the gateway refuses early, but its clients go on sending as much."""
    case = opened(OVERLOAD, model)
    case.answer(fault=OVERLOAD, metric=name(OVERLOAD, "sent_per_s"), fix=FAULTS[OVERLOAD].fix)
    for waiting, held in ((13.0, False), (3.0, True)):
        mended = {**figures(OVERLOAD), "gateway_waiting": waiting}
        monkeypatch.setattr(diagnosis, "observe", lambda _, seen=mended: (seen, {"samples": [], "metrics": {}}))
        case.lab.set_aside(case.key("fixed"))
        case.fix()
        ok, text = diagnosis.diagnosed(Evidence("3.3.5"))
        assert ok is held
        assert f"shown by {name(OVERLOAD, 'gateway_waiting')}: " in text


def test_a_forged_answer_does_not_hold(measured: list[Stack], model: ModelChoice) -> None:
    case = opened(CACHE, model)
    case.answer(fault=CACHE, metric="gateway:prefix_cache_hits_total", fix=FAULTS[CACHE].fix)
    case.fix()
    values = case.lab.values(case.key("answer"))
    case.lab.record(case.key("answer"), {**values, "fault": ONE})
    assert not diagnosis.diagnosed(Evidence("3.3.5"))[0]
    case.lab.record(case.key("answer"), {**values, "metric": "gateway:num_requests_waiting"})
    assert not diagnosis.diagnosed(Evidence("3.3.5"))[0]


def test_a_fix_that_does_not_mend_does_not_hold(
    measured: list[Stack], model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = opened(CACHE, model)
    case.answer(fault=CACHE, metric="gateway:prefix_cache_hits_total", fix=FAULTS[CACHE].fix)
    monkeypatch.setattr(diagnosis, "observe", lambda stack: (figures(CACHE), {}))
    case.fix()
    assert not diagnosis.diagnosed(Evidence("3.3.5"))[0]


# Real engines. Each stack is observed once, and the tests look at what was seen.

Seen = Mapping[str, tuple[Figures, dict[str, Any]]]
FIXED = ", fixed"


def observed(engine: str, model: ModelChoice, *wanted: str) -> Seen:
    """The healthy run, then the wanted ones in this order: a fault, or one with its fix, as in "slow reader, fixed"."""
    base = healthy(engine, model)
    for _ in range(3):
        seen = {"healthy": injections.observe(base)}
        if seen["healthy"][0]["client_lag_ms"] < 100:
            break  # else the machine held the client up, and hardly more would show where it blocks itself
    for name in wanted:
        fault = name.removesuffix(FIXED)
        stack = FAULTS[fault].inject(base, seen["healthy"][0])
        seen[name] = injections.observe(FAULTS[fault].mend(base, stack) if name.endswith(FIXED) else stack)
    return seen


@pytest.fixture(scope="module")
def llamacpp(model: ModelChoice) -> Iterator[Seen]:
    # In this order the engine is started three times, and the gateway five times.
    same = (CACHE, CLIENT, OVERLOAD, READER, OVERLOAD + FIXED, READER + FIXED)
    yield observed("llamacpp", model, *same, ONE, CORES)
    running.stop_all()
    stop_all()


def shown(seen: Seen, fault: str) -> None:
    before, now = seen["healthy"][0], seen[fault][0]
    for figure, way in FAULTS[fault].shows.items():
        if figure == "engine_cpu":  # other programs decide it, too: an answer with it is accepted only where it shows
            continue
        assert moved(figure, before, now, way), (figure, before[figure], now[figure])


@pytest.mark.engine
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != KV])
def test_each_fault_shows_in_its_figures(fault: str, llamacpp: Seen) -> None:
    shown(llamacpp, fault)


@pytest.mark.engine
def test_the_healthy_run_shows_none(llamacpp: Seen) -> None:
    found = llamacpp["healthy"][0]
    assert found["gateway_waiting"] < 0.5
    assert found["engine_waiting"] < 0.5
    assert found["engine_running"] == USERS
    assert found["idle_seats"] < 0.5
    assert found["hit_share"] > 0.5
    assert found["failed"] == 0 == found["refused"]
    assert found["send_wait_s"] < 0.5
    computed = found["engine_cpu"] + found["client_cpu"] + found["others_cpu"]
    # No program's time is counted twice: the engine alone takes most of the machine. Samples may come late.
    assert computed < 1.4 * (os.cpu_count() or 1)


@pytest.mark.engine
@pytest.mark.parametrize("fault", [OVERLOAD, READER])
def test_a_fix_of_its_own_mends_the_load(fault: str, llamacpp: Seen) -> None:
    figure, way = next(iter(FAULTS[fault].shows.items()))
    faulty, mended = llamacpp[fault][0], llamacpp[fault + FIXED][0]
    assert moved(figure, mended, faulty, way), (figure, faulty[figure], mended[figure])
    assert (mended["refused"] > 0) == (fault == OVERLOAD)


@pytest.mark.engine
def test_wrong_answers_to_real_evidence_get_hints_that_fit(llamacpp: Seen) -> None:
    before = llamacpp["healthy"][0]
    for fault in set(FAULTS) - {KV}:
        for other in set(FAULTS) - {fault, CLIENT}:  # a busy machine delays the client, too
            text = hint("llamacpp", fault, other, before, llamacpp[fault][0])
            assert "have changed, too" not in text, (fault, other)


@pytest.mark.engine
def test_the_evidence_is_shown(
    llamacpp: Seen, model: ModelChoice, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = iter([llamacpp["healthy"], llamacpp[ONE]])
    monkeypatch.setattr(diagnosis, "observe", lambda stack: next(runs))
    case = opened(ONE, model)
    case.show()
    shown_text = said(capsys)
    for figure in ("gateway_waiting", "engine_running", "hit_share", "client_lag_ms"):
        assert name_of(figure, "llamacpp") in shown_text
    for part in (*FAULTS, *(fault.fix for fault in FAULTS.values()), "/metrics of The gateway", "log of llama.cpp"):
        assert part in shown_text
    assert set(llamacpp[ONE][0]) <= set(FIGURES)


@pytest.mark.drill
@pytest.mark.parametrize("fault", [KV, ONE, CACHE, READER])
def test_faults_of_vllm_show_in_their_figures(fault: str, vllm: Seen) -> None:
    shown(vllm, fault)


@pytest.fixture(scope="module")
def vllm(model: ModelChoice) -> Iterator[Seen]:
    yield observed("vllm", model, CACHE, READER, KV, ONE)
    running.stop_all()
    stop_all()


def test_a_reading_that_fails_is_no_error_while_the_slow_readers_take_their_seats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An engine at work may not answer in time. What was not read is not known, and is read again."""
    held, none = {"gateway_running": 3.0, "engine_running": 0.0}, {"gateway_running": 3.0}
    readings = iter([held, none, {}, held, held, held])
    monkeypatch.setattr(injections, "_counted", lambda *_: next(readings))
    asked: Any = None
    injections._wait_until({"gateway_running": 3, "engine_running": 0}, asked, asked)
    assert next(readings, None) is None
