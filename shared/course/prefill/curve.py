"""The prefill curve: how long each runner takes for prompts of several lengths, in interleaved rounds.

A round times every runner at every length once, in an order that is drawn anew. So a drift of the machine hits all of
them. Prompts are random token ids: no cache can help, and every runner gets the same ones.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from shared.metrics.spread import Interval, interval

QUICK, FULL = (16, 64, 128, 256, 512), (16, 64, 128, 256, 512, 1024, 2048, 4096)
ROUNDS = {"quick": 3, "full": 7}  # the quick size records speeds, and doesn't judge them
SERVER_ROUNDS = {"quick": 3, "full": 5}
LONG, LONG_ROUNDS = 2048, 3  # from this many tokens on a prefill takes seconds, and rounds are few

Times = Mapping[str, Mapping[int, Sequence[float]]]  # runner → prompt length → ms of each round


class Timed(Protocol):
    """What can be put on a prefill curve."""

    def time_s(self, ids: Sequence[int], repeats: int = 1) -> list[float]:
        """The seconds that each of several prefills of this prompt takes."""
        ...


class Runner(Timed, Protocol):
    """What computes a prefill: an engine, or torch."""

    def __call__(self, ids: Sequence[int]) -> np.ndarray[Any, Any]:
        """The logits [vocabulary] after a prompt."""
        ...


def random_ids(tokens: int, vocabulary: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(vocabulary) for _ in range(tokens)]


def measure(
    runners: Mapping[str, Timed], lengths: Sequence[int], rounds: int, vocabulary: int, seed: int = 0
) -> dict[str, dict[int, list[float]]]:
    """Milliseconds of a prefill by runner, length and round. Each runner first computes every length once.

    Long prompts (LONG) have LONG_ROUNDS rounds at most.
    """
    times: dict[str, dict[int, list[float]]] = {name: {n: [] for n in lengths} for name in runners}
    for runner in runners.values():
        for n in lengths:
            runner.time_s(random_ids(n, vocabulary, seed))
    draw = random.Random(seed)
    for number in range(rounds):
        pairs = [(name, n) for name in runners for n in lengths if number < LONG_ROUNDS or n < LONG]
        draw.shuffle(pairs)
        for name, n in pairs:
            [took_s] = runners[name].time_s(random_ids(n, vocabulary, seed + 1 + number))
            times[name][n].append(round(took_s * 1e3, 3))
    return times


def values(times: Times) -> dict[str, Any]:
    """The curve as a ledger stores it: keys are texts."""
    return {name: {str(n): list(rounds) for n, rounds in course.items()} for name, course in times.items()}


def restored(stored: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[int, list[float]]]:
    return {name: {int(n): list(rounds) for n, rounds in course.items()} for name, course in stored.items()}


def medians(course: Mapping[int, Sequence[float]]) -> dict[int, Interval]:
    """The median of each length with its interval."""
    return {n: found for n in sorted(course) if (found := interval(list(course[n])))}


@dataclass(frozen=True)
class Against:
    """One runner against another at one length."""

    tokens: int
    times: float  # how often it fits into the other's time: above 1 it is faster
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether one of the two won: the interval doesn't contain 1."""
        return not self.low <= 1 <= self.high

    def __str__(self) -> str:
        return f"{self.times:.2f}× ({self.low:.2f}–{self.high:.2f})" + ("" if self.clear else ", no winner")


def against(times: Times, ours: str, theirs: str, tokens: int) -> Against:
    """The ratio theirs / ours of each round, as a median with its interval. A round's two times are neighbours."""
    pairs = zip(times[ours][tokens], times[theirs][tokens], strict=True)
    ratios = [their / our for our, their in pairs]
    found = interval(ratios)
    assert found
    return Against(tokens, found.median, found.low, found.high)


def best(times: Times, candidates: Sequence[str], baseline: str, tokens: int) -> tuple[str, Against]:
    """The candidate with the largest gain over the baseline at this length, and its gain."""
    gains = {name: against(times, name, baseline, tokens) for name in candidates}
    return max(gains.items(), key=lambda one: one[1].times)


@dataclass(frozen=True)
class Fit:
    """TTFT without the queue: a constant, a time per token, and a time per token squared, in ms."""

    fixed_ms: float
    token_ms: float
    token2_ms: float

    def ms(self, tokens: int) -> float:
        return self.fixed_ms + self.token_ms * tokens + self.token2_ms * tokens**2

    def errors_percent(self, measured: Mapping[int, Sequence[float]]) -> dict[int, Interval]:
        """How far the fit is off at lengths that it has not seen: predicted / measured − 1, with the interval."""
        return {
            n: found
            for n, rounds in measured.items()
            if (found := interval([100 * (self.ms(n) / one - 1) for one in rounds]))
        }
