"""Repeats of one figure: their median and range, an interval, and whether two sets of repeats differ."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """The median, the range and the number of values."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """The spread of these values without the unknown ones (None). None if no value is left."""
        known = [v for v in values if v is not None]
        if not known:
            return None
        return cls(round(statistics.median(known), 3), round(min(known), 3), round(max(known), 3), len(known))

    def __str__(self) -> str:
        return ranged(self.median, self.low, self.high)


def ranged(median: float, low: float, high: float) -> str:
    """Text such as "8.31 (7.5–1,234)"; the median alone if low and high agree to three digits."""
    ends = number(low), number(high)
    return number(median) if ends[0] == ends[1] else f"{number(median)} ({ends[0]}–{ends[1]})"


def number(value: float) -> str:
    """The value with three significant digits: 0.0123, 8.31, 104; whole numbers from 1,000 on."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


@dataclass(frozen=True)
class Interval:
    """The median of repeats, and its confidence interval; for fewer than five repeats, their range."""

    median: float
    low: float
    high: float
    n: int
    level: float | None  # the confidence; None if low and high are the range

    def __str__(self) -> str:
        return ranged(self.median, self.low, self.high)


RESAMPLES = 10_000


def interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """The percentile bootstrap of the median; None without values.

    The repeats are resampled with replacement, always with the same seed (Efron, "Bootstrap Methods", Annals of
    Statistics 7, 1979). The interval is the middle `level` of the resamples' medians. It covers only the variation that
    the repeats contain: five rounds within one minute don't show how tomorrow differs. With five repeats it spans their
    range. Fewer than five don't support a confidence, so the range is returned.
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


BEYOND = 10  # values that must lie beyond a percentile, so that it doesn't depend on a few: p99 needs 1000 values


def percentile(values: Sequence[float], share: float) -> float | None:
    """The percentile by nearest rank (`share` is 0.99 for p99); None if fewer than BEYOND values lie beyond it."""
    if not 0 < share < 1:
        raise ValueError(f"share is {share}, but must lie between 0 and 1")
    if round(len(values) * (1 - share), 9) < BEYOND:
        return None
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3)


def clear_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The ratio of the medians, ours / theirs; None (no winner) if the intervals of the two sets overlap.

    Also None if a set has fewer than two values, because one value has no interval.
    """
    ours_at, theirs_at = interval(ours), interval(theirs)
    if ours_at is None or theirs_at is None or min(ours_at.n, theirs_at.n) < 2:
        return None
    if ours_at.low <= theirs_at.high and theirs_at.low <= ours_at.high:
        return None
    return ours_at.median / theirs_at.median
