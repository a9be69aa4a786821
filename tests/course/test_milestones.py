"""A milestone believes only results that follow from their raw traces."""

import gzip
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shared import LabError, results
from shared.course import checks, labs, milestones
from shared.course.benchmark.claims import PRECISIONS
from shared.course.benchmark.comparison import build_report
from shared.load import Run, Trace
from shared.metrics import summarise
from shared.results.ledger import entry_file, raw_file
from shared.results.participants import MISSING
from tests.helpers.ledger import change, fill, provenance, trace


def failing() -> list[str]:
    """Evidence of the claims that don't hold."""
    return [c.evidence for c in milestones.check("3.3.1").claims if not c.ok]


def alter(key: str, **values: object) -> None:
    """Change figures in the ledger, as a hand would."""
    change(entry_file("3.3.1", key), lambda entry: entry["values"].update(values))


def record(key: str, *traces: Trace) -> None:
    run = Run(traces, 1, 8, "short", provenance("vllm"), 0.01)
    results.record("3.3.1", key, summarise(run))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.report.plots.browser", lambda: None)  # no pictures: they take seconds each
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20, "sglang": 25})
    build_report("3.3.1")


def test_an_empty_ledger_bears_out_nothing_and_names_the_cells() -> None:
    found = milestones.check("3.3.1")
    assert not any(claim.ok for claim in found.claims)
    assert "check-greedy" in repr(found)
    assert "run-load" in repr(found)
    assert "0 of 8" in found._repr_html_()


@pytest.mark.usefixtures("done")
def test_a_whole_ledger_bears_out_every_claim() -> None:
    found = milestones.check("3.3.1")
    assert found.complete, found
    assert "84 summaries computed again" in repr(found)


@pytest.mark.usefixtures("done")
def test_a_bettered_figure_is_refused() -> None:
    alter("load/users-4/vllm/round-1", output_tok_s=9999.0)
    assert any("load/users-4/vllm/round-1: it differs from the copy" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_a_bettered_gap_is_refused() -> None:
    alter("greedy/vllm", worst_gap_nats=0.0)
    assert any("greedy/vllm: it differs from the copy beside its raw data" in e for e in failing())


def test_what_no_engine_could_run_is_not_run_here_and_one_missing_engine_is_only_left_out() -> None:
    fill({"vllm": 20, "sglang": 25})
    for name in ("ollama", "llamacpp"):
        results.record("3.3.1", f"engine/{name}", {MISSING: f"{name} is not installed."})
    assert [c.text.partition(":")[0] for c in milestones.check("3.3.1").claims if c.not_run] == [
        "Fewer bits on llama.cpp"
    ]
    for name in ("vllm", "sglang"):
        results.record("3.3.1", f"engine/{name}", {MISSING: f"{name} is not installed."})
    not_run = {c.text.partition(":")[0]: c.evidence for c in milestones.check("3.3.1").claims if c.not_run}
    assert "All engines compute the same model" in not_run
    assert all("llamacpp is not installed" in evidence for evidence in not_run.values())


def test_a_wrong_engine_is_refused() -> None:
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20})
    results.record("3.3.1", "greedy/vllm", {"worst_gap_nats": 6.1}, raw=[{"gaps": [0.0, 6.1]}])
    assert any("6.10 nats below the reference's best" in e for e in failing())


def test_an_engine_that_only_a_gpu_can_run_must_compute_the_same_model_too() -> None:
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20, "sglang": 25, "trtllm": 5}, rounds=2)
    assert not [e for e in failing() if "TensorRT-LLM" in e]
    known = {"right": 3, "texts": 4}
    answers = [{"question": f"q{n}", "answer": "?", "right": n > 0} for n in range(4)]
    results.record("3.3.1", "greedy/trtllm", known, raw=answers)
    assert any("TensorRT-LLM answered wrongly: q0" in e for e in failing())


def test_a_perplexity_that_was_not_measured_is_named_with_its_reason() -> None:
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20, "sglang": 25})
    for form in PRECISIONS:
        values = results.load_results("3.3.1")[f"quality/{form}"]["values"]
        results.record("3.3.1", f"quality/{form}", {**values, "perplexity": None})
    assert any("BF16: nothing recorded: run the cells `run-precisions` and `judge-precisions`" in e for e in failing())
    for form in PRECISIONS:
        results.record("3.3.1", f"perplexity/{form}", {MISSING: "the library is not installed."})
    [claim] = [c for c in milestones.check("3.3.1").claims if c.text.startswith("Fewer bits")]
    assert claim.ok, claim.evidence
    assert claim.evidence.count("tok/s, no perplexity (the library is not installed.)") == 3


def test_a_quoted_figure_does_not_count_as_measured() -> None:
    fill({"ollama": 11, "llamacpp": 10, "sglang": 25})
    for users in (1, 4, 16):
        results.record(
            "3.3.1",
            f"load/users-{users}/vllm/round-1",
            {"output_tok_s": 400, "users": users},
            kind="quoted: a blog, 2026",
        )
    assert any("missing: vLLM at 1, vLLM at 4, vLLM at 16" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_lost_raw_traces_are_missed() -> None:
    raw_file("3.3.1", "load/users-1/llamacpp/round-2").unlink()
    assert any("missing or damaged" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_a_report_older_than_the_results_is_noticed(own_results: Path) -> None:
    for file in own_results.glob("report.*"):
        os.utime(file, (1, 1))
    assert any("older than the results" in e for e in failing())


IN_REPORT = (
    "engine/vllm", "greedy/vllm", "memory/vllm", "predict/limits", "fit/vllm", "lie/cache", "quality/Q4_0",
    "prediction/precision",
)  # fmt: skip
BESIDE = ("own/figures", "loop/own", "line-up/verdict")


@pytest.mark.usefixtures("done")
@pytest.mark.parametrize("key", [*IN_REPORT, *BESIDE, "conclusion"])
def test_a_report_is_out_of_date_when_anything_in_it_was_recorded_since(key: str) -> None:
    if key == "conclusion":
        labs.open("3.3.1").conclude("vLLM for many users.", "load/")
    else:
        results.record("3.3.1", key, results.load_results("3.3.1")[key]["values"], raw=results.load_raw("3.3.1", key))
    older = [e for e in failing() if f"older than the results (the newest: {key})" in e]
    assert bool(older) == (key not in BESIDE)


def test_failed_requests_and_unknown_cache_use_are_shown() -> None:
    fill({"llamacpp": 10, "vllm": 20})
    record("load/users-1/vllm/round-9", trace(), trace(error="reset"))
    again = "requests failed, the first in load/users-1/vllm/round-9: "
    again += 'run lab.set_aside("load/users-1/vllm/round-9"), then the cell `run-load` again'
    assert any("; 1 of " in e and e.endswith(again) for e in failing())
    record("load/users-1/vllm/round-9", replace(trace(), cached_tokens=None))
    assert any("round-9: the engine did not report how many" in e for e in failing())


def test_an_engine_whose_counter_can_not_be_read_is_unknown_and_fails_no_claim() -> None:
    """Ollama in its container: the labs can't reach the server that it starts inside."""
    fill({"ollama": 11, "llamacpp": 10}, rounds=2)
    for key, entry in results.load_results("3.3.1").items():
        if entry["provenance"].get("engine") == "ollama" and "output_tok_s" in entry["values"]:
            traces = tuple(replace(Trace.restore(one), cached_tokens=None) for one in results.load_raw("3.3.1", key))
            run = Run(traces, entry["values"]["users"], 8, "short", provenance("ollama"), 0.01)
            results.record("3.3.1", key, summarise(run))
    [claim] = [c for c in milestones.check("3.3.1").claims if c.text.startswith("No prefix cache")]
    assert claim.ok, claim.evidence
    assert "; unknown for Ollama, whose counter can't be read here" in claim.evidence


def test_help_from_a_prefix_cache_is_shown() -> None:
    fill({"llamacpp": 10, "vllm": 20}, rounds=2)
    record("load/users-1/vllm/round-2", replace(trace(prompt=512), cached_tokens=50))
    assert not [e for e in failing() if "prompt tokens" in e]  # 50 of vLLM's 6,000: not yet 1 %
    record("load/users-1/vllm/round-1", replace(trace(prompt=512), cached_tokens=50))
    assert any("vLLM: a prefix cache supplied 100 of" in e and "100 of about" in e for e in failing())


def test_the_prompts_of_other_engines_do_not_hide_the_help_that_one_had() -> None:
    fill({"llamacpp": 10, "vllm": 20}, rounds=2)
    record("load/users-1/vllm/round-2", replace(trace(prompt=512), cached_tokens=120))  # 1.9 % of its own, 0.8 % of all
    assert any("vLLM: a prefix cache supplied 120 of" in e for e in failing())


def test_a_lab_without_milestone_is_said() -> None:
    with pytest.raises(LabError, match="There is no lab '9'"):
        milestones.check("9")


def alter_both(key: str, change: Any) -> None:
    """Change an entry in the ledger and in the copy beside its raw data, as a careful hand would."""
    raw = raw_file("3.3.1", key)
    stored = json.loads(gzip.decompress(raw.read_bytes()))
    change(stored["entry"])
    raw.write_bytes(gzip.compress(json.dumps(stored).encode()))
    os.utime(raw, (1, 1))  # no newer than the report
    entry_file("3.3.1", key).write_text(json.dumps(stored["entry"]))


KEY = "load/users-4/vllm/round-1"


@pytest.mark.usefixtures("done")
def test_a_figure_bettered_in_both_places_still_does_not_follow_from_its_traces() -> None:
    alter_both(KEY, lambda entry: entry["values"].update(output_tok_s=9999.0))
    assert any(f"{KEY}: output_tok_s doesn't follow from the raw traces" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_a_quoted_entry_relabelled_as_measured_is_refused() -> None:
    def relabel(entry: dict[str, Any]) -> None:
        for name in ("host", "processor", "code_sha256"):
            del entry["provenance"][name]

    alter_both(KEY, relabel)
    assert any("it lacks host, processor, code_sha256, which every measured result has" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_what_older_code_measured_is_refused_but_by_an_instructor_told_apart() -> None:
    alter_both(KEY, lambda entry: entry["provenance"].update(code_sha256="0" * 64))
    assert any("the code that measured it has changed since" in e for e in failing())
    assert milestones.check("3.3.1", any_code=True).complete


@pytest.mark.usefixtures("done")
def test_evidence_from_another_machine_counts_and_is_marked() -> None:
    here = milestones.check("3.3.1")
    assert all("this machine]" in c.evidence for c in here.claims if "report" not in c.text)
    alter_both(KEY, lambda entry: entry["provenance"].update(host="spark-7", processor="Grace"))
    found = milestones.check("3.3.1")
    assert found.complete
    assert "ANOTHER MACHINE, spark-7 (Grace); this machine]" in found.claims[1].evidence


@pytest.mark.usefixtures("done")
def test_a_claim_says_whose_functions_its_numbers_went_through() -> None:
    def latencies_ms(sent_ns: int, chunks: list[Any], output_tokens: int) -> tuple[float | None, float | None]:
        raise NotImplementedError

    def evidence() -> str:
        return next(c.evidence for c in milestones.check("3.3.1").claims if c.text.startswith("Your own"))

    assert "(using the reference solution of closed_loop, latencies_ms, output_tok_s)" in evidence()
    check = checks.of("3.3.1")
    own = {e.function: checks.reference(check.lab, e) for e in check.lab.exercises}
    for name in ("closed_loop", "latencies_ms", "output_tok_s"):
        assert check.use(own[name]) is own[name]
    assert "reference solution" not in evidence()
    check.use(latencies_ms)
    assert "(using the reference solution of latencies_ms)" in evidence()


@pytest.mark.usefixtures("done")
def test_own_figures_that_differ_or_are_of_other_loads_are_noticed() -> None:
    alter_own = json.loads(json.dumps(results.load_raw("3.3.1", "own/figures")))
    alter_own[KEY]["ttft_ms"] *= 1.1
    results.record("3.3.1", "own/figures", {"loads": 1}, raw=alter_own)
    assert any("your figures differ from the ledger's by up to 10.0 %" in e for e in failing())
    del alter_own[KEY]
    results.record("3.3.1", "own/figures", {"loads": 1}, raw=alter_own)
    assert any("your own figures cover 47 of 48 recorded loads" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_progress_shows_all_six() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "shared.course.milestones"], capture_output=True, text=True, check=True
    )
    lines = said.stdout.splitlines()
    assert lines[0] == "3.3.1  comprehensive engine benchmark report: ✔, 0 of 9 exercises right"
    assert lines[1] == "3.3.2  vLLM with continuous batching: 0 of 8 claims hold, 0 of 11 exercises right"
    assert lines[2] == "       next: nothing recorded: run the cell `own-text`"
    assert "3.3.3  TensorRT-LLM engine built and tested: 0 of 6 claims hold, 0 of 6 exercises right" in lines
    assert "3.3.5  production FastAPI server implemented: 0 of 6 claims hold, 0 of 7 exercises right" in lines
    assert "       next: missing: failure/blocked/naive: run the cell `fail-blocked`" in lines
    assert "3.3.6  Ollama web UI enhanced: 0 of 8 claims hold, 0 of 9 exercises right" in lines
    assert len(lines) == 11  # each lab but the complete one has something to do next
    raw_file("3.3.1", KEY).unlink()
    said = subprocess.run(
        [sys.executable, "-m", "shared.course.milestones"], capture_output=True, text=True, check=True
    )
    assert "of 8 claims" in said.stdout
    assert f"next: refused: {KEY}: its raw data is missing or damaged: run the cell `run-load` again" in said.stdout


def test_the_live_view_is_a_widget_with_text_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append(bundle))
    milestones.live("3.3.1")
    [bundle] = shown
    assert {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"} <= set(bundle)
    assert "0 of 8 claims" in bundle["text/plain"]
