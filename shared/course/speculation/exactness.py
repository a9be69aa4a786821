"""The proof that drafting changes nothing but time: every path of a run, with its probability.

A model with three tokens is small enough to be followed completely. `explore` runs the student's loop once for each
sequence of decisions that chance can take: which tokens are drafted, which are accepted, which replace them. The
probabilities of a path's decisions multiply, and those of all paths to the same text add up. The sum must be the
probability with which the target alone writes this text. No sampling is involved, and the only error is rounding.

`explore` can also send a number of samples down the same tree. At each decision the samples that arrive are divided at
random in its proportions. That has the same distribution as running the loop anew for every sample, but 200,000 runs
cost as much as one walk through the tree. A chi-square test compares their shares with the target's.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.course.speculation.draft_and_verify import (
    Answer,
    Array,
    Chance,
    Function,
    Rules,
    checked_distribution,
    checked_probability,
    generate,
)
from shared.report.table import Table

PROMPT = (0, 2, 1, 1)
VOCABULARY = 3


@dataclass(frozen=True)
class ToyModel:
    """A model with a few tokens. Its distribution depends on every token before, so no error in the cache is hidden."""

    seed: int
    vocabulary: int = VOCABULARY

    def after(self, tokens: Sequence[int]) -> Array:
        """The distribution of the token that follows these."""
        return drawn(self.seed, self.vocabulary, tuple(map(int, tokens)))


@functools.cache
def drawn(seed: int, vocabulary: int, tokens: tuple[int, ...]) -> Array:
    return np.random.default_rng([seed, *tokens]).dirichlet(np.full(vocabulary, 2.0))


class ToyTarget:
    """A toy model as the target of the loop. Its cache is the list of its tokens."""

    def __init__(self, model: ToyModel, room: int) -> None:
        self.model, self.room = model, room
        self.cached: list[int] = []

    @property
    def length(self) -> int:
        return len(self.cached)

    def prefill(self, tokens: Sequence[int]) -> None:
        self.append(tokens)

    def append(self, tokens: Sequence[int]) -> Array:
        before = self.length
        self.cached += map(int, tokens)
        if self.length > self.room:
            raise ValueError(f"the cache has room for {self.room} tokens, but {self.length} are needed")
        return np.array([self.model.after(self.cached[:end]) for end in range(before + 1, self.length + 1)])

    def roll_back(self, length: int) -> None:
        if not 0 <= length <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens and can't be rolled back to {length}")
        del self.cached[length:]


class ToyProposer:
    """Drafts from a second toy model, which knows nothing of the first."""

    def __init__(self, model: ToyModel, chance: Chance) -> None:
        self.model, self.chance = model, chance

    def propose(self, tokens: Sequence[int], k: int) -> tuple[list[int], Array]:
        drafts: list[int] = []
        rows: list[Array] = []
        for _ in range(k):
            rows.append(self.model.after([*tokens, *drafts]))
            drafts.append(self.chance.pick(rows[-1]))
        return drafts, np.array(rows).reshape(len(rows), self.model.vocabulary)


class Branches:
    """A Chance that follows given decisions, and then the first possible one, noting the others for later runs."""

    def __init__(self, decisions: Sequence[int], weight: float, share: Callable[[float, Array], Array]) -> None:
        self.decisions, self.weight, self.share = list(decisions), weight, share
        self.made = 0
        self.others: list[tuple[list[int], float]] = []  # the decisions that lead there, and the weight

    def happens(self, probability: float) -> bool:
        value = checked_probability(probability)
        return self.pick(np.array([1 - value, value])) == 1

    def pick(self, distribution: Array) -> int:
        if self.made == len(self.decisions):
            shares = self.share(self.weight, checked_distribution(distribution))
            first, *others = np.flatnonzero(shares)
            self.others += [([*self.decisions, int(other)], shares[other].item()) for other in others]
            self.decisions.append(int(first))
            self.weight = shares[first].item()
        self.made += 1
        return self.decisions[self.made - 1]


def explore(run: Callable[[Chance], Any], samples: int = 0, seed: int = 0) -> list[tuple[Any, float]]:
    """Run once for each path of decisions. Returns what each run returned, with the path's probability.

    With `samples`, so many samples are divided over the paths at random, and each path comes with its number of
    samples; paths without any are not run.
    """
    source = np.random.default_rng(seed)

    def share(weight: float, distribution: Array) -> Array:
        if not samples:
            return np.asarray(weight * distribution)
        return source.multinomial(int(weight), distribution / distribution.sum())

    todo: list[tuple[list[int], float]] = [([], samples or 1.0)]
    found = []
    while todo:
        branches = Branches(*todo.pop(), share)
        outcome = run(branches)
        todo += branches.others
        found.append((outcome, branches.weight))
    return found


def prove(
    rules: Rules, samples: int = 200_000, tokens: int = 3, k: int = 2, seed: int = 0
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Follow the loop with these rules on a vocabulary of three tokens, down every path and with random samples.

    Returns (values, raw). values: the number of paths, the largest difference between a text's probability and the
    target's, the chi-square test of the samples (its p-value is the probability of a deviation as large as this if the
    distributions are equal), and the mean number of verifications of a run. raw: for each text of the target its
    probability, the sum over all paths, and the number of samples.
    """
    target_model, draft_model = ToyModel(1), ToyModel(2)

    def run(chance: Chance) -> Answer:
        # More room than the text needs, so that a loop without roll-back can be followed to its end.
        target = ToyTarget(target_model, len(PROMPT) + tokens * (k + 1))
        return generate(rules, target, ToyProposer(draft_model, chance), PROMPT, tokens, k, chance)

    paths, sampled = explore(run), explore(run, samples, seed)
    texts = list(itertools.product(range(VOCABULARY), repeat=tokens))
    expected = {
        text: math.prod(float(target_model.after([*PROMPT, *text[:i]])[token]) for i, token in enumerate(text))
        for text in texts
    }
    summed: Counter[tuple[int, ...]] = Counter()
    counts: Counter[tuple[int, ...]] = Counter()
    for answer, probability in paths:
        summed[answer.tokens] += probability  # type: ignore[assignment]
    for answer, count in sampled:
        counts[answer.tokens] += int(count)
    chi_square, p_value = chi_square_test([counts[text] for text in texts], list(expected.values()))
    values = {
        "paths": len(paths),
        "largest_difference": max(abs(summed[text] - expected[text]) for text in texts),
        "samples": samples,
        "chi_square": chi_square,
        "degrees_of_freedom": len(texts) - 1,
        "p_value": p_value,
        "verifications": sum(answer.verifications * probability for answer, probability in paths),
    }
    raw = {
        "texts": texts,
        "target": list(expected.values()),
        "summed": [summed[text] for text in texts],
        "counts": [counts[text] for text in texts],
    }
    return values, raw


def chi_square_test(counts: Sequence[int], expected: Sequence[float]) -> tuple[float, float]:
    """Pearson's chi-square of counts against probabilities, and its p-value."""
    from scipy import stats  # takes more than a second to import

    total = sum(counts)
    chi_square = sum((n - total * share) ** 2 / (total * share) for n, share in zip(counts, expected, strict=True))
    return chi_square, float(stats.chi2.sf(chi_square, len(counts) - 1))


def table(values: Mapping[str, Any], raw: Mapping[str, Any]) -> Table:
    """Each text's probability under the target, beside the sum over all paths and the share of the samples."""
    columns = zip(raw["texts"], raw["target"], raw["summed"], raw["counts"], strict=True)
    rows = [
        (" ".join(map(str, text)), f"{target:.6f}", f"{summed:.6f}", f"{count / values['samples']:.6f}")
        for text, target, summed, count in columns
    ]
    return Table(
        f"All {len(rows)} texts of {len(rows[0][0].split())} tokens: {values['paths']} paths, "
        f"{values['samples']:,} samples",
        ("text", "target alone", "summed over all paths", "share of the samples"),
        rows,
    )


def summary_table(proofs: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row for each proof, given as {rules: values of prove}."""
    return Table(
        "The distribution of the text against the target's",
        ("rules", "largest difference, all paths", "chi-square", "p-value", "mean verifications"),
        [
            (
                name,
                f"{one['largest_difference']:.1e}",
                f"{one['chi_square']:.0f} ({one['degrees_of_freedom']} degrees of freedom)",
                f"{one['p_value']:.3f}",
                f"{one['verifications']:.2f}",
            )
            for name, one in proofs.items()
        ],
    )


# Rules that look right. Each takes the place of the student's function of the same name.
def greedy_residual(p: Array, q: Array) -> Array:
    best: Array = np.eye(len(p))[int(p.argmax())]
    return best


def target_again(p: Array, q: Array) -> Array:
    return p


def ratio_upside_down(p: Array, q: Array, token: int) -> float:
    return min(1.0, float(q[token] / p[token]))


def if_likelier(p: Array, q: Array, token: int) -> float:
    return float(p[token] >= q[token])


def row_behind(
    p: Array, q: Array, drafts: Sequence[int], accept: Function, residual: Function, chance: Chance
) -> list[int]:
    for place, token in enumerate(drafts):
        if not chance.happens(accept(p[place + 1], q[place], token)):
            return [*drafts[:place], chance.pick(residual(p[place + 1], q[place]))]
    return [*drafts, chance.pick(p[-1])]


def bonus_of_the_draft(
    p: Array, q: Array, drafts: Sequence[int], accept: Function, residual: Function, chance: Chance
) -> list[int]:
    for place, token in enumerate(drafts):
        if not chance.happens(accept(p[place], q[place], token)):
            return [*drafts[:place], chance.pick(residual(p[place], q[place]))]
    return [*drafts, chance.pick(q[-1] if len(q) else p[-1])]


def without_bonus(
    p: Array, q: Array, drafts: Sequence[int], accept: Function, residual: Function, chance: Chance
) -> list[int]:
    new: list[int] = []
    for place, token in enumerate(drafts):
        if not chance.happens(accept(p[place], q[place], token)):
            return [*new, chance.pick(residual(p[place], q[place]))]
        new.append(token)
    return new or [chance.pick(p[0])]


def without_roll_back(
    target: Any, proposer: Any, verify: Function, prompt: Sequence[int], max_tokens: int, k: int
) -> list[int]:
    tokens = list(prompt)
    while left := len(prompt) + max_tokens - len(tokens):
        drafts, q = proposer.propose(tokens, min(k, left - 1))
        tokens += verify(target.append([tokens[-1], *drafts]), q, drafts)
    return tokens[len(prompt) :]


BROKEN: dict[str, dict[str, Function]] = {
    "the target's best token in place of the residual": {"residual": greedy_residual},
    "the target's distribution in place of the residual": {"residual": target_again},
    "q / p in place of p / q": {"accept_probability": ratio_upside_down},
    "a draft is accepted if p ≥ q, else rejected": {"accept_probability": if_likelier},
    "the bonus token is drawn from the draft's distribution": {"verify": bonus_of_the_draft},
    "each draft is compared with the row of p behind its own": {"verify": row_behind},
    "no bonus token": {"verify": without_bonus},
    "no roll-back": {"speculate": without_roll_back},
}
