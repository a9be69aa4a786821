"""Accepted drafts by position, read from the answers of an engine whose counters don't have them."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.course import labs
from shared.course.speculation import tables
from shared.course.speculation.on_engines import positions as module
from shared.course.speculation.on_engines.drafts_here import SIZES
from shared.engines import ENGINES, Draft, EngineSpec
from shared.models import ModelChoice
from tests.helpers.ledger import provenance
from tests.helpers.speculation import MadeUp

LAB = labs.OpenLab("3.3.4")
FULL = SIZES["full"]


@dataclass
class Answering:
    """An engine of which only its answers are needed."""

    spec: EngineSpec
    model: ModelChoice
    draft: Draft | None = field(default_factory=lambda: Draft("eagle3", 3))
    url: str = "http://nowhere"
    served_name: str = "model"

    def provenance(self) -> dict[str, Any]:
        return provenance(self.spec.name)


def measured(monkeypatch: pytest.MonkeyPatch, engine: Answering, details: Any) -> tuple[Any, list[dict[str, Any]]]:
    asked: list[dict[str, Any]] = []

    def post_json(url: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        asked.append(body)
        return {"choices": []} if details is None else {"choices": [], "sglext": {"spec_tokens_details": details}}

    monkeypatch.setattr(module, "post_json", post_json)
    return module.positions(LAB, engine, FULL), asked  # type: ignore[arg-type]


def test_the_histogram_becomes_shares_by_position(monkeypatch: pytest.MonkeyPatch, model: ModelChoice) -> None:
    # Of 10 verifications 4 accepted no draft, 3 one, 2 two and 1 all three.
    engine = Answering(ENGINES["sglang"], model)
    values, asked = measured(monkeypatch, engine, {"spec_correct_drafts_histogram": [4, 3, 2, 1]})
    count = FULL.rounds
    assert values == {"verifications": 10 * count, "accepted_at": [6 * count, 3 * count, count]}
    assert len({str(body["messages"]) for body in asked}) == count
    assert all(body["return_spec_tokens_details"] and body["ignore_eos"] for body in asked)
    assert all((body["temperature"], body["max_tokens"]) == (0, FULL.tokens) for body in asked)
    again, asked = measured(monkeypatch, engine, None)
    assert (again, asked) == (values, []), "what is recorded isn't asked again"


def test_a_version_without_it_is_said(monkeypatch: pytest.MonkeyPatch, model: ModelChoice) -> None:
    nothing: tuple[Any, ...] = (None, {})
    for details in nothing:
        values, _ = measured(monkeypatch, Answering(ENGINES["sglang"], model), details)
        assert values == {"missing": "this version of SGLang returns no accepted drafts by position"}
        LAB.set_aside("positions/")


def test_only_what_the_counters_lack_is_asked_for(monkeypatch: pytest.MonkeyPatch, model: ModelChoice) -> None:
    for engine in (Answering(ENGINES["sglang"], model, None), Answering(ENGINES["vllm"], model)):
        assert measured(monkeypatch, engine, None) == (None, [])


def test_the_picture_of_a_step_has_them(monkeypatch: pytest.MonkeyPatch, model: ModelChoice) -> None:
    MadeUp().everything()
    measured(monkeypatch, Answering(ENGINES["sglang"], model), {"spec_correct_drafts_histogram": [4, 3, 2, 1]})
    plot = tables.accepted(LAB)
    [row] = [row for row in plot.rows if row[0].startswith("SGLang")]
    by_name = dict(zip(plot.header, row, strict=True))
    assert [by_name[f"draft {place}"] for place in (1, 2, 3)] == ["0.60", "0.30", "0.10"]
    assert by_name["together"] == "2.00"
    assert "drafts, position not counted" not in plot.header
