"""The text of the student's engine, in three kinds of batches, each token held against the reference model."""

from collections.abc import Mapping, Sequence
from typing import Any

from shared.course.batching.mini_engine import MiniEngine
from shared.course.batching.mini_load import generate
from shared.load.prompts import chat
from shared.models.choice import ModelChoice
from shared.models.llama import Llama, greedy_gap

Gaps = dict[str, list[list[float]]]  # by kind of batch: for each answer the gap of each token, in nats


def in_three_batches(
    engines: Mapping[str, MiniEngine], reference: Llama, small: ModelChoice, questions: Sequence[str], tokens: int
) -> tuple[dict[str, Any], Gaps]:
    """Answer the questions alone, together, and together with too few blocks.

    engines: one for each of "alone", "together" and "squeezed". reference: the same model in float32; it computes one
    sequence at a time. Returns the values for the ledger, and the gaps as raw data.
    """
    llama = engines["alone"].kv.llama
    chats = [chat(small, question) for question in questions]
    ids = [llama.prompt_ids(one) for one in chats]
    answers = {
        "alone": [generate(engines["alone"], [one], tokens)[0] for one in ids],
        "together": generate(engines["together"], ids, tokens),
        "squeezed": generate(engines["squeezed"], ids, tokens),
    }
    gaps = {
        batch: [greedy_gap(reference, asked, text) for asked, text in zip(chats, texts, strict=True)]
        for batch, texts in answers.items()
    }
    worst = {batch: max(max(gap) for gap in found) for batch, found in gaps.items()}
    found = {
        "worst_gap_nats": max(worst.values()),
        "preemptions": engines["squeezed"].preemptions,
        "questions": len(chats),
        "worst_by_batch_nats": worst,
        "texts_as_alone": {
            batch: sum(one == other for one, other in zip(texts, answers["alone"], strict=True))
            for batch, texts in answers.items()
        },
        "a_squeezed_answer": llama.tokenizer.decode(answers["squeezed"][0]),
    }
    return found, gaps
