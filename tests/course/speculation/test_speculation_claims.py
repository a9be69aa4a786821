"""Lab 3.3.4's milestone: each claim holds on results that bear it out, and falls with the one thing it rests on."""

from typing import Any

import pytest

from shared import results
from shared.course import evidence, labs
from shared.course.evidence import FAILS, HOLDS, NOT_RUN, ClaimResult, Evidence
from shared.course.speculation import choose
from shared.course.speculation.claims import CLAIMS
from shared.course.speculation.speedups import from_lab
from tests.helpers.speculation import MadeUp

LAB = labs.OpenLab("3.3.4")
OWN, LLAMACPP, VLLM, SGLANG, FIRST, GAINS, COST, CHOICE = range(8)


@pytest.fixture(autouse=True)
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "full")


def fill(made_up: MadeUp | None = None, **changed: Any) -> None:
    """Results that bear out every claim; `changed` names what is to be otherwise."""
    made_up = made_up or MadeUp()
    made_up.everything()
    checked = dict.fromkeys(("plain", "eagle3-2", *choose.names(made_up.main)))
    checked |= dict.fromkeys(f"{kind}-{k}" for kind, k in made_up.drafts())
    checked.pop(changed.get("unchecked", ""), None)
    proof = {"paths": 100, "samples": 200_000, "largest_difference": 1e-16, "p_value": 0.5}
    results.record("3.3.4", "proof/own", proof | changed.get("proof", {}), raw={})
    own = {"texts": 4, "eagle3": {"texts_as_plain": 4}, "ngram": {"texts_as_plain": changed.get("own_texts", 4)}}
    results.record("3.3.4", "own/speculation", own, raw={})
    for engine, drafts in (("llamacpp", tuple(checked)), ("vllm", ("eagle3-3",)), ("sglang", ("eagle3-3",))):
        for draft in drafts:
            gaps = [0.0] * 40 + [changed.get(f"{engine}/{draft}", 0.1)]
            values = {"worst_gap_nats": max(gaps), "mean_gap_nats": sum(gaps) / len(gaps), "texts": 1}
            values |= {} if draft == "plain" else {"drafted": changed.get("drafted", 40)}
            results.record("3.3.4", f"text/{engine}/{draft}", values, raw=[{"gaps": gaps, "tokens": []}])
    pairs = [[1, 2]] * 60 + [[3, 4]] * 40
    other = changed.get("first_tokens", pairs)
    plain = changed.get("plain_first_tokens", pairs)
    results.record("3.3.4", "first-tokens/llamacpp/plain", {"answers": 100}, raw=plain)
    results.record("3.3.4", "first-tokens/llamacpp/eagle3-2", {"answers": 100}, raw=other)
    mine = changed.get("choice", choose.best(LAB))
    results.record("3.3.4", "choice/mine", {"choice": mine}, raw=[])
    for row in choose.judged(from_lab(LAB), mine):
        if row.chosen != changed.get("not_run"):
            key = f"choice/{row.traffic.name.replace(' ', '-')}/{row.chosen}/round-1"
            results.record("3.3.4", key, {"run": 1}, raw=[])


def outcome(number: int) -> ClaimResult:
    return evidence.test_claim(CLAIMS[number], Evidence("3.3.4"))


def test_every_claim_holds_on_results_that_bear_it_out() -> None:
    fill()
    found = {claim.text: evidence.test_claim(claim, Evidence("3.3.4")) for claim in CLAIMS}
    assert {text: one.evidence for text, one in found.items() if one.outcome != HOLDS} == {}
    assert all("not judged" not in one.evidence for one in found.values())


def test_without_results_each_claim_names_its_cells() -> None:
    for claim in CLAIMS:
        found = evidence.test_claim(claim, Evidence("3.3.4"))
        assert found.outcome == FAILS
        assert "nothing recorded: run the cell" in found.evidence


@pytest.mark.parametrize(
    ("number", "changed", "said"),
    [
        (OWN, {"proof": {"largest_difference": 0.01}}, "1e-02"),
        (OWN, {"proof": {"p_value": 1e-6}}, "p = 0.000"),
        (OWN, {"own_texts": 3}, "ngram: 3 of 4"),
        (LLAMACPP, {"llamacpp/eagle3-2": 3.0}, "eagle3-2: a greedy token lies 3.00 nats below"),
        (VLLM, {"vllm/eagle3-3": 3.0}, "3.00 nats"),
        (SGLANG, {"sglang/eagle3-3": 3.0}, "3.00 nats"),
        (LLAMACPP, {"drafted": 0}, "it proposed no draft token"),
        (LLAMACPP, {"unchecked": "eagle3-8"}, "the text with eagle3-8 was not checked: run the cell `check-text`"),
        (SGLANG, {"drafted": None}, "its counters of drafts can't be read"),
        (FIRST, {"first_tokens": [[1, 2]] * 20 + [[3, 4]] * 80}, "p = 0.000"),
        (FIRST, {"plain_first_tokens": [[1, 2]] * 97 + [[3, 4]] * 3, "first_tokens": [[1, 2]] * 95 + [[3, 4]] * 5},
         "the test wouldn't notice greedy answers"),
        (CHOICE, {"choice": dict.fromkeys((t.name for t in choose.traffics()), choose.NAIVE)}, "regret"),
        (CHOICE, {"not_run": "plain"}, "was not run: run the cell `run-choice`"),
    ],
)  # fmt: skip
def test_a_claim_falls_with_what_it_rests_on(number: int, changed: dict[str, Any], said: str) -> None:
    fill(**changed)
    found = outcome(number)
    assert found.outcome == FAILS
    assert said in found.evidence


def test_a_head_whose_drafts_are_never_accepted_fails() -> None:
    fill()
    results.record("3.3.4", "text/vllm/eagle3-3", LAB.values("text/vllm/eagle3-3"), raw=LAB.raw("text/vllm/eagle3-3"))
    LAB.set_aside("speed/vllm/")
    for number in (1, 2):
        MadeUp().speed(engine="vllm", number=number)
        MadeUp().speed(("eagle3", 3), engine="vllm", number=number, accepted_at=(0, 0, 0))
    found = outcome(VLLM)
    assert (found.outcome, "eagle3-3 0 %" in found.evidence) == (FAILS, True)


def test_without_a_head_every_claim_is_about_the_small_model_in_its_place() -> None:
    fill(MadeUp(main="model"))
    found = {claim.text: evidence.test_claim(claim, Evidence("3.3.4")) for claim in CLAIMS}
    assert {text: one.evidence for text, one in found.items() if one.outcome != HOLDS} == {}
    assert "model-8 for everyone" in outcome(CHOICE).evidence
    LAB.set_aside("speed/llamacpp/")
    for number in (1, 2):
        MadeUp().speed(number=number)
        MadeUp().speed(("model", 3), number=number, accepted_at=(0, 0, 0))
    assert outcome(LLAMACPP).outcome == FAILS


def test_without_a_draft_that_costs_a_pass_the_cost_model_is_not_run_here() -> None:
    fill(MadeUp(main="ngram"))
    LAB.set_aside("synthetic/")
    assert outcome(COST).outcome == FAILS
    results.record("3.3.4", "synthetic/llamacpp", {"missing": "no draft costs a pass."})
    assert (outcome(COST).outcome, outcome(COST).evidence[:40]) == (NOT_RUN, "not run here: no draft costs a pass [202")
    assert outcome(LLAMACPP).outcome == HOLDS


def test_an_engine_that_could_not_start_is_not_run_here() -> None:
    fill()
    LAB.set_aside("text/sglang/")
    results.record("3.3.4", "engine/sglang", {"missing": "SGLang is not installed."})
    assert outcome(SGLANG).outcome == NOT_RUN


def test_more_users_that_gain_more_contradict_the_claim() -> None:
    fill(MadeUp(slower={1: 3.0}))
    assert outcome(GAINS).outcome == FAILS


def test_a_cost_model_that_misses_is_no_evidence() -> None:
    fill(MadeUp(slower={2: 1.0, 4: 1.4, 16: 1.4}))
    found = outcome(COST)
    assert "settings that it wasn't fitted on" in found.evidence
    fill(MadeUp(slower={1: 0.6, 16: 1.4}))
    assert outcome(COST).outcome == FAILS


def test_speeds_are_not_judged_at_the_quick_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "quick")
    fill(MadeUp(slower={1: 3.0}), choice=dict.fromkeys((t.name for t in choose.traffics()), choose.NAIVE))
    for number in (GAINS, COST, CHOICE):
        found = outcome(number)
        assert (found.outcome, "not judged at the quick size" in found.evidence) == (HOLDS, True), found.evidence
    fill(None, **{"llamacpp/eagle3-2": 3.0})
    assert outcome(LLAMACPP).outcome == FAILS  # text is judged at every size
