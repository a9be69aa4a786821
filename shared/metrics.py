"""From traces to the figures that people compare.

Names differ between tools, so each is said here once:

- TTFT: request sent → first chunk with text. Includes queueing and prefill.
- TPOT: (last chunk − first chunk) / (tokens − 1), per request. vLLM's benchmark divides (E2E − TTFT).
- ITL: every gap between neighbouring tokens, pooled over requests; only where one chunk is one token.
- Output throughput: tokens of successful requests / (last end − first send), all users together.

A failed request has no latency. It is counted as failed, and its tokens count for nothing.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.errors import LabError
from shared.load import Run

# How far a correct BF16 engine's greedy tokens may lie below the float32 reference's best
# (shared.llama.greedy_gap). At one step: the small model's best logit is mostly between 16 and 42, where
# BF16 numbers lie 0.125 and, from 32 on, 0.25 apart, so rounding two logits alone can turn a near-tie of
# that size, and thirty layers of rounding add to it. On average: such near-ties are rare. Measured, 12
# answers of up to 48 tokens, worst / mean: BF16 engines at most 0.26 / 0.0016 (on a processor without BF16
# instructions), Q4_0 9.1 / 0.29.
# Q8_0, at 0.19 / 0.0030, can't be told from rounding: its weights are known by their hash.
GAP_LIMIT_NATS = 0.5
MEAN_GAP_LIMIT_NATS = 0.005


def gap_fault(gaps: Sequence[float]) -> str | None:
    """What is wrong with the greedy gaps of a few hundred tokens, None if a correct BF16 engine may have them."""
    worst, mean = max(gaps), statistics.fmean(gaps)
    if worst > GAP_LIMIT_NATS:
        return f"a greedy token lies {worst:.2f} nats below the reference's best (limit {GAP_LIMIT_NATS})"
    if mean > MEAN_GAP_LIMIT_NATS:
        return f"greedy tokens lie {mean:.4f} nats below the reference's best on average (limit {MEAN_GAP_LIMIT_NATS})"
    return None


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
        return f"{number(self.median)} ({number(self.low)}–{number(self.high)})"


def number(value: float) -> str:
    """Three significant digits, as a reader wants them: 0.0123, 8.31, 104, 1230."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


@dataclass(frozen=True)
class Summary:
    """One run in figures. `run` keeps what they follow from."""

    users: int
    requests: int
    failed: int
    first_error: str | None
    input_tokens: Spread | None
    output_tokens: int  # of all successful requests, by the engine's own count
    cached_tokens: int | None  # of all prompts, by `usage` or else by the engine's counter; None if neither says
    wall_s: float
    output_tok_s: float
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    client_cpu_share: float
    counted: dict[str, float]  # by how much the engine's own counters grew
    run: Run = field(repr=False)

    def values(self) -> dict[str, Any]:
        """The figures alone, as they go into the ledger."""
        plain = asdict(self)
        del plain["run"]
        return plain


def summarise(run: Run) -> Summary:
    """The figures of one run. Raises LabError if a successful request lacks a token count."""
    good = [t for t in run.traces if t.error is None]
    bad = [t for t in run.traces if t.error is not None]
    if not good:
        raise LabError(f"No request succeeded; the first failed with: {bad[0].error if bad else 'none was sent'}.")
    counts = [t.output_tokens for t in good]
    if None in counts:
        raise LabError("The engine reported no `usage`, so its tokens are not known.", "chunks are not tokens")
    wall_s = (max(t.end_ns for t in run.traces) - min(t.sent_ns for t in run.traces)) / 1e9
    tokens = sum(c for c in counts if c is not None)
    told = [t.cached_tokens for t in good if t.cached_tokens is not None]
    counter = run.counted.get("cached_tokens")
    by_counter = None if counter is None else int(counter)
    gaps = [gap for t in good for gap in (t.itl_ms or ())]
    return Summary(
        users=run.users,
        requests=len(run.traces),
        failed=len(bad),
        first_error=bad[0].error if bad else None,
        input_tokens=Spread.of(t.input_tokens for t in good),
        output_tokens=tokens,
        cached_tokens=sum(told) if len(told) == len(good) else by_counter,
        wall_s=round(wall_s, 4),
        output_tok_s=round(tokens / wall_s, 2),
        ttft_ms=Spread.of(t.ttft_ms for t in good),
        tpot_ms=Spread.of(t.tpot_ms for t in good),
        itl_ms=Spread.of(gaps),
        e2e_ms=Spread.of(t.e2e_ms for t in good),
        client_cpu_share=run.client_cpu_share,
        counted=run.counted,
        run=run,
    )


def prompt_tokens(values: Mapping[str, Any]) -> float:
    """About how many prompt tokens the successful requests of a recorded run had: their median times their number."""
    return float(values["input_tokens"]["median"] * (values["requests"] - values["failed"]))


def compare(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Ratio of medians of two sets of repeats, or None for no winner: their ranges overlap.

    One value has no range, so it neither wins nor loses.
    """
    if min(len(ours), len(theirs)) < 2:
        return None
    if min(ours) <= max(theirs) and min(theirs) <= max(ours):
        return None
    return statistics.median(ours) / statistics.median(theirs)
