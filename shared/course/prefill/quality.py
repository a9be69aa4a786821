"""What an engine's precision costs in text: perplexity, and how far its greedy tokens are from the reference's best.

Both use the engine as it is deployed: one prefill for each token. So only short texts are affordable.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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


def compared(
    runners: Mapping[str, Runner],
    reference: Runner,
    texts: Sequence[Sequence[int]],
    prompts: Sequence[Sequence[int]],
    tokens: int,
    between: Callable[[], None],
) -> dict[str, Quality]:
    """Each runner's perplexity on `texts`, and the gaps of its greedy answers of `tokens` tokens to `prompts`.

    All runners take a text or a prompt before the next one begins, and `between` is called after each.
    """
    surprises: dict[str, list[float]] = {name: [] for name in runners}
    below: dict[str, list[float]] = {name: [] for name in runners}
    for text in texts:
        for name, run in runners.items():
            surprises[name] += surprise(run, text)
        between()
    for prompt in prompts:
        for name, run in runners.items():
            below[name] += gaps(reference, prompt, greedy(run, prompt, tokens))
        between()
    return {name: summed_up(surprises[name], below[name]) for name in runners}


def summed_up(surprises: Sequence[float], below: Sequence[float]) -> Quality:
    """The quality of one runner from the surprise of each token of the texts, and the gap of each of its own tokens."""
    return Quality(
        math.exp(sum(surprises) / len(surprises)), len(surprises), max(below), sum(below) / len(below), len(below)
    )
