"""A milestone believes the ledger only as far as its raw traces bear it out."""

import json
import os
from dataclasses import replace

import pytest
from ledger import fill, provenance, trace

from shared import LabError, milestones, results
from shared.client import Trace
from shared.load import Run
from shared.metrics import summarise
from shared.report import build_report


def failing() -> list[str]:
    """Evidence of the claims that don't hold."""
    return [c.evidence for c in milestones.check("3.3.1").claims if not c.ok]


def alter(key: str, **values: object) -> None:
    """Change figures in the ledger, as a hand would."""
    file = results.ledger_file("3.3.1")
    ledger = json.loads(file.read_text())
    ledger[key]["values"].update(values)
    file.write_text(json.dumps(ledger))


def record(key: str, *traces: Trace) -> None:
    run = Run(traces, 1, 8, "short", provenance("vllm"), 0.01)
    results.record("3.3.1", key, summarise(run))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.plots.browser", lambda: None)  # no pictures: they take seconds each
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20, "sglang": 25})
    build_report("3.3.1")


def test_an_empty_ledger_bears_out_nothing_and_names_the_cells() -> None:
    found = milestones.check("3.3.1")
    assert not any(claim.ok for claim in found.claims)
    assert "check-greedy" in repr(found)
    assert "run-load" in repr(found)
    assert "0 of 6" in found._repr_html_()


@pytest.mark.usefixtures("done")
def test_a_whole_ledger_bears_out_every_claim() -> None:
    found = milestones.check("3.3.1")
    assert found.complete, found
    assert "36 summaries computed again" in repr(found)


@pytest.mark.usefixtures("done")
def test_a_bettered_figure_is_refused() -> None:
    alter("load/users-4/vllm/round-1", output_tok_s=9999.0)
    assert any("load/users-4/vllm/round-1: output_tok_s doesn't follow" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_a_bettered_gap_is_refused() -> None:
    alter("greedy/vllm", worst_gap_nats=0.0)
    assert any("doesn't follow from the raw ones" in e for e in failing())


def test_a_wrong_engine_is_refused() -> None:
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20})
    results.record("3.3.1", "greedy/vllm", {"worst_gap_nats": 6.1}, raw=[{"gaps": [0.0, 6.1]}])
    assert any("6.10 nats below the reference's best" in e for e in failing())


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
    results.raw_file("3.3.1", "load/users-1/llamacpp/round-2").unlink()
    assert any("missing or torn" in e for e in failing())


@pytest.mark.usefixtures("done")
def test_a_report_older_than_the_results_is_noticed() -> None:
    file = results.ledger_file("3.3.1")
    later = file.stat().st_mtime + 60
    os.utime(file, (later, later))
    assert any("older than the results" in e for e in failing())


def test_failed_requests_and_unknown_cache_use_are_shown() -> None:
    fill({"llamacpp": 10, "vllm": 20})
    record("load/users-1/vllm/round-9", trace(), trace(error="reset"))
    assert "1 of 128 requests failed" in failing()
    record("load/users-1/vllm/round-9", replace(trace(), cached_tokens=None))
    assert any("did not say how many" in e for e in failing())


def test_help_from_a_prefix_cache_is_shown() -> None:
    fill({"llamacpp": 10, "vllm": 20}, rounds=2)
    record("load/users-1/vllm/round-2", replace(trace(), cached_tokens=33))
    assert not [e for e in failing() if "prompt tokens" in e]  # 33 of 3,360: not yet 1 %
    record("load/users-1/vllm/round-1", replace(trace(), cached_tokens=33))
    assert any("66 of about" in e for e in failing())


def test_a_lab_without_milestone_is_said() -> None:
    with pytest.raises(LabError, match="no milestone for lab '9'"):
        milestones.check("9")
