"""Lab 3.3.6's milestone: each claim holds on results that bear it out, and falls with the one thing it rests on."""

import copy
from typing import Any

import pytest

from shared import results
from shared.course import checks, labs, milestones, registry
from shared.course.webui import browser_checks, claims, ollama_api, open_webui_experiments, render_lag, tables
from shared.course.webui.in_chromium.own_page import PARTS
from shared.load import Run
from shared.metrics import summarise
from tests.helpers.ledger import provenance, trace

LAB = "3.3.6"
STREAM = {"words": 32_400, "rate_per_s": 200, "seconds": 20}


@pytest.fixture(autouse=True)
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "full")


GOOD: dict[str, dict[str, Any]] = {
    "streams": {"sent": True, "seen": [[5, 0, False], [60, 4, False], [110, 9, False], [160, 20, False]]},
    "remembers": {"sent": "Who are you? I am a quagga, and that is all. Say that again."},
    "stop": {
        "pressed": True, "writing": True, "unfinished": True, "left": True, "left_ms": 7.0, "second_ms": 60.0,
        "idle_ms": 50.0, "characters": [44, 50, 50],
    },
    "reload": {"same": True, "characters": [44, 60, 80]},
    "scripts": {"vectors": 80, "shown": True, "ran": 0, "foreign": []},
    "markdown": {"found": dict(PARTS), "picture": ""},
    "regenerate": {"answers": ["First.", "Second."]},
    "compare": {"questions": ["Both?", "Both?"], "answers": 2},
    "search": {"marked": "axolotl"},
    "fetches-nothing": {"vectors": 80, "shown": True, "ran": 0, "foreign": []},
    "another-page": {"stopped": False, "rebound": 403},
}  # fmt: skip
# For each check evidence of a page that fails it.
BAD: dict[str, dict[str, Any]] = {
    "streams": {"sent": True, "seen": [[5, 0, False], [900, 400, True]], "picture": ""},
    "remembers": {"sent": "Say that again."},
    "stop": {**GOOD["stop"], "pressed": False, "left": False, "left_ms": None, "second_ms": None},
    "reload": {"same": False, "characters": [44, 0, 0]},
    "scripts": {"vectors": 80, "shown": True, "ran": 2, "foreign": []},
    "markdown": {"found": {**PARTS, "td": 0}, "picture": ""},
    "regenerate": {"answers": ["First.", "First."]},
    "compare": {"questions": ["Both?"], "answers": 1},
    "search": {"marked": "lives"},
    "fetches-nothing": {"vectors": 80, "shown": True, "ran": 0, "foreign": ["https://evil.example/"]},
    "another-page": {"stopped": True, "rebound": 403},
}
PLAIN = {name: (BAD if name in ("stop", "reload") else GOOD)[name] for name in list(GOOD)[:5]}


@pytest.mark.parametrize("name", browser_checks.CHECKS)
def test_each_check_can_pass_and_can_fail_and_is_told_in_words(name: str) -> None:
    assert browser_checks.passed(name, GOOD[name])
    assert not browser_checks.passed(name, BAD[name])
    assert not browser_checks.passed(name, {"failed": "no prompt"})
    assert browser_checks.came(name, GOOD[name]) != browser_checks.came(name, BAD[name])


def rendered(lag_ms: float, busy: float, drawn: int = 4000) -> dict[str, Any]:
    lags = [[n, lag_ms] for n in range(drawn)]
    return {"lags": lags, "sent": 4000, "seconds": 20.0, "busy_s": [{"Task": 0.0}, {"Task": busy / 5}]}


def kept(warm: float, cold: float, loaded: list[Any]) -> list[dict[str, Any]]:
    def one(what: str, load_ms: float | None = None, there: list[Any] = [{"name": "x"}]) -> dict[str, Any]:  # noqa: B006
        load = None if load_ms is None else load_ms * 1e6
        return {"what": what, "loaded": there, "resident_gib": 0.5, "load_ns": load, "after_s": 2.1}

    return [one("keep_alive -1", warm), one("the time is over", there=loaded), one("the next request", cold),
            one("keep_alive 0", there=[])]  # fmt: skip


def message(kind: str, answered: bool = True) -> dict[str, Any]:
    return {"path": "/api/chat", "answered": answered, "last_message": "x", "kind": kind, "bytes": 100, "tools": 3,
            "bytes_of_tools": 50}  # fmt: skip


def web_ui(name: str) -> dict[str, Any]:
    """Raw data of an experiment with Open WebUI."""
    typed = {"shown": "x", "asked": [message("message")]}
    if name == "tools":
        return {"before": {"shown": "", "asked": [message("message", False)]}, "after": typed}
    if name == "hidden":
        return {"off": [typed, typed], "on": [{"shown": "x", "asked": [message("message"), message("title")]}] * 2}
    names = open_webui_experiments.SETTINGS
    found = {way: {one: open_webui_experiments.NOW.get(one, "x") if way == "False" else "kept" for one in names}
             for way in ("True", "False")}  # fmt: skip
    return {"first": {}, "found": found, "predicted": copy.deepcopy(found)}


READ = {"tools": open_webui_experiments.read_tools, "hidden": open_webui_experiments.read_hidden,
        "settings": open_webui_experiments.read_settings}  # fmt: skip


def record(key: str, values: dict[str, Any], raw: Any = None, **settings: Any) -> None:
    results.record(LAB, key, values, raw=raw, settings=settings)


def fill(**changed: Any) -> None:
    """Results that bear out the claims; `changed` names what is to be otherwise."""
    for page, raw in (("plain", changed.get("plain", PLAIN)), ("webui", changed.get("webui", GOOD))):
        record(f"browser/{page}", {**browser_checks.values(raw), **changed.get("typed", {})}, raw)
    renders = {"naive": rendered(900, 95), "webui": rendered(20, 18), "yours": rendered(30, 30)}
    for page, raw in {**renders, **changed.get("renders", {})}.items():
        record(f"render/{page}", render_lag.values(raw), raw, simulated_stream=changed.get(page, STREAM))
    for count, ttft_ms in ((1, 900), (4, changed.get("ttft", 100))):
        run = Run(tuple(trace(ttft_ms=ttft_ms) for _ in range(4)), 4, 8, "short", provenance("ollama"), 0.1)
        results.record(LAB, f"parallel/{count}/round-1", summarise(run))
        record(f"ollama/memory/{count}", {"size_bytes": 10**8 * count, "resident_gib": 0.5, "context_length": 4096})
    keep = changed.get("keep", kept(2, 300, []))
    record("ollama/keep-alive", ollama_api.read_keep_alive(keep), keep)
    fits = '{"city": "Paris", "country": "France", "population": 2}'
    form = changed.get("form", {"with": [fits] * 6, "without": ["Paris is a city."] * 6})
    record("ollama/structured", ollama_api.read_structured(form), form)
    for name, read in READ.items():
        raw = changed.get(name, web_ui(name))
        record(f"open-webui/{name}", read(raw), raw)


def outcomes() -> list[bool]:
    return [claim.ok for claim in milestones.check(LAB).claims]


def evidence(number: int) -> str:
    return milestones.check(LAB).claims[number].evidence


def test_all_claims_hold_on_good_results() -> None:
    fill()
    found = milestones.check(LAB)
    assert [claim.evidence for claim in found.claims if not claim.ok] == []
    assert "11 of 11 checks passed; the plain page fails 2 of 5: stop, reload" in found.claims[0].evidence
    assert "the connection to the engine was closed 7 ms after the click" in found.claims[1].evidence
    table = tables.browser(labs.open(LAB))
    assert table.header[1:] == ("plain: 3 of 5", "webui: 11 of 11")
    assert [len(row) for row in table.rows] == [3] * 11


CASES: list[tuple[int, dict[str, Any], str]] = [
    (0, {"webui": {**GOOD, "scripts": BAD["scripts"]}}, "yours fails: scripts (2 scripts ran)"),
    (0, {"webui": {name: GOOD[name] for name in list(GOOD)[:-1]}}, "lacks checks: another-page"),
    (0, {"plain": {**PLAIN, "stop": GOOD["stop"]}}, "fails 1 of 5"),
    (0, {"typed": {"passed": 99}}, "doesn't follow from its raw data"),
    (1, {"webui": {**GOOD, "stop": {**GOOD["stop"], "left_ms": 900.0}}}, "900 ms after the click"),
    (1, {"webui": {**GOOD, "stop": BAD["stop"]}}, "no stop button"),
    (2, {"renders": {"webui": rendered(500, 20)}}, "lag p99 500 ms"),
    (2, {"renders": {"naive": rendered(10, 10)}}, "10 % busy"),
    (2, {"naive": {"words": 1}}, "different streams"),
    (3, {"renders": {"yours": rendered(20, 20, drawn=3999)}}, "1 words were never drawn"),
    (4, {"ttft": 1900}, "four users wait"),
    (5, {"keep": kept(2, 300, [{"name": "x"}])}, "still loaded"),
    (6, {"form": {"with": ["no"] * 6, "without": ["no"] * 6}}, "of 6 answers 0 fit"),
    (7, {"tools": {**web_ui("tools"), "after": web_ui("tools")["before"]}}, "not answered after the fix"),
    (7, {"hidden": {**web_ui("hidden"), "on": web_ui("hidden")["off"]}}, "2 requests for 2 messages, 2 without"),
]


@pytest.mark.parametrize(("number", "changed", "words"), CASES, ids=lambda one: str(one)[:40])
def test_a_claim_falls_with_what_it_rests_on(number: int, changed: dict[str, Any], words: str) -> None:
    fill(**changed)
    assert not outcomes()[number]
    assert words in evidence(number)


def test_without_open_webui_and_a_browser_the_claims_are_open() -> None:
    record("open-webui/tools", {"missing": "Open WebUI is not installed."})
    record("browser/webui", {"missing": "No Chromium was found."})
    found = milestones.check(LAB).claims
    assert [number for number, claim in enumerate(found) if claim.not_run] == [0, 1, 7]
    assert "No Chromium was found" in found[0].evidence
    assert "run the cell `keep-alive`" in found[5].evidence


def test_the_quick_size_does_not_judge_speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "quick")
    fill(renders={"webui": rendered(500, 99)}, ttft=1900)
    assert outcomes() == [True] * len(claims.CLAIMS)
    assert evidence(2).startswith("not judged at the quick size")


def test_the_cells_that_the_claims_name_exist() -> None:
    lab = registry.find_lab(LAB)
    ids = {cell["id"] for cell in checks.notebook(lab)["cells"]}
    named = {cell for claim in claims.CLAIMS if isinstance(claim.needs, dict) for cell in claim.needs.values()}
    assert named - ids == set()
    functions = {exercise.function for exercise in lab.exercises}
    assert {name for claim in claims.CLAIMS for name in claim.exercises} <= functions
