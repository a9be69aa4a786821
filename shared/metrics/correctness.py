"""Is the text right? An engine that answers nonsense wins every benchmark, so its text is checked first.

    reference = correctness.Reference.load(model, questions=12)
    values, answers = correctness.check_greedy(engine, reference)

Where the labs have the weights as a file, the same model in torch and float32 judges every token
(shared.models.llama). A model that only runs on a GPU has no such reference. It gets questions with known answers.
"""

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.engines.http import greedy_tokens, post_json
from shared.launch.running import Engine
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.models.choice import ModelChoice

if TYPE_CHECKING:
    from shared.models.llama import Llama

TOKENS = 48  # of each answer
# One word each: a small model gets them right, but a broken image that answers garbage doesn't.
KNOWN = (
    ("What is the capital of France? Answer with one word.", "paris"),
    ("What is 2 + 2? Answer with one number.", "4"),
    ("Which planet do we live on? Answer with one word.", "earth"),
    ("Complete: Monday, Tuesday, Wednesday, ...", "thursday"),
)


@dataclass(frozen=True)
class Reference:
    """The questions and the reference's answers. `llama` is None for a model without a reference."""

    model: ModelChoice
    chats: Sequence[list[dict[str, str]]]
    llama: "Llama | None" = None
    answers: Sequence[list[int]] = ()  # the reference's own greedy tokens

    @classmethod
    def load(cls, model: ModelChoice, questions: int) -> "Reference":
        chats = [chat(model, question) for question in CHECK_QUESTIONS[:questions]]
        if not model.local:
            return cls(model, chats)
        import torch

        from shared.models.llama import Llama

        llama = Llama.load(model.weights("hf"), torch.float32)
        return cls(model, chats, llama, llama.generate([llama.prompt_ids(one) for one in chats], TOKENS))


def check_greedy(engine: Engine, reference: Reference) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The figures for the ledger, and every answer. All questions are sent at once, so that a batch is judged."""
    if reference.llama is None:
        return check_known_answers(engine, reference.model)
    from shared.models.llama import greedy_gap

    llama = reference.llama
    with ThreadPoolExecutor(len(reference.chats)) as pool:
        given = list(pool.map(lambda one: greedy_tokens(engine, one, TOKENS), reference.chats))
    answers: list[dict[str, Any]] = [
        {
            "same_prompt": prompt_ids == llama.prompt_ids(one),
            "same_text": tokens == expected,
            "tokens": tokens,
            "gaps": greedy_gap(llama, one, tokens, ended=len(tokens) < TOKENS),
        }
        for one, expected, (prompt_ids, tokens) in zip(reference.chats, reference.answers, given, strict=True)
    ]
    gaps = [gap for answer in answers for gap in answer["gaps"]]
    values = {
        "worst_gap_nats": max(gaps),
        "mean_gap_nats": sum(gaps) / len(gaps),
        "equal_texts": sum(answer["same_text"] for answer in answers),
        "equal_prompts": sum(answer["same_prompt"] for answer in answers),
        "texts": len(answers),
    }
    return values, answers


def check_known_answers(engine: Engine, model: ModelChoice) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answers: list[dict[str, Any]] = [
        {"question": question, "answer": (answer := ask(engine, model, question)), "right": expected in answer.lower()}
        for question, expected in KNOWN
    ]
    return {"right": sum(answer["right"] for answer in answers), "texts": len(answers)}, answers


def ask(engine: Engine, model: ModelChoice, question: str, tokens: int = 24) -> str:
    """The engine's greedy answer."""
    body = {"model": engine.served_name, "messages": chat(model, question), "max_tokens": tokens, "temperature": 0}
    answer = post_json(engine.url + "/v1/chat/completions", body)
    return str(answer["choices"][0]["message"]["content"])


def row(values: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """The cells of a table: worst gap, mean gap, equal texts, equal prompts; or how many known answers were right."""
    if "right" in values:
        return "no reference", "–", f"{values['right']} of {values['texts']} known answers", "–"
    return (
        f"{values['worst_gap_nats']:.3f}",
        f"{values['mean_gap_nats']:.5f}",
        f"{values['equal_texts']} of {values['texts']}",
        f"{values['equal_prompts']} of {values['texts']}",
    )


# How far the greedy tokens of a correct BF16 engine may lie below the float32 reference's best token
# (shared.models.llama.greedy_gap).
# At one step: the small model's best logit is mostly between 16 and 42. BF16 numbers are 0.125 apart there, and 0.25
# from 32 on. So rounding two logits alone can turn a near-tie of that size, and thirty layers of rounding add to it.
# On average: such near-ties are rare.
# Measured over 12 answers of up to 48 tokens, worst / mean: BF16 engines at most 0.26 / 0.0016 (on a processor without
# BF16 instructions), Q4_0 9.1 / 0.29. Q8_0, at 0.19 / 0.0030, is indistinguishable from rounding; its weights are
# identified by their hash.
GAP_LIMIT_NATS = 0.5
MEAN_GAP_LIMIT_NATS = 0.005


def gap_fault(gaps: Sequence[float]) -> str | None:
    """Why the greedy gaps of a few hundred tokens are too large; None if a correct BF16 engine may have them."""
    worst, mean = max(gaps), statistics.fmean(gaps)
    if worst > GAP_LIMIT_NATS:
        return f"a greedy token lies {worst:.2f} nats below the reference's best (limit {GAP_LIMIT_NATS})"
    if mean > MEAN_GAP_LIMIT_NATS:
        return f"greedy tokens lie {mean:.4f} nats below the reference's best on average (limit {MEAN_GAP_LIMIT_NATS})"
    return None
