"""From traces to the figures that people compare.

Tools define these names differently. In this course they mean:

- TTFT: request sent → first chunk with text. Includes queueing and prefill.
- TPOT: (last chunk − first chunk) / (tokens − 1), per request. vLLM's benchmark divides (E2E − TTFT).
- ITL: every gap between neighbouring tokens, pooled over requests; only where one chunk is one token.
- Output throughput: tokens of successful requests / (last end − first send), all users together. Total throughput
  includes the tokens of their prompts.
- Scheduled latencies: TTFT and E2E, counted from the moment at which an open loop's schedule wanted the request.
- Goodput: successful requests that kept every limit of a stated SLO, per second.
- Prefill rate: prompt tokens that no cache supplied / TTFT, per request. A lower bound for the engine, because TTFT
  includes waiting. Where the engine times its own prefill, that rate is reported beside it.

Other tools' conventions are in shared.metrics.conventions. A failed request has no latency, and its tokens don't count.
It is counted as failed, so an engine that fails fast doesn't look fast.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.errors import LabError
from shared.load.client import Trace
from shared.load.loads import Run
from shared.metrics.spread import Spread, percentile
from shared.metrics.validity import bottleneck, cache_fault, disturbance


@dataclass(frozen=True)
class Slo:
    """The limits that a request must keep to count for goodput, in ms; None: no limit."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None

    def kept(self, trace: Trace) -> bool:
        """Whether the request succeeded and kept every limit. An unknown latency counts as too long."""
        if trace.error is not None:
            return False
        late = late_ms(trace)  # in an open loop a user's wait begins at the scheduled moment
        seen = (
            (self.ttft_ms, None if trace.ttft_ms is None else trace.ttft_ms + late),
            (self.tpot_ms, trace.tpot_ms),
            (self.e2e_ms, trace.e2e_ms + late),
        )
        return all(limit is None or (value is not None and value <= limit) for limit, value in seen)


def late_ms(trace: Trace) -> float:
    """How much later than scheduled the request was sent; 0 for a closed loop."""
    return 0.0 if trace.scheduled_ns is None else (trace.sent_ns - trace.scheduled_ns) / 1e6


def wall_s(run: Run) -> float:
    """Seconds from the first request sent (or scheduled) to the end of the last answer, failed ones included."""
    begin = min(t.sent_ns if t.scheduled_ns is None else min(t.sent_ns, t.scheduled_ns) for t in run.traces)
    return (max(t.end_ns for t in run.traces) - begin) / 1e9


def prefill_tok_s(trace: Trace) -> float | None:
    """Prompt tokens that no cache supplied / TTFT; None if the engine didn't report the counts."""
    if trace.input_tokens is None or trace.cached_tokens is None or not trace.ttft_ms:
        return None
    return (trace.input_tokens - trace.cached_tokens) / trace.ttft_ms * 1e3


def engine_prefill_tok_s(trace: Trace) -> float | None:
    """Prefill rate by the engine's own clock: llama.cpp's `timings`, Ollama's durations; None for other engines."""
    timings = trace.timings or {}
    if timings.get("prompt_ms"):  # llama.cpp: in ms, for the tokens that it computed
        return float(timings["prompt_n"] / timings["prompt_ms"] * 1e3)
    if timings.get("prompt_eval_duration"):  # Ollama: in ns
        return float(timings["prompt_eval_count"] / timings["prompt_eval_duration"] * 1e9)
    return None


@dataclass(frozen=True)
class Summary:
    """The figures of one run, and the run that they follow from."""

    users: int
    requests: int
    failed: int
    first_error: str | None
    input_tokens: Spread | None
    output_tokens: int  # of all successful requests, by the engine's own count
    cached_tokens: int | None  # of all prompts, by `usage` or else by the engine's counter; None if both lack it
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
    scheduled_ttft_ms: Spread | None  # from the scheduled moment; None for a closed loop
    scheduled_e2e_ms: Spread | None
    scheduled_e2e_p99_ms: float | None
    prefill_tok_s: Spread | None
    engine_prefill_tok_s: Spread | None
    queue_ms: float | None  # the mean, by the engine's own metrics
    cache_fault: str | None  # set if a prefix cache helped although it should not have
    client_cpu_share: float
    client_lag_ms: Mapping[str, float] | None
    client_bottleneck: str | None
    others_cpu_share: float | None  # of all the machine's cores
    disturbed: str | None  # why other programs may have slowed the engine down
    counted: dict[str, float]  # how much the engine's own counters grew
    run: Run = field(repr=False)

    def values(self) -> dict[str, Any]:
        """The figures without the run, as the ledger stores them."""
        plain = asdict(self)
        del plain["run"]
        return plain


def summarise(run: Run) -> Summary:
    """The figures of one run. Raises LabError if a successful request lacks a token count."""
    good = [t for t in run.traces if t.error is None]
    bad = [t for t in run.traces if t.error is not None]
    if not good:
        if not bad:
            raise LabError("The run has no requests, so it has no figures.", "send at least one request")
        raise LabError(
            f"No request succeeded; the first failed with: {bad[0].error}.",
            "read the engine's log: print(engine.tail())",
        )
    counts = [t.output_tokens for t in good]
    if None in counts:
        raise LabError(
            "The engine reported no `usage`, so the number of its tokens is unknown (chunks are not tokens).",
            "send `usage` in the stream's last chunk: requests ask for it by "
            '"stream_options": {"include_usage": true}',
        )
    wall = wall_s(run)
    tokens = sum(c for c in counts if c is not None)
    reported = [t.cached_tokens for t in good if t.cached_tokens is not None]
    counter = run.counted.get("cached_tokens")
    by_counter = None if counter is None else int(counter)
    gaps = [gap for t in good for gap in (t.itl_ms or ())]
    inputs = [t.input_tokens for t in good if t.input_tokens is not None]
    ttft = Spread.of(t.ttft_ms for t in good)
    open_loop = [t for t in good if t.scheduled_ns is not None]
    e2e_scheduled = [t.e2e_ms + late_ms(t) for t in open_loop]
    queued = run.counted.get("queued_requests")
    cached = sum(reported) if len(reported) == len(good) else by_counter
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
    """The approximate number of prompt tokens of a recorded run: their median × the successful requests."""
    return float(values["input_tokens"]["median"] * (values["requests"] - values["failed"]))


FIGURES = (  # value in the ledger, title, unit, whether more is better
    ("output_tok_s", "Output throughput, all users together", "tok/s", True),
    ("ttft_ms", "Time to first token (TTFT), median request", "ms", False),
    ("itl_ms", "Inter-token latency (ITL), median gap", "ms", False),
)
