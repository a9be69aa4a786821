"""A small ledger made of real recording calls, for tests that read one. Its times are invented: test data."""

from typing import Any

from shared import metrics, results
from shared.client import Trace
from shared.load import Run

MS = 1_000_000


def trace(
    ttft_ms: float = 50, gap_ms: float = 10, tokens: int = 8, error: str | None = None, start_ms: int = 0
) -> Trace:
    """One request on a regular beat."""
    sent = start_ms * MS
    arrivals = tuple(int(sent + (ttft_ms + i * gap_ms) * MS) for i in range(tokens))
    return Trace(sent, arrivals, ("x",) * tokens, arrivals[-1] + MS, 40, tokens, 0, "length", error)


def provenance(engine: str) -> dict[str, Any]:
    return {
        "engine": engine,
        "engine_version": "1.0",
        "flags": {"--slots": 16, "--eager": True},
        "cores": 2,
        "model": "small",
        "model_origin": "a test",
        "model_sha256": "0" * 64,
        "precision": "BF16",
        "startup_s": 1.5,
    }


def fill(gap_ms: dict[str, float], rounds: int = 3, lab: str = "3.3.1") -> None:
    """Every load of lab 3.3.1 for these engines, with a little drift from round to round, and their texts."""
    for engine, gap in gap_ms.items():
        gaps = [0.0] * 30 + [0.01, 0.05]
        results.record(
            lab, f"greedy/{engine}", {"worst_gap_nats": 0.05}, raw=[{"gaps": gaps}],
        )  # fmt: skip
        for users in (1, 4, 16):
            for number in range(1, rounds + 1):
                traces = tuple(trace(50 + number, gap * (1 + number / 100)) for _ in range(users))
                run = Run(traces, users, 8, "short", provenance(engine), 0.01)
                results.record(lab, f"load/users-{users}/{engine}/round-{number}", metrics.summarise(run))
    loads = {key: entry["values"] for key, entry in results.load_results(lab).items() if key.startswith("load/")}
    results.record(lab, "own/figures", {"loads": len(loads)}, raw={
        key: {"ttft_ms": values["ttft_ms"]["median"], "tpot_ms": values["tpot_ms"]["median"],
              "output_tok_s": values["output_tok_s"]}
        for key, values in loads.items()
    })  # fmt: skip
