"""Is the text right? An engine that answers nonsense wins every benchmark, so it is asked before any is run.

    reference = greedy.Reference.load(model, questions=12)
    values, answers = greedy.judge(engine, reference)

Where the labs have the weights as a file, the same model in torch and float32 judges every token (shared.llama). Of a
model that only a GPU holds there is no such reference: then questions are asked whose answers are known.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.api import greedy_tokens, post_json
from shared.engine import Engine
from shared.models import ModelChoice
from shared.prompts import CHECK_QUESTIONS, chat

if TYPE_CHECKING:
    from shared.llama import Llama

TOKENS = 48  # of each answer
# One word each, so that a small model gets them right, and a stale image that answers garbage doesn't.
KNOWN = (
    ("What is the capital of France? Answer with one word.", "paris"),
    ("What is 2 + 2? Answer with one number.", "4"),
    ("Which planet do we live on? Answer with one word.", "earth"),
    ("Complete: Monday, Tuesday, Wednesday, ...", "thursday"),
)


@dataclass(frozen=True)
class Reference:
    """The questions, and what the reference answers; `llama` is None where there is none."""

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

        from shared.llama import Llama

        llama = Llama.load(model.weights("hf"), torch.float32)
        return cls(model, chats, llama, llama.generate([llama.prompt_ids(one) for one in chats], TOKENS))


def judge(engine: Engine, reference: Reference) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures for the ledger, and every answer: all questions are asked at once, so that a batch is judged."""
    if reference.llama is None:
        return by_known_answers(engine, reference.model)
    from shared.llama import greedy_gap

    llama = reference.llama
    with ThreadPoolExecutor(len(reference.chats)) as pool:
        given = list(pool.map(lambda one: greedy_tokens(engine, one, TOKENS), reference.chats))
    answers: list[dict[str, Any]] = [
        {
            "same_prompt": prompt_ids == llama.prompt_ids(one),
            "same_text": tokens == expected,
            "tokens": tokens,
            "gaps": greedy_gap(llama, one, tokens),
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


def by_known_answers(engine: Engine, model: ModelChoice) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    answers: list[dict[str, Any]] = [
        {"question": question, "said": (said := ask(engine, model, question)), "right": expected in said.lower()}
        for question, expected in KNOWN
    ]
    return {"right": sum(answer["right"] for answer in answers), "texts": len(answers)}, answers


def ask(engine: Engine, model: ModelChoice, question: str, tokens: int = 24) -> str:
    """The engine's greedy answer."""
    body = {"model": engine.served_name, "messages": chat(model, question), "max_tokens": tokens, "temperature": 0}
    answer = post_json(engine.url + "/v1/chat/completions", body)
    return str(answer["choices"][0]["message"]["content"])


def row(values: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Worst and mean gap, equal texts and prompts, as a table shows them; of known answers how many were right."""
    if "right" in values:
        return "no reference here", "–", f"{values['right']} of {values['texts']} known answers", "–"
    return (
        f"{values['worst_gap_nats']:.3f}",
        f"{values['mean_gap_nats']:.5f}",
        f"{values['equal_texts']} of {values['texts']}",
        f"{values['equal_prompts']} of {values['texts']}",
    )
