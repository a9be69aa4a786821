"""Correct before fast: an engine with drafts writes the model's text, and it really drafts.

    reference = text_check.load_reference(model, questions)
    text_check.check_text(lab, engine, reference)

A draft that never proposes a token leaves the text right, and proves nothing. So the engine's counters must show that
it proposed some while its text was checked.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from shared.course.labs import OpenLab, Values
from shared.course.speculation.on_engines.drafts_here import name_of
from shared.course.speculation.on_engines.questions import COPYING, questions_of
from shared.engines.http import counters
from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.prompts import chat
from shared.metrics.correctness import TOKENS, Reference, ask, check_greedy, gap_fault
from shared.models.choice import ModelChoice

COPY = "Copy this sentence, and write nothing else: The ferry leaves the harbour at seven and returns at noon."


def load_reference(model: ModelChoice, questions: int) -> Reference:
    """The usual questions, and one whose answer copies its prompt: elsewhere look-up may find nothing to propose.

    A model without a reference (on a GPU) gets such a question in `check_text`.
    """
    usual = Reference.load(model, questions)
    if usual.llama is None:
        return usual
    copying = chat(model, questions_of(COPYING, TOKENS)[0])
    answer = usual.llama.generate([usual.llama.prompt_ids(copying)], TOKENS)
    return replace(usual, chats=[*usual.chats, copying], answers=[*usual.answers, *answer])


def check_text(lab: OpenLab, engine: Engine, reference: Reference) -> Values:
    """Greedy text of the engine with its draft against the reference, by the same limits as without a draft.

    A machine without the reference (a model on a GPU) asks questions with known answers. Raises LabError if the text
    is wrong, or if the engine's counters show no proposed draft, so that nothing is measured of an engine that writes
    another text, or that only seems to draft.
    """
    drafted = name_of(engine.draft)
    key = f"text/{engine.spec.name}/{drafted}"

    def check() -> tuple[Values, list[dict[str, Any]]]:
        before = counters(engine)
        values, answers = check_greedy(engine, reference)
        if reference.llama is None:
            answer = ask(engine, engine.model, COPY, TOKENS)
            right = COPY.partition(": ")[2].lower().rstrip(".") in answer.lower()
            answers.append({"question": COPY, "answer": answer, "right": right})
            values = {"right": values["right"] + right, "texts": values["texts"] + 1}
        if engine.draft:
            values["drafted"] = proposed(engine, before)
        return values, answers

    found: Values = lab.measure(key, check, engine=engine, questions=len(reference.chats))
    if fault := text_fault(found, lab.raw(key)):
        raise LabError(
            f"{engine.spec.title} ({drafted}) doesn't write the model's text: {fault}. Its speed is not measured.",
            "start it without a draft to see whether the draft is the cause; a draft must be made for this model",
        )
    if engine.draft and (fault := draft_fault(found)):
        raise LabError(
            f"{engine.spec.title} ({drafted}) writes the model's text, but {fault}. Its speed is not measured.",
            f'read its log (print(engine.tail())): did it load the draft? To check again: lab.set_aside("{key}")',
        )
    return found


def proposed(engine: Engine, before: Mapping[str, float], patience_s: float = 3) -> int | None:
    """How many draft tokens it has proposed since its counters were `before`; None if it doesn't count them.

    SGLang counts verifications, each of which has all drafts. Some engines update their counters with a delay.
    """
    own = "draft_tokens" in engine.spec.counters
    name = "draft_tokens" if own else "verifications"
    if not before or name not in engine.spec.counters or engine.draft is None:
        return None
    until = time.monotonic() + patience_s
    while (grown := int(counters(engine).get(name, 0) - before.get(name, 0))) <= 0 and time.monotonic() < until:
        time.sleep(0.5)
    return grown if own else grown * engine.draft.tokens


def text_fault(values: Values, answers: Any) -> str | None:
    """Why these greedy answers aren't the model's; None if they are."""
    if "right" in values:
        wrong = values["texts"] - values["right"]
        return f"{wrong} of {values['texts']} known answers are wrong" if wrong else None
    return gap_fault([gap for answer in answers for gap in answer["gaps"]])


def draft_fault(values: Values) -> str | None:
    """Why the right text says nothing about the draft; None if draft tokens were proposed for it."""
    drafted = values.get("drafted")
    if drafted is None:
        return "its counters of drafts can't be read, so nothing shows that it drafts"
    return None if drafted > 0 else "it proposed no draft token, so its text says nothing about drafts"
