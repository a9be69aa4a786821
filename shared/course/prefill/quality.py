"""What an engine's precision costs in text: perplexity, and how far its greedy tokens are from the reference's best.

Both use the engine as it is deployed: one prefill for each token. So only short texts are affordable.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.course.prefill.curve import Runner

FIRST = 16  # tokens of a text that are only read: a model can't guess the beginning


@dataclass(frozen=True)
class Quality:
    """Over several texts and prompts."""

    perplexity: float
    predicted_tokens: int
    worst_gap_nats: float
    mean_gap_nats: float
    greedy_tokens: int

    def values(self) -> dict[str, float]:
        return dict(vars(self))


def log_probabilities(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Natural logarithms of the probabilities, without overflow."""
    shifted = logits.astype(np.float64) - logits.max()
    found: np.ndarray[Any, Any] = shifted - math.log(np.exp(shifted).sum())
    return found


def surprise(run: Runner, text: Sequence[int], first: int = FIRST) -> list[float]:
    """−log p of each token of a text from place `first` on, given all tokens before it."""
    return [-float(log_probabilities(run(text[:place]))[text[place]]) for place in range(first, len(text))]


def greedy(run: Runner, prompt: Sequence[int], tokens: int) -> list[int]:
    """The engine's own answer: `tokens` times the likeliest token."""
    ids = list(prompt)
    for _ in range(tokens):
        ids.append(int(run(ids).argmax()))
    return ids[len(prompt) :]


def gaps(reference: Runner, prompt: Sequence[int], answer: Sequence[int]) -> list[float]:
    """For each token of an answer how far it is below the reference's best, in nats, given the answer so far."""
    found = []
    for place, token in enumerate(answer):
        logits = reference([*prompt, *answer[:place]])
        found.append(float(logits.max() - logits[token]))
    return found


def quality(
    run: Runner, reference: Runner, texts: Sequence[Sequence[int]], prompts: Sequence[Sequence[int]], tokens: int
) -> Quality:
    """Perplexity on `texts`, and the gaps of greedy answers of `tokens` tokens to `prompts`."""
    surprises = [one for text in texts for one in surprise(run, text)]
    found = [gap for prompt in prompts for gap in gaps(reference, prompt, greedy(run, prompt, tokens))]
    return Quality(
        math.exp(sum(surprises) / len(surprises)), len(surprises), max(found), sum(found) / len(found), len(found)
    )
