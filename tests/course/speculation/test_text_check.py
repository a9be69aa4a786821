"""The check of an engine's text: it must be the model's, and the engine must have drafted."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.course import labs
from shared.course.speculation.on_engines import text_check
from shared.engines import ENGINES, Draft, EngineSpec
from shared.errors import LabError
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.metrics.correctness import Reference
from shared.models import ModelChoice
from tests.helpers.ledger import provenance

LAB = labs.OpenLab("3.3.4")


@dataclass
class Drafting:
    """An engine of which only its description is needed."""

    model: ModelChoice
    name: str = "llamacpp"
    draft: Draft | None = field(default_factory=lambda: Draft("ngram", 8))

    @property
    def spec(self) -> EngineSpec:
        return ENGINES[self.name]

    def provenance(self) -> dict[str, Any]:
        return provenance(self.name)


@pytest.fixture
def right(monkeypatch: pytest.MonkeyPatch, model: ModelChoice) -> Reference:
    """A reference, with which every text is right."""
    answers = [{"gaps": [0.0] * 50, "tokens": [1]}]
    monkeypatch.setattr(text_check, "check_greedy", lambda *_: ({"texts": 1}, answers))
    monkeypatch.setattr("time.sleep", lambda _: None)
    llama: Any = object()
    return Reference(model, [chat(model, CHECK_QUESTIONS[0])], llama)


def counting(monkeypatch: pytest.MonkeyPatch, *readings: Mapping[str, float]) -> None:
    """The engine's counters, as they are read one after the other; the last one stays."""

    def each() -> Iterator[Mapping[str, float]]:
        yield from readings
        while True:
            yield readings[-1]

    reading = each()
    monkeypatch.setattr(text_check, "counters", lambda _: dict(next(reading)))


def check(engine: Drafting, reference: Reference) -> Any:
    return text_check.check_text(LAB, engine, reference)  # type: ignore[arg-type]


def test_proposed_drafts_are_recorded(monkeypatch: pytest.MonkeyPatch, model: ModelChoice, right: Reference) -> None:
    counting(monkeypatch, {"requests": 1, "draft_tokens": 5}, {"requests": 2, "draft_tokens": 21})
    assert check(Drafting(model), right)["drafted"] == 16
    counting(monkeypatch, {"verifications": 2}, {"verifications": 12})
    assert check(Drafting(model, "sglang", Draft("eagle3", 3)), right)["drafted"] == 30  # each verifies three drafts
    counting(monkeypatch, {})
    assert "drafted" not in check(Drafting(model, draft=None), right)


def test_a_draft_that_proposes_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, model: ModelChoice, right: Reference
) -> None:
    monkeypatch.setattr(text_check, "proposed", lambda engine, before: 0)
    counting(monkeypatch, {"requests": 1})
    with pytest.raises(LabError) as error:
        check(Drafting(model), right)
    assert str(error.value).startswith(
        "llama.cpp (ngram-8) writes the model's text, but it proposed no draft token, so its text says nothing about "
        "drafts. Its speed is not measured."
    )
    assert 'To check again: lab.set_aside("text/llamacpp/ngram-8")' in str(error.value)
    with pytest.raises(LabError, match="proposed no draft token"):  # what is recorded stays a failure
        check(Drafting(model), right)


def test_counters_that_come_late_are_waited_for(monkeypatch: pytest.MonkeyPatch, model: ModelChoice) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    engine: Any = Drafting(model)
    counting(monkeypatch, {"draft_tokens": 5}, {"draft_tokens": 5}, {"draft_tokens": 9})
    assert text_check.proposed(engine, {"draft_tokens": 5}) == 4
    counting(monkeypatch, {"draft_tokens": 5})
    assert text_check.proposed(engine, {"draft_tokens": 5}, patience_s=0) == 0
    assert text_check.proposed(engine, {}) is None, "counters that can't be read"


def test_without_a_reference_a_copied_sentence_gives_look_up_something_to_propose(
    monkeypatch: pytest.MonkeyPatch, spark_model: ModelChoice
) -> None:
    known = [{"question": "2 + 2?", "answer": "4", "right": True}]
    monkeypatch.setattr(text_check, "check_greedy", lambda *_: ({"right": 1, "texts": 1}, list(known)))
    monkeypatch.setattr(text_check, "proposed", lambda engine, before: 7)
    counting(monkeypatch, {})
    asked: list[str] = []

    def ask(engine: Any, model: ModelChoice, question: str, tokens: int) -> str:
        asked.append(question)
        return answers.pop(0)

    monkeypatch.setattr(text_check, "ask", ask)
    answers = ["The ferry leaves the harbour at seven and returns at noon."]
    reference = Reference(spark_model, [])
    assert check(Drafting(spark_model), reference) == {"right": 2, "texts": 2, "drafted": 7}
    assert asked == [text_check.COPY]
    answers = ["A ferry."]
    with pytest.raises(LabError, match="1 of 2 known answers are wrong"):
        check(Drafting(spark_model, "vllm"), reference)


def test_a_wrong_text_is_a_fault_with_and_without_a_reference() -> None:
    assert text_check.text_fault({}, [{"gaps": [0.0] * 50}]) is None
    assert "3.00 nats" in str(text_check.text_fault({}, [{"gaps": [0.0, 3.0]}]))
    assert text_check.text_fault({"right": 3, "texts": 4}, []) == "1 of 4 known answers are wrong"


def test_a_draft_without_proposals_or_counters_is_a_fault() -> None:
    assert text_check.draft_fault({"drafted": 3}) is None
    assert "proposed no draft token" in str(text_check.draft_fault({"drafted": 0}))
    assert "counters of drafts can't be read" in str(text_check.draft_fault({"drafted": None}))
    assert "counters of drafts can't be read" in str(text_check.draft_fault({}))


def test_the_last_question_is_answered_by_copying(model: ModelChoice) -> None:
    reference = text_check.load_reference(model, 1)
    assert len(reference.chats) == len(reference.answers) == 2
    prompt, answer = reference.llama.prompt_ids(reference.chats[1]) if reference.llama else [], reference.answers[1]
    known = prompt + answer
    found = [
        any(known[at : at + 3] == known[end - 3 : end] for at in range(end - 3))
        for end in range(len(prompt) + 1, len(known))
    ]
    assert sum(found) > len(answer) // 2  # look-up finds the last three tokens earlier in the text
