"""What measuring costs and how far it errs: the client against a server that knows when it sent what.

    make bench

Each load runs `shared.load.closed` as a notebook does. An error is the client's figure minus the server's:
for an arrival, the way of a block through the kernel and our event loop; for TTFT, the request's way as well.
Both processes share this machine's cores, so the server's own delays are part of the errors.
"""

import contextlib
import math
import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from truth import MODEL, Errors, TruthEngine, judge

from shared import load, prompts
from shared.hardware import detect

TOKENS_PER_S = 50
SECONDS = 15


def main() -> None:
    rows = [
        ("streams", "tokens", "tokens/s", "client CPU", "TTFT error, ms", "arrival error, ms"),
        ("", "", "per stream", "µs/token", "median", "median"),
    ]
    with (
        tempfile.TemporaryDirectory() as folder,
        TruthEngine.start(Path(folder) / "log") as engine,
        contextlib.redirect_stdout(sys.stderr),  # progress lines: the table alone goes to stdout
    ):
        measure(engine, streams=2, tokens=10)  # first use of the loop and the parser
        rows += [measure(engine, streams, SECONDS * TOKENS_PER_S) for streams in (1, 16, 128)]
    machine = detect()
    print(f"{machine.processor}, {machine.cores} cores shared by client and server")
    for row in rows:
        print("{:>8} {:>8} {:>11} {:>11}   {:<17}   {:<17}".format(*row))


def measure(engine: TruthEngine, streams: int, tokens: int) -> tuple[str, ...]:
    """One row: `streams` users, one answer each, all at 50 tokens/s."""
    engine.plan(ttft_s=0.2, gap_s=1 / TOKENS_PER_S)
    before = cpu_s()
    run = load.closed(engine, prompts.short(MODEL), users=streams, requests=streams, max_tokens=tokens, warmup=False)
    spent = cpu_s() - before  # all of this process: sending, stamping, parsing, the progress line
    records = engine.records()
    errors: list[Errors] = [judge(t, records) for t in run.traces]
    rate = statistics.median(1000 / t.tpot_ms for t in run.traces if t.tpot_ms)
    return (
        str(streams),
        str(streams * tokens),
        f"{rate:.1f}",
        f"{spent * 1e6 / (streams * tokens):.1f}",
        both([e.ttft_ms for e in errors]),
        both([ms for e in errors for ms in e.arrivals_ms]),
    )


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def both(values: Sequence[float]) -> str:
    """Median and 99th percentile (nearest rank); fewer than 100 values have no such rank, only a largest."""
    ranked = sorted(values)
    tail = f"p99 {ranked[math.ceil(0.99 * len(ranked)) - 1]:.2f}" if len(ranked) >= 100 else f"max {ranked[-1]:.2f}"
    return f"{statistics.median(ranked):.2f}, {tail}"


if __name__ == "__main__":
    main()
