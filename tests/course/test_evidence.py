"""A claim holds, does not hold, or could not be tried on this machine; what is missing is named with its cell."""

import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from shared import results
from shared.course import checks, milestones, registry
from shared.course.evidence import Claim, Evidence, NotRunHere, origin
from shared.load import Run
from shared.metrics import summarise
from shared.results.ledger import entry_file, raw_file
from shared.results.participants import MISSING
from tests.helpers.ledger import change, provenance, trace

KEY = "load/users-4/vllm/round-1"
NO_GPU = {MISSING: "vLLM needs a GPU."}


def record_load(key: str) -> None:
    results.record("3.3.1", key, summarise(Run((trace(),), 1, 8, "short", provenance("vllm"), 0.01)))


def alter_both(key: str, by: Callable[[dict[str, Any]], object]) -> None:
    """Change an entry in the ledger and in the copy beside its raw data."""
    raw = raw_file("3.3.1", key)
    stored = json.loads(gzip.decompress(raw.read_bytes()))
    by(stored["entry"])
    raw.write_bytes(gzip.compress(json.dumps(stored).encode()))
    entry_file("3.3.1", key).write_text(json.dumps(stored["entry"]))


def with_claims(monkeypatch: pytest.MonkeyPatch, *claims: Claim) -> None:
    """Lab 3.3.1 with other claims."""
    monkeypatch.setitem(registry.LABS["3.3.1"].__dict__, "claims", claims)


def holds(_: Evidence) -> tuple[bool, str]:
    return True, "seen"


def needs_vllm(found: Evidence) -> tuple[bool, str]:
    """A claim's test as the rooms write one: its results, else why there are none."""
    if loads := found.of("load/users-1/vllm/"):
        return True, f"{len(loads)} loads"
    found.raise_if_not_run("engine/vllm")
    return False, "nothing recorded: run the cell `run-load`"


def test_a_claim_that_could_not_be_tried_is_neither_held_nor_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    with_claims(monkeypatch, Claim("A", holds), Claim("B", needs_vllm, ("load/",)))
    assert milestones.check("3.3.1").claims[1].evidence == "nothing recorded: run the cell `run-load`"
    results.record("3.3.1", "engine/vllm", NO_GPU)
    found = milestones.check("3.3.1")
    held, not_run = found.claims
    assert (held.ok, held.not_run, held.sign) == (True, False, "✔")
    assert (not_run.ok, not_run.not_run, not_run.sign) == (False, True, "○")
    assert re.fullmatch(r"not run here: vLLM needs a GPU \[2\d{3}-[^;]*; this machine\]", not_run.evidence)
    assert (found.complete, found.complete_here) == (False, True)
    assert found.headline() == (
        "Milestone 3.3.1, comprehensive engine benchmark report: 1 of 2 claims hold, 1 not run here"
    )
    assert "\n○ B\n    not run here: vLLM needs a GPU" in repr(found)
    assert f"<td>○</td><td style='{milestones.CELL}'>B</td>" in found._repr_html_()


def test_a_reason_counts_only_where_results_are_missing_and_only_if_it_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_claims(monkeypatch, Claim("B", needs_vllm))
    results.record("3.3.1", "engine/vllm", NO_GPU)
    change(entry_file("3.3.1", "engine/vllm"), lambda entry: entry["values"].update({MISSING: "no time"}))
    assert milestones.check("3.3.1").claims[0].outcome == "does not hold"  # by hand: the copy has another reason
    results.record("3.3.1", "engine/vllm", NO_GPU)
    record_load("load/users-1/vllm/round-1")
    assert milestones.check("3.3.1").complete


def test_a_reason_from_another_machine_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    with_claims(monkeypatch, Claim("B", needs_vllm))
    results.record("3.3.1", "engine/vllm", NO_GPU)
    alter_both("engine/vllm", lambda entry: entry["provenance"].update(host="spark-7", processor="Grace"))
    assert "ANOTHER MACHINE, spark-7 (Grace)" in milestones.check("3.3.1").claims[0].evidence


def test_a_claim_may_give_its_reason_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def test(_: Evidence) -> tuple[bool, str]:
        raise NotRunHere("the image of TensorRT-LLM is for arm64 only")

    with_claims(monkeypatch, Claim("A", test))
    [found] = milestones.check("3.3.1").claims
    assert (found.outcome, found.evidence) == (
        "not run here",
        "not run here: the image of TensorRT-LLM is for arm64 only",
    )


def test_a_reason_under_a_needed_prefix_counts_without_a_word_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def test(found: Evidence) -> tuple[bool, str]:
        return bool(found.of("died")), ""  # a reason is no result

    with_claims(monkeypatch, Claim("A", test, {"slo": "choose-slo", "died": "server-dies"}))
    results.record("3.3.1", "died", NO_GPU)
    assert milestones.check("3.3.1").claims[0].evidence.startswith("not run here: vLLM needs a GPU [")
    results.record("3.3.1", "died", {"requests": 4})
    assert milestones.check("3.3.1").complete


def test_progress_names_what_was_not_run_and_goes_on_to_what_can_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results.record("3.3.1", "engine/vllm", NO_GPU)
    to_do = Claim("C", lambda _: (False, "nothing recorded: run the cell `fit-steps`"))
    with_claims(monkeypatch, Claim("A", holds), Claim("B", needs_vllm), to_do)
    row = milestones.progress().rows[0]
    assert (row[2], row[4]) == ("1 of 3 hold, 1 not run here", "nothing recorded: run the cell `fit-steps`")
    with_claims(monkeypatch, Claim("A", holds), Claim("B", needs_vllm))
    milestones.main()
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.endswith(": 1 of 2 claims hold, 1 not run here, 0 of 9 exercises right")
    assert second.startswith("       not run here: vLLM needs a GPU [")


@pytest.mark.parametrize("lab", [lab for lab in registry.LABS.values() if lab.claims], ids=lambda lab: lab.number)
def test_each_claim_without_evidence_names_a_cell_of_the_notebook(lab: registry.Lab) -> None:
    cells = {cell["id"] for cell in checks.notebook(lab)["cells"]}
    for claim in milestones.check(lab.number).claims:
        named = set(re.findall(r"`([^`]+)`", claim.evidence))
        assert named, claim
        assert named <= cells, claim


def test_a_refused_result_and_a_claim_without_words_name_the_cells_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = {"load/": "run-load", "load/users-4/": "run-four", "fit/": "fit-steps"}
    with_claims(monkeypatch, Claim("A", lambda _: (False, ""), needs))
    assert milestones.check("3.3.1").claims[0].evidence == (
        "nothing recorded: run the cells `run-load`, `run-four` and `fit-steps`"
    )
    for key, cell in (("load/users-1/vllm/round-1", "run-load"), (KEY, "run-four")):
        record_load(key)
        change(entry_file("3.3.1", key), lambda entry: entry["values"].update(output_tok_s=9999.0))
        assert f": run the cell `{cell}` again" in milestones.check("3.3.1").claims[0].evidence
        record_load(key)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["2026-11-26T04:11:02+0000"] * 2, "[2026-11-26 04:11; "),
        (["2026-11-26T04:11:02+0000", "2026-11-26T05:00:00+0000"], "[2026-11-26 04:11 to 05:00; "),
        (["2026-11-27T00:10:00+0000", "2026-11-26T23:50:00+0000"], "[2026-11-26 23:50 to 2026-11-27 00:10; "),
    ],
)
def test_the_day_is_named_once(times: list[str], said: str) -> None:
    entries = [{"provenance": {"time": time, "host": "h", "processor": "p"}} for time in times]
    assert origin(entries).strip().startswith(said)
