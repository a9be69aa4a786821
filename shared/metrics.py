"""From traces to the figures that people compare.

Names differ between tools, so each is said here once:

- TTFT: request sent → first chunk with text. Includes queueing and prefill.
- TPOT: (last chunk − first chunk) / (tokens − 1), per request. vLLM's benchmark divides (E2E − TTFT).
- ITL: every gap between neighbouring tokens, pooled over requests; only where one chunk is one token.
- Output throughput: tokens of successful requests / (last end − first send), all users together. Total throughput
  counts their prompts' tokens as well.
- From the schedule: the same latencies, from the moment at which an open loop's schedule wanted the request.
- Goodput: successful requests that kept every limit of a stated SLO, per second.
- Prefill rate: prompt tokens that no cache supplied / TTFT, per request. A lower bound of what the engine can do, as
  TTFT holds waiting as well; where the engine times its own prefill, that stands beside it.

Other tools' conventions are in shared.conventions. A failed request has no latency. It is counted as failed, and its
tokens count for nothing: failing fast makes no engine look fast.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from shared.client import Trace
from shared.errors import LabError
from shared.load import Run
from shared.prompts import OPENING_TOKENS

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


MOST_RESAMPLES = 10_000


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
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), (MOST_RESAMPLES, len(values)))
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(np.median(drawn, axis=1), (tail, 100 - tail))
    return Interval(middle, float(low), float(high), len(values), level)


BEYOND = 10  # values that must lie beyond a percentile, so that it isn't the luck of a few: p99 needs 1000


def percentile(values: Sequence[float], share: float) -> float | None:
    """The percentile (0.99 for p99, nearest rank), or None where the sample can't carry it."""
    if not 0 < share < 1:
        raise ValueError(f"a percentile of {share}")
    if round(len(values) * (1 - share), 9) < BEYOND:
        return None
    return round(sorted(values)[math.ceil(share * len(values)) - 1], 3)


@dataclass(frozen=True)
class Slo:
    """Limits that a request must keep to be a good one; None: no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def kept(self, trace: Trace) -> bool:
        """Whether the request succeeded and kept them all. What isn't known has not been kept."""
        if trace.error is not None:
            return False
        late = late_ms(trace)  # in an open loop a user's clock runs from the schedule
        seen = (
            (self.ttft_ms, None if trace.ttft_ms is None else trace.ttft_ms + late),
            (self.tpot_ms, trace.tpot_ms),
            (self.e2e_ms, trace.e2e_ms + late),
        )
        return all(limit is None or (value is not None and value <= limit) for limit, value in seen)


def late_ms(trace: Trace) -> float:
    """How much later than scheduled it was sent; 0 of a closed loop."""
    return 0.0 if trace.scheduled_ns is None else (trace.sent_ns - trace.scheduled_ns) / 1e6


def goodput_per_s(run: Run, slo: Slo) -> float:
    """Requests a second that kept the SLO."""
    return sum(slo.kept(t) for t in run.traces) / wall_s(run)


def wall_s(run: Run) -> float:
    """From the first request sent (or scheduled) to the last answer's end, failed ones included."""
    begin = min(t.sent_ns if t.scheduled_ns is None else min(t.sent_ns, t.scheduled_ns) for t in run.traces)
    return (max(t.end_ns for t in run.traces) - begin) / 1e9


def prefill_tok_s(trace: Trace) -> float | None:
    """Prompt tokens that no cache supplied, per second until the first token; None where the engine didn't count."""
    if trace.input_tokens is None or trace.cached_tokens is None or not trace.ttft_ms:
        return None
    return (trace.input_tokens - trace.cached_tokens) / trace.ttft_ms * 1e3


def engine_prefill_tok_s(trace: Trace) -> float | None:
    """Prefill rate by the engine's own clock: llama.cpp's `timings`, Ollama's durations; None of other engines."""
    said = trace.timings or {}
    if said.get("prompt_ms"):  # llama.cpp: tokens that it computed, in ms
        return float(said["prompt_n"] / said["prompt_ms"] * 1e3)
    if said.get("prompt_eval_duration"):  # Ollama: in ns
        return float(said["prompt_eval_count"] / said["prompt_eval_duration"] * 1e9)
    return None


def cache_fault(cached: int | None, prompt: int, requests: int) -> str | None:
    """What is wrong with a run whose prompts share nothing but the template's opening: None under 1 % beyond that."""
    if cached is None:
        return "the engine did not say how many prompt tokens came from its cache"
    if cached - OPENING_TOKENS * requests < 0.01 * prompt:
        return None
    return f"a prefix cache supplied {cached} of {prompt} prompt tokens: what looks like speed is memory"


LAG_LIMIT_MS = 10.0
LAG_LIMIT_OF_TTFT = 0.1
CPU_SHARE_LIMIT = 0.8


def bottleneck(run: Run, ttft_ms: float | None) -> str | None:
    """Why the client itself may have been what was measured; None if it had time to spare.

    A loop that wakes up late stamps late, by up to as much. That is harmless where it is short against what is
    measured: more than 10 ms and a tenth of the median TTFT is not. Nor is a core that was busy for four fifths.
    """
    if run.client_cpu_share > CPU_SHARE_LIMIT:
        return f"the client kept a core {100 * run.client_cpu_share:.0f} % busy"
    lag = (run.client_lag_ms or {}).get("p99", 0.0)
    if lag > LAG_LIMIT_MS and lag > LAG_LIMIT_OF_TTFT * (ttft_ms or 0):
        return f"the client's event loop woke up late, by {lag:.0f} ms at p99"
    return None


OTHERS_SHARE_LIMIT = 0.1  # of the machine's cores; a browser that draws JupyterLab on the same two reached 0.11


def disturbance(run: Run) -> str | None:
    """Why other programs may have slowed the engine down; None if they took little, or that isn't known."""
    if run.others_cpu_share is None or run.others_cpu_share <= OTHERS_SHARE_LIMIT:
        return None
    return f"other programs took {100 * run.others_cpu_share:.0f} % of the machine's cores meanwhile"


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
    total_tok_s: float | None
    ttft_ms: Spread | None
    tpot_ms: Spread | None
    itl_ms: Spread | None
    e2e_ms: Spread | None
    ttft_p99_ms: float | None  # None where there are too few requests for it
    itl_p99_ms: float | None
    e2e_p99_ms: float | None
    scheduled_ttft_ms: Spread | None  # from the schedule; None of a closed loop
    scheduled_e2e_ms: Spread | None
    scheduled_e2e_p99_ms: float | None
    prefill_tok_s: Spread | None
    engine_prefill_tok_s: Spread | None
    queue_ms: float | None  # the mean that the engine's own metrics tell
    cache_fault: str | None  # why a prefix cache helped where none was to; None where it didn't, or was meant to
    client_cpu_share: float
    client_lag_ms: Mapping[str, float] | None
    client_bottleneck: str | None
    others_cpu_share: float | None  # of all the machine's cores
    disturbed: str | None  # why other programs may have slowed the engine down
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
    wall = wall_s(run)
    tokens = sum(c for c in counts if c is not None)
    told = [t.cached_tokens for t in good if t.cached_tokens is not None]
    counter = run.counted.get("cached_tokens")
    by_counter = None if counter is None else int(counter)
    gaps = [gap for t in good for gap in (t.itl_ms or ())]
    inputs = [t.input_tokens for t in good if t.input_tokens is not None]
    ttft = Spread.of(t.ttft_ms for t in good)
    open_loop = [t for t in good if t.scheduled_ns is not None]
    e2e_scheduled = [t.e2e_ms + late_ms(t) for t in open_loop]
    queued = run.counted.get("queued_requests")
    cached = sum(told) if len(told) == len(good) else by_counter
    return Summary(
        users=run.users,
        requests=len(run.traces),
        failed=len(bad),
        first_error=bad[0].error if bad else None,
        input_tokens=Spread.of(t.input_tokens for t in good),
        output_tokens=tokens,
        cached_tokens=cached,
        wall_s=round(wall, 4),
        output_tok_s=round(tokens / wall, 2),
        total_tok_s=round((tokens + sum(inputs)) / wall, 2) if len(inputs) == len(good) else None,
        ttft_ms=ttft,
        tpot_ms=Spread.of(t.tpot_ms for t in good),
        itl_ms=Spread.of(gaps),
        e2e_ms=Spread.of(t.e2e_ms for t in good),
        ttft_p99_ms=percentile([t.ttft_ms for t in good if t.ttft_ms is not None], 0.99),
        itl_p99_ms=percentile(gaps, 0.99),
        e2e_p99_ms=percentile([t.e2e_ms for t in good], 0.99),
        scheduled_ttft_ms=Spread.of(t.ttft_ms + late_ms(t) for t in open_loop if t.ttft_ms is not None),
        scheduled_e2e_ms=Spread.of(e2e_scheduled),
        scheduled_e2e_p99_ms=percentile(e2e_scheduled, 0.99),
        prefill_tok_s=Spread.of(prefill_tok_s(t) for t in good),
        engine_prefill_tok_s=Spread.of(engine_prefill_tok_s(t) for t in good),
        queue_ms=round(1e3 * run.counted.get("queue_s", 0.0) / queued, 3) if queued else None,
        cache_fault=None if run.load.get("about_cache") else cache_fault(cached, sum(inputs), len(good)),
        client_cpu_share=run.client_cpu_share,
        client_lag_ms=run.client_lag_ms,
        client_bottleneck=bottleneck(run, ttft.median if ttft else None),
        others_cpu_share=run.others_cpu_share,
        disturbed=disturbance(run),
        counted=run.counted,
        run=run,
    )


def prompt_tokens(values: Mapping[str, Any]) -> float:
    """About how many prompt tokens the successful requests of a recorded run had: their median times their number."""
    return float(values["input_tokens"]["median"] * (values["requests"] - values["failed"]))


def compare(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Ratio of medians of two sets of repeats, or None for no winner: their intervals overlap.

    One value has no interval, so it neither wins nor loses.
    """
    ours_at, theirs_at = interval(ours), interval(theirs)
    if ours_at is None or theirs_at is None or min(ours_at.n, theirs_at.n) < 2:
        return None
    if ours_at.low <= theirs_at.high and theirs_at.low <= ours_at.high:
        return None
    return ours_at.median / theirs_at.median


KNEE_AT_LEAST = 4  # points, below which a curve has no shape


def knee(points: Mapping[float, float]) -> float | None:
    """The load beyond which more load hardly brings more: where {load: throughput} bends most; None if it doesn't.

    Kneedle (Satopää, Albrecht, Irwin, Raghavan, "Finding a 'Kneedle' in a Haystack", ICDCSW 2011), offline, with
    sensitivity 1, for a rising curve that flattens: both axes are scaled to 0…1, and the knee is where the curve lies
    furthest above its diagonal, if it comes back towards the diagonal by more than the mean step of load afterwards.
    """
    loads = sorted(points)
    if len(loads) < KNEE_AT_LEAST:
        return None
    x, y = np.array(loads, float), np.array([points[load] for load in loads], float)
    if y.max() == y.min():
        return None
    x, y = (x - x[0]) / (x[-1] - x[0]), (y - y.min()) / (y.max() - y.min())
    above = y - x
    best = int(above.argmax())
    back = above[best] - float(np.diff(x).mean())
    return loads[best] if above[best] > 0 and above[best:].min() < back else None
