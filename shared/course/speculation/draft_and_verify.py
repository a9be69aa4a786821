"""Draft and verify: several tokens from one pass of the model, with the text that the model alone would write.

A pass over one token and a pass over five read the same weights, so on most machines they take almost the same time.
But the model can only compute what it is given, and the next four tokens don't exist yet. So something cheap guesses
them, and each step

    1. proposes: the proposer drafts up to k tokens, each from a distribution q that it states,
    2. verifies: one pass of the target over the newest token and all drafts gives the target's distribution p after
       each of them,
    3. accepts: each draft is kept with a probability that depends on p and q. The first rejected draft and those
       behind it are dropped; one further token comes from the target, so that no step is without gain,
    4. rolls back: the pass stored keys and values of all drafts, and those of the dropped ones must go.

Accepting with probability min(1, p / q), and drawing from the residual after a rejection, makes each token distributed
as if the target had written it alone (Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
ICML 2023; Chen et al., "Accelerating Large Language Model Decoding with Speculative Sampling", 2023).

In lab 3.3.4 students write the four functions of `Rules`. Distributions are NumPy arrays over the vocabulary. Greedy
decoding is the case in which every distribution has all of its probability on one token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shared.errors import LabError

Array = npt.NDArray[Any]
Function = Callable[..., Any]
NEAR_ONE = 1e-4  # distributions in float32 don't sum to 1 exactly
NEAR_ZERO = 1e-6  # a difference of two equal probabilities in float32 may be a little below 0


class Chance(Protocol):
    """Every random decision of a run is made here, so that a proof can replace it (exactness.py)."""

    def happens(self, probability: float) -> bool:
        """True with this probability."""

    def pick(self, distribution: Array) -> int:
        """A token, drawn from this distribution [vocabulary]."""


class Target(Protocol):
    """The model whose text is wanted, with the KV cache of one sequence."""

    room: int  # the most tokens that the cache holds

    @property
    def length(self) -> int:
        """How many tokens are in the cache."""

    def prefill(self, tokens: Sequence[int]) -> None:
        """Add tokens to the cache, without any distribution."""

    def append(self, tokens: Sequence[int]) -> Array:
        """One pass: add tokens to the cache. Row i is the distribution of the token that follows tokens[i]."""

    def roll_back(self, length: int) -> None:
        """Keep only the first `length` tokens of the cache."""


class Proposer(Protocol):
    """What drafts."""

    def propose(self, tokens: Sequence[int], k: int) -> tuple[list[int], Array]:
        """At most k tokens that may follow `tokens`, and the distribution [drafts, vocabulary] of each draft."""


@dataclass(frozen=True)
class Rules:
    """The four functions of a step. Each is an exercise of lab 3.3.4; its docstring there defines what it returns."""

    accept_probability: Callable[[Array, Array, int], float]
    residual: Callable[[Array, Array], Array]
    verify: Callable[..., list[int]]
    speculate: Callable[..., list[int]]

    @property
    def functions(self) -> tuple[Callable[..., Any], ...]:
        """All four, for `lab.measure(…, uses=rules.functions)`."""
        return self.accept_probability, self.residual, self.verify, self.speculate


@dataclass(frozen=True)
class Step:
    """What one verification had to verify, and how many of it were accepted."""

    drafted: int
    accepted: int


@dataclass(frozen=True)
class Answer:
    """A text, and the steps that made it."""

    tokens: tuple[int, ...]
    steps: tuple[Step, ...]

    @property
    def verifications(self) -> int:
        return len(self.steps)

    @property
    def draft_tokens(self) -> int:
        return sum(step.drafted for step in self.steps)

    @property
    def accepted_draft_tokens(self) -> int:
        return sum(step.accepted for step in self.steps)

    @property
    def drafted_at(self) -> tuple[int, ...]:
        """For positions 1, 2, … of a draft: in how many verifications there was one."""
        longest = max((step.drafted for step in self.steps), default=0)
        return tuple(sum(step.drafted > place for step in self.steps) for place in range(longest))

    @property
    def accepted_at(self) -> tuple[int, ...]:
        """For positions 1, 2, … of a draft: in how many verifications it was accepted, with all before it."""
        return tuple(sum(step.accepted > place for step in self.steps) for place in range(len(self.drafted_at)))


class Dice:
    """Real chance, repeatable by its seed."""

    def __init__(self, seed: int) -> None:
        self.source = np.random.default_rng(seed)

    def happens(self, probability: float) -> bool:
        return bool(self.source.random() < checked_probability(probability))

    def pick(self, distribution: Array) -> int:
        edges = checked_distribution(distribution).cumsum()
        # Scaled to the last edge, a sum of 0.9999999 can't lead to a token beyond the vocabulary.
        return int(np.searchsorted(edges, self.source.random() * edges[-1], side="right"))


def checked_probability(probability: float) -> float:
    """Raises ValueError unless it is a number from 0 to 1."""
    value = float(probability)
    if not 0 <= value <= 1 + NEAR_ONE:
        raise ValueError(f"{value:.4g} is not a probability")
    return min(1.0, value)


def checked_distribution(distribution: Array) -> Array:
    """As float64. Raises ValueError unless its values are probabilities that sum to 1, but for rounding."""
    found = np.asarray(distribution, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"a distribution has one probability for each token, but this array has shape {found.shape}")
    if not (found >= -NEAR_ZERO).all() or abs(found.sum() - 1) > NEAR_ONE:
        raise ValueError(
            f"these are no probabilities: the smallest is {found.min():.4g}, and they sum to {found.sum():.4g}"
        )
    return found.clip(min=0)


def one_hot(tokens: Sequence[int], vocabulary: int) -> Array:
    """For each token the distribution [tokens, vocabulary] that has all of its probability on it."""
    rows = np.zeros((len(tokens), vocabulary), np.float32)
    rows[np.arange(len(tokens)), list(tokens)] = 1
    return rows


class NgramProposer:
    """Drafts what followed the last tokens when they occurred before in this text, found by `look_up(tokens, k)`.

    It has no distribution. It is certain of each draft, so q is 1 for it.
    """

    def __init__(self, look_up: Callable[[Sequence[int], int], Sequence[int]], vocabulary: int) -> None:
        self.look_up, self.vocabulary = look_up, vocabulary

    def propose(self, tokens: Sequence[int], k: int) -> tuple[list[int], Array]:
        drafts = list(self.look_up(list(tokens), k))
        return drafts, one_hot(drafts, self.vocabulary)


def generate(
    rules: Rules,
    target: Target,
    proposer: Proposer,
    prompt: Sequence[int],
    max_tokens: int,
    k: int,
    chance: Chance,
    ends: frozenset[int] = frozenset(),
) -> Answer:
    """Continue the prompt by `max_tokens` tokens with drafts of up to k, on a target with an empty cache.

    ends: tokens that end the text. The answer is cut before the first of them, and later steps are not counted.
    Raises LabError if the cache has no room for prompt and answer, or if the draft is of another vocabulary.
    """
    if len(prompt) + max_tokens > target.room:
        raise LabError(
            f"{len(prompt)} tokens of the prompt and {max_tokens} of the answer don't fit into the target's room of "
            f"{target.room}.",
            "ask for fewer tokens, or make the target with more room",
        )
    steps: list[Step] = []
    ended = False

    def verify(p: Array, q: Array, drafts: Sequence[int]) -> list[int]:
        nonlocal ended
        if q.shape[-1] != p.shape[-1]:
            raise LabError(
                f"The draft has a vocabulary of {q.shape[-1]} tokens, and the target has {p.shape[-1]}.",
                "take a draft with the target's tokenizer",
            )
        new = rules.verify(p, q, drafts, rules.accept_probability, rules.residual, chance)
        if not ended:
            steps.append(Step(len(drafts), len(new) - 1))
        ended = ended or not ends.isdisjoint(new)
        return new

    target.prefill(prompt[:-1])
    tokens = rules.speculate(target, proposer, verify, list(prompt), max_tokens, k)
    end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
    return Answer(tuple(map(int, tokens[:end])), tuple(steps))
