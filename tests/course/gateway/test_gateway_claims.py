"""Lab 3.3.5's milestone: each claim holds on results that bear it out, and falls with the one thing it rests on."""

from typing import Any

import pytest

from shared import results
from shared.course import checks, milestones, registry
from shared.course.gateway import claims, five_failures, grade_run, overload
from shared.course.gateway.five_failures import FAILURES
from shared.load import Run
from shared.metrics import summarise
from tests.helpers.ledger import provenance, trace

LAB = "3.3.5"
ERROR = '{"error": {"message": "it failed", "type": "server_error", "param": null, "code": "engine_failed"}}'
ROLE = 'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
BROKEN = f"{ROLE}data: {{}}\n\n\n\nevent: error\ndata: {ERROR}\n\n"


@pytest.fixture(autouse=True)
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "full")


def failures(good: bool) -> dict[str, dict[str, Any]]:
    """Raw data of the five experiments, of a gateway that passes all or none."""
    late, streams = (5.0, 90.0) if good else (101.0, 120.0), [[0.0, 1.0, 100.0], [2.0, 30.0, 60.0]]
    tokens = {"generated_tokens": 15.0 if good else 31.0}
    return {
        "blocked": {"streams": streams, "checks": [[1.0, late[0], True], [6.0, late[1], True]], "errors": []},
        "buffered": {"arrivals_ms": [1.0, 2.0], "running": float(good), "error": None},
        "leaked": {
            "asked": 128, "received": 5, "running": [[3.0, 0.0]],
            "counters": [{"generated_tokens": 1.0}, {"generated_tokens": 8.0 if good else 129.0}],
        },
        "miscounted": {
            "usage": [1, 2, 4, 8], "gateway": [{"generated_tokens": 0.0}, tokens],
            "engine": [{"generated_tokens": 2.0}, {"generated_tokens": 17.0}],
        },
        "retried": {"got": BROKEN if good else ROLE * 2 + "data: [DONE]\n\n", "to_engine": 1 if good else 2},
    }  # fmt: skip


def answer(status: int | None, text: str = ERROR, **more: Any) -> dict[str, Any]:
    return {"status": status, "retry_after": None, "text": text, "end": "whole", "ms": 5.0, **more}


GRADED: dict[str, dict[str, Any]] = {
    **failures(True),
    "left-waiting": {"left_engine": 1, "generated_tokens": 9.0},
    "refused": answer(503, later=200),
    "hangs-first": answer(504),
    "hangs": answer(200, BROKEN),
    "half-character": answer(200, BROKEN),
    "status": answer(502),
    "busy": answer(429, retry_after="7"),
    "busy-silent": answer(429, retry_after="1"),
    "error-event": answer(502),
    "cut-short": answer(502),
    "other-engine": answer(200, ROLE + "data: [DONE]\n\n", to_engine=1),
    "no-json": answer(400),
    "unknown-model": answer(404),
    "large": answer(413),
    "headers": answer(431),
    "slow-headers": {"closed": True},
    "burst": {"statuses": [200] * 6 + [429] * 6, "whole": 6, "without_retry_after": 0},
    "terminated": {"tokens": [64, 64], "errors": [None, None], "refusing": True},
}
# For each check evidence of a gateway that fails it.
FAILED: dict[str, dict[str, Any]] = {
    **failures(False),
    "left-waiting": {"left_engine": 0, "generated_tokens": 64.0},
    "refused": answer(503, later=503),
    "hangs-first": answer(None, "", end="nothing for 9 s"),
    "hangs": answer(200, ROLE, end="nothing for 9 s"),
    "half-character": answer(200, BROKEN.replace("\n\n\n\nevent", "event")),
    "status": answer(200, ROLE),
    "busy": answer(429, retry_after="1"),
    "busy-silent": answer(429),
    "error-event": answer(200, f"event: error\ndata: {ERROR}\n\n"),
    "cut-short": answer(200, '{"id": "x'),
    "other-engine": answer(502, to_engine=1),
    "no-json": answer(500, "Internal Server Error"),
    "unknown-model": answer(404, '{"detail": "Not Found"}'),
    "large": answer(200),
    "headers": answer(200, ROLE),
    "slow-headers": {"closed": False},
    "burst": {"statuses": [200] * 6 + [429] * 6, "whole": 6, "without_retry_after": 1},
    "terminated": {"tokens": [64, 12], "errors": [None, "the connection broke"], "refusing": True},
}


@pytest.mark.parametrize("name", grade_run.CHECKS)
def test_each_check_of_the_grade_run_can_pass_and_can_fail(name: str) -> None:
    check = grade_run.CHECKS[name]
    assert check.passed(GRADED[name])
    assert not check.passed(FAILED[name])


def rows(count: int, ttft_ms: float, error: str | None = None) -> list[dict[str, Any]]:
    one = {"ttft_ms": ttft_ms, "tpot_ms": 20.0, "e2e_ms": 300.0, "tokens": 8, "error": error}
    return [dict(one) for _ in range(count)]


def record(key: str, values: dict[str, Any], raw: Any, **settings: Any) -> None:
    results.record(LAB, key, values, raw=raw, settings=settings)


def fill(**changed: Any) -> None:
    """Results that bear out the claims; `changed` names what is to be otherwise."""
    for gateway, good in (("naive", changed.get("naive_mended", False)), ("gateway", True)):
        for name, raw in failures(good).items():
            raw = changed.get(name, raw) if gateway == "gateway" else raw
            values = FAILURES[name].read(raw)
            record(f"failure/{name}/{gateway}", {**values, **changed.get("typed", {})}, raw)
    for gateway, raw in (("gateway", changed.get("graded", GRADED)), ("naive", changed.get("naive", FAILED))):
        record(f"grade/{gateway}", grade_run.values(raw), raw)
    record("panel", {"counted_tokens": changed.get("counted", 24.0)}, {"tokens": [8, 8, 8], "samples": []})
    for number in (1, 2, 3):
        for way, ttft_ms in (("direct", 50.0), ("gateway", changed.get("ttft_ms", 52.0))):
            run = Run((trace(ttft_ms=ttft_ms, gap_ms=10),), 1, 8, "short", provenance("llamacpp"), 0.01, {})
            results.record(LAB, f"added/{way}/round-{number}", summarise(run))
    for name, paying in (
        ("alone", rows(20, 100)),
        ("first", rows(changed.get("first", 2), 100) + rows(18, 9000)),
        ("yours", rows(changed.get("yours", 19), 150) + rows(1, 0, "HTTP 429: busy")),
    ):
        raw = {overload.PAYING: paying, overload.OTHERS: rows(100, 0, "HTTP 429: busy")}
        offered = {"paying_per_s": 1.0, "seconds": changed.get("seconds", 9.0) if name == "yours" else 9.0}
        record(f"overload/{name}", overload.counted(raw), raw, offered=offered)


def outcome(number: int) -> tuple[bool, str]:
    found = milestones.check(LAB).claims[number]
    return found.ok, found.evidence


def test_the_claims_hold_on_results_that_bear_them_out() -> None:
    fill()
    for number in range(5):
        ok, evidence = outcome(number)
        assert ok, evidence


@pytest.mark.parametrize(
    ("number", "changed", "words"),
    [
        (0, {"naive_mended": True}, "did not fail here"),
        (0, {"leaked": failures(False)["leaked"]}, "your gateway fails: leaked"),
        (0, {"typed": {"errors": 7}}, "doesn't follow from its raw data"),
        (1, {"graded": {**GRADED, "burst": FAILED["burst"]}}, "yours fails: burst"),
        (1, {"naive": GRADED}, "23 by the naïve gateway"),
        (1, {"naive": {**FAILED, **dict(list(GRADED.items())[:12])}}, "12 by the naïve gateway"),
        (2, {"counted": 31.0}, "31 tokens by the gateway's counter, 24"),
        (3, {"ttft_ms": 70.0}, "+20.0 ms"),
        (4, {"yours": 10}, "50 % of the paying key's tokens"),
        (4, {"first": 20}, "100 % with the first settings"),
        (4, {"seconds": 3.0}, "different loads"),
    ],
)
def test_a_claim_falls_with_what_it_rests_on(number: int, changed: dict[str, Any], words: str) -> None:
    fill(**changed)
    ok, evidence = outcome(number)
    assert (ok, words in evidence) == (False, True), evidence


def test_without_results_the_cell_to_run_is_named() -> None:
    for number in range(5):
        ok, evidence = outcome(number)
        assert not ok
        assert "run the cell" in evidence


def test_a_speed_is_not_judged_at_the_quick_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "quick")
    fill(ttft_ms=70.0, yours=10)
    for number in (3, 4):
        ok, evidence = outcome(number)
        assert ok
        assert evidence.startswith("not judged at the quick size")


def test_the_slo_follows_from_the_paying_key_alone() -> None:
    slo = overload.promise({overload.PAYING: rows(3, 100) + rows(1, 900)})
    assert (slo.ttft_ms, slo.tpot_ms) == (500.0, 80.0)
    assert overload.good_tokens(rows(2, 499) + rows(2, 501) + rows(1, 1, "HTTP 429"), slo) == 16
    errors = {"HTTP 429: x": True, "HTTP 503: overloaded": True, "HTTP 502: x": False, "no first byte": False}
    assert {error: overload.is_refusal(rows(1, 0, error)[0]) for error in errors} == errors
    assert claims.NAIVE_FAILS_AT_LEAST == 12, "most of the 23 checks"


def test_numbers_in_the_notebooks_text_are_those_of_the_code() -> None:
    cells = checks.notebook(registry.find_lab(LAB))["cells"]
    text = {cell["id"]: cell["source"] for cell in cells}
    minutes = [exercise.minutes for exercise in registry.find_lab(LAB).exercises]
    assert f"{sum(minutes[:5])} minutes for the five core exercises" in text["title"]
    assert f"The two extra exercises ({sum(minutes[5:])} minutes)" in text["title"]
    assert f"an answer of {five_failures.LONG} tokens" in text["blocked"]
    assert f"the last of the {five_failures.LONG} chunks" in text["predict-buffered"]
    assert f"asks for {five_failures.ABANDONED} tokens" in text["predict-leaked"]
    assert (five_failures.LEFT_AFTER, "as soon as it has five blocks" in text["predict-leaked"]) == (5, True)
    assert (five_failures.LENGTHS, "1, 2, 4 and 8 tokens, 15 in all" in text["predict-miscounted"]) == (
        (1, 2, 4, 8),
        True,
    )
    assert text["grading"].count(f"{len(grade_run.CHECKS)} checks") == 2
    assert f"({grade_run.LIMIT_S} seconds)" in text["grading"]
    assert f"at {100 * overload.PAYING_SHARE:.0f} % of" in text["overloading"]
    assert (overload.GIVE_UP_S, "after six seconds" in text["overloading"]) == (6, True)
    assert (overload.TTFT_TIMES, overload.TPOT_TIMES) == (5, 4)
    assert "five times its median TTFT and four times its median TPOT" in text["overloading"]
    assert f"{overload.AT_LEAST_PERCENT} % or more" in text["overloading"]
