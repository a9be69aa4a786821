"""Lab 3.3.2's milestone: each claim holds on results that bear it out, and falls with the one thing it rests on."""

import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from shared import paths, results
from shared.course import checks, milestones, registry
from shared.load import Run, Trace
from shared.metrics import summarise
from tests.helpers.ledger import provenance, trace


@pytest.fixture(autouse=True)
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "full")


def record(key: str, *traces: Trace, engine: str = "vllm", **more: Any) -> None:
    counted = {"preemptions": 0.0, "cached_tokens": 0.0, "cache_queries": 100.0, **more.pop("counted", {})}
    source = {**provenance(engine), **more.pop("source", {})}
    load = {"kind": "closed", "about_cache": True, **more.pop("load", {})}
    run = Run(traces, len(traces), 8, "short", source, 0.01, counted, load)
    results.record("3.3.2", key, summarise(run))


def test_each_result_of_the_open_task_names_the_cell_that_measures_it() -> None:
    cells = {"today": "task-today", "more-seats": "more-seats", "mine": "my-change"}
    assert {name: registry.find_lab("3.3.2").claims[-1].cell_of(f"task/{name}") for name in cells} == cells


def many(count: int, **how: Any) -> list[Trace]:
    return [trace(**how) for _ in range(count)]


def fill(**changed: Any) -> None:
    """Results that bear out every claim; `changed` names what is to be otherwise."""
    gaps = {batch: [[0.0, 0.0, changed.get(batch, 0.01)] * 40] for batch in ("alone", "together", "squeezed")}
    results.record("3.3.2", "own/greedy", {"preemptions": changed.get("own_preemptions", 3)}, raw=gaps)
    for way, ttft, gap in (
        ("static", 900, 10),
        ("continuous", 200, 90),
        ("chunked", 150, changed.get("chunk_gap", 20)),
    ):
        record(f"own/schedule/{way}", *many(4, ttft_ms=ttft, gap_ms=gap), engine="yours")
    for number in (1, 2):
        record(f"load/users-16/vllm/round-{number}", *many(16))
        record(f"load/users-16/yours/round-{number}", *many(16, gap_ms=changed.get("own_gap", 11)), engine="yours")
    record("seats/users-16", *(trace(start_ms=changed.get("apart_ms", 130) * n) for n in range(16)))
    slo = {"ttft_ms": 100.0, "tpot_ms": None, "e2e_ms": None}
    results.record("3.3.2", "slo", slo, raw=slo)
    # A request every so many ms; above the capacity each waits longer than the one before it.
    for percent, count, every_ms, later_ms in (
        (50, 10, 500, 0),
        (90, 10, 100, 0),
        (changed.get("highest", 150), 40, 50, changed.get("later", 50)),
    ):
        first_ms = changed.get("first_token_ms", 50)
        late = [trace(ttft_ms=first_ms + later_ms * n, start_ms=every_ms * n) for n in range(count)]
        opened = [replace(t, scheduled_ns=t.sent_ns) for t in late]
        rhythm = {"kind": "open", "rate_per_s": 1e3 / every_ms, "seconds": count * every_ms / 1e3}
        record(f"open/percent-{percent}", *opened, load=rhythm)
    hit = {"cached_tokens": changed.get("hits", 80.0), "cache_queries": 100.0}
    record("prefix/on/shared-256", *many(3, ttft_ms=20), counted=hit)
    record("prefix/on/unique", *many(3, ttft_ms=90), counted={"cached_tokens": changed.get("unique_hits", 1.0)})
    record("prefix/off/shared-256", *many(3, ttft_ms=90))
    record("prefix/off/unique", *many(3, ttft_ms=90))
    record("preempt/ample", *many(4), counted={"preemptions": changed.get("ample", 0.0)})
    record("preempt/scarce", *many(4), counted={"preemptions": changed.get("scarce", 7.0)})
    # Today's server: a request every second. Its promise: three times 400 ms to the first token, then 30 ms each.
    record("task/today", *(trace(ttft_ms=400, start_ms=1000 * n) for n in range(4)))
    rate = changed.get("task_rate", 1.4)
    for name, gap in (("more-seats", 150), ("mine", changed.get("task_gap", 12))):
        tried = [trace(ttft_ms=500, gap_ms=gap, start_ms=800 * n) for n in range(changed.get("task_requests", 12))]
        load = {"kind": "open", "rate_per_s": rate, "seconds": None}
        source = {"flags": {"--slots": 32}, **changed.get("task_source", {})}
        record(f"task/{name}", *(replace(t, scheduled_ns=t.sent_ns) for t in tried), load=load, source=source)
    died = many(3) + [trace(error="refused")] * changed.get("failed", 2)
    record("died", *died)


def failing() -> list[str]:
    return [c.evidence for c in milestones.check("3.3.2").claims if not c.ok]


def test_a_whole_ledger_bears_out_every_claim() -> None:
    fill()
    found = milestones.check("3.3.2")
    assert found.complete, found
    said = repr(found)
    for part in (
        "squeezed 0.010",
        "3 preemptions in the squeezed batch",
        "200 ms continuous",
        "vLLM's throughput at 16 users",
        "80 % of prompt tokens",
        "7 preemptions with few blocks, 0 with enough",
        "3 of 5 requests",
        "--slots 32, no --eager; 12 of 12 requests kept the promise, a small sample for 90 %; with",
        "with --slots 32, no --eager alone 0 of 12",
    ):
        assert part in said, said


@pytest.mark.parametrize(("key", "cell"), [("load/users-16/vllm/round-2", "run-load"), ("seats/users-16", "one-seat")])
def test_an_engine_is_not_slower_because_its_requests_failed(key: str, cell: str) -> None:
    fill()
    record(key, *many(8), *[trace(error="no byte for 120 s")] * 8)
    again = f'8 of 16 requests failed in {key}: run lab.set_aside("{key}"), then the cell `{cell}` again'
    assert again in failing()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"squeezed": 0.9}, "squeezed: a greedy token lies 0.90 nats"),
        ({"own_preemptions": 0}, "nothing was preempted in the squeezed batch"),
        ({"chunk_gap": 95}, "longest pause: 90 ms with whole prompts, 95 ms in chunks"),
        ({"own_gap": 40}, "of vLLM's throughput at 16 users"),
        ({"apart_ms": 0}, "1.0 times"),
        ({"later": 0}, "100 % of requests kept the promise, against 100 % at best; the promise is kept even at the"),
        ({"first_token_ms": 150}, "0 % at best; the promise is too strict for every load: choose a longer one in the"),
        ({"highest": 95}, "at 95 % of the capacity throughput is 100 % of the best"),
        ({"hits": 30.0}, "30 % of prompt tokens from the cache"),
        ({"unique_hits": 20.0}, "for unique prompts 20.0 %"),
        ({"scarce": 0.0}, "0 preemptions with few blocks"),
        ({"ample": 2.0}, "2 with enough"),
        ({"failed": 0}, "0 marked failed"),
        ({"task_gap": 60}, "the promise was kept for 0 of 12 requests"),
        ({"task_rate": 1.0}, "1.00 requests/s were sent, but"),
        ({"task_requests": 3}, "only 3 requests were sent"),
        ({"task_source": {"precision": "FP8"}}, "differs from today's server in more than flags: precision"),
    ],
)
def test_each_claim_falls_with_what_it_rests_on(changed: dict[str, Any], said: str) -> None:
    fill(**changed)
    [evidence] = failing()
    assert said in evidence


def test_an_empty_ledger_names_the_cells_to_run() -> None:
    lab = registry.find_lab("3.3.2")
    cells = {cell["id"] for cell in checks.notebook(lab)["cells"]}
    named = " ".join(failing())
    assert len(failing()) == len(lab.claims)
    for cell in (
        "own-text",
        "three-ways",
        "run-load",
        "one-seat",
        "run-open-loop",
        "prefix-on",
        "preempt-ample",
        "server-dies",
        "task-today",
    ):
        assert f"`{cell}`" in named
        assert cell in cells
    assert lab.solution == paths.REPO / "solutions" / lab.notebook


def test_a_series_of_prefixes_that_was_interrupted_names_its_cell() -> None:
    fill()
    record("prefix/on/shared-1024", *many(3, ttft_ms=20), counted={"cached_tokens": 80.0})  # "1024" < "256" as texts
    [evidence] = failing()
    assert "missing: prefix/off/shared-1024: run the cell `prefix-off`" in evidence
    results.set_aside("3.3.2", "prefix/on/unique")
    assert "missing: prefix/on/unique: run the cell `prefix-on`" in failing()[0]


def test_the_core_adds_up_to_the_hours_of_the_outline() -> None:
    lab = registry.find_lab("3.3.2")
    cells = checks.notebook(lab)["cells"]
    text_before = {cell["id"]: before["source"] for before, cell in pairwise(cells)}
    core = [e for e in lab.exercises if text_before[e.cell].startswith("### Exercise")]
    minutes = re.findall(r"(\d+) (?:minutes|for|of)", cells[0]["source"])
    seven, reading, task, waiting, total = map(int, minutes[:5])
    assert len(core) == 7
    assert seven == sum(e.minutes for e in core)
    assert seven + reading + task + waiting == total <= 60 * lab.outline_hours


def test_two_models_are_no_comparison_of_engines() -> None:
    fill(own_gap=40)
    for number in (1, 2):
        record(f"load/users-16/vllm/round-{number}", *many(16), source={"model": "another"})
    [claim] = [c for c in milestones.check("3.3.2").claims if "vLLM's throughput" in c.text]
    assert claim.ok
    assert "not a comparison of engines, because the models differ: another, small" in claim.evidence


@pytest.mark.parametrize(
    "changed", [{"chunk_gap": 95}, {"own_gap": 40}, {"apart_ms": 0}, {"later": 0}, {"task_gap": 60}]
)
def test_speeds_of_the_quick_size_are_recorded_and_not_judged(
    changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_SIZE", "quick")
    fill(**changed)
    assert failing() == []
    assert repr(milestones.check("3.3.2")).count("not judged at the quick size: ") == 6


def test_what_is_no_speed_is_judged_at_the_quick_size_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "quick")
    fill(hits=30.0, scarce=0.0, squeezed=0.9)
    assert len(failing()) == 2  # prefix and preemption are one claim
