"""From traces to the figures that people compare.

Names differ between tools, so each is said here once:

- TTFT: request sent → first chunk with text. Includes queueing and prefill.
- TPOT: (last chunk − first chunk) / (tokens − 1), per request. vLLM's benchmark divides (E2E − TTFT).
- ITL: every gap between neighbouring tokens, pooled over requests; only where one chunk is one token.
- Output throughput: tokens of successful requests / (last end − first send), all users together.

A failed request has no latency. It is counted as failed, and its tokens count for nothing.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.errors import LabError
from shared.load import Run

# How far a correct BF16 engine's greedy token may lie below the float32 reference's best, at any step
# (shared.llama.greedy_gap). Measured: BF16 engines stay below 0.15; Q8_0 reaches 0.4, Q4_0 reaches 6.
GAP_LIMIT_NATS = 0.2


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
    cached_tokens: int | None  # of all their prompts; None if the engine doesn't say
    wall_s: float
    output_tok_s: float
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    client_cpu_share: float
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
    cached = [t.cached_tokens for t in good]
    gaps = [gap for t in good for gap in (t.itl_ms or ())]
    return Summary(
        users=run.users,
        requests=len(run.traces),
        failed=len(bad),
        first_error=bad[0].error if bad else None,
        input_tokens=Spread.of(t.input_tokens for t in good),
        output_tokens=tokens,
        cached_tokens=None if None in cached else sum(c for c in cached if c is not None),
        wall_s=round(wall_s, 4),
        output_tok_s=round(tokens / wall_s, 2),
        ttft_ms=Spread.of(t.ttft_ms for t in good),
        tpot_ms=Spread.of(t.tpot_ms for t in good),
        itl_ms=Spread.of(gaps),
        e2e_ms=Spread.of(t.e2e_ms for t in good),
        client_cpu_share=run.client_cpu_share,
        run=run,
    )


def compare(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Ratio of medians of two sets of repeats, or None if their ranges overlap: then there is no winner."""
    if not ours or not theirs:
        return None
    if min(ours) <= max(theirs) and min(theirs) <= max(ours):
        return None
    return statistics.median(ours) / statistics.median(theirs)
