"""Repeats of one figure: their median and extremes, its interval, and whether two sets of them differ."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median, extremes and how many values. No percentile is offered that the count can't carry."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """None if there is no value: unknown is not zero."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        return cls(round(statistics.median(known), 3), round(min(known), 3), round(max(known), 3), len(known))

    def __str__(self) -> str:
        return ranged(self.median, self.low, self.high)


def ranged(median: float, low: float, high: float) -> str:
    """8.31 (7.5–1,234); the value alone where they are all the same to three digits."""
    ends = number(low), number(high)
    return number(median) if ends[0] == ends[1] else f"{number(median)} ({ends[0]}–{ends[1]})"


def number(value: float) -> str:
    """Three significant digits, as a reader wants them: 0.0123, 8.31, 104, 1230."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


@dataclass(frozen=True)
class Interval:
    """The median of repeats, and where the true one lies with this confidence; of fewer than five, their range."""

    median: float
    low: float
    high: float
    n: int
    level: float | None  # None: it is the range

    def __str__(self) -> str:
        return ranged(self.median, self.low, self.high)


RESAMPLES = 10_000


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Percentile bootstrap of the median (Efron, "Bootstrap Methods", Annals of Statistics 7, 1979); None of nothing.

    Repeats are resampled with replacement, always with the same seed, and the middle `level` of the resamples'
    medians is the interval. It is honest only about what the repeats hold: five rounds within one minute know nothing
    of tomorrow. With five it spans their range; fewer than five can't carry a confidence at all.
    """
    if not values:
        return None
    middle = statistics.median(values)
    if len(values) < 5:
        return Interval(middle, min(values), max(values), len(values), None)
    from scipy import stats  # takes more than a second to import

    found = stats.bootstrap(
        (values,), np.median, n_resamples=RESAMPLES, confidence_level=level, method="percentile", rng=0
    ).confidence_interval
    return Interval(middle, float(found.low), float(found.high), len(values), level)


BEYOND = 10  # values that must lie beyond a percentile, so that it isn't the luck of a few: p99 needs 1000


def percentile(values: Sequence[float], share: float) -> float | None:
    """The percentile (0.99 for p99, nearest rank), or None where the sample can't carry it."""
    if not 0 < share < 1:
        raise ValueError(f"a percentile of {share}")
    if round(len(values) * (1 - share), 9) < BEYOND:
        return None
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3)


def clear_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Ratio of medians of two sets of repeats, or None for no winner: their intervals overlap.

    One value has no interval, so it neither wins nor loses.
    """
    ours_at, theirs_at = interval(ours), interval(theirs)
    if ours_at is None or theirs_at is None or min(ours_at.n, theirs_at.n) < 2:
        return None
    if ours_at.low <= theirs_at.high and theirs_at.low <= ours_at.high:
        return None
    return ours_at.median / theirs_at.median
