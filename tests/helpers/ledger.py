"""A small ledger made of real recording calls, for tests that read one. Its times are invented: test data."""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared import metrics, paths, results
from shared.course.benchmark import published
from shared.course.benchmark.claims import PRECISIONS, TRAPS, USERS
from shared.course.benchmark.precision_findings import PREDICTED
from shared.load import Run, Trace
from shared.metrics.roofline import Work
from shared.results.step_time import fitted, times_ms

MS = 1_000_000
LENGTHS = (128, 512)
BANDWIDTH_GB_S = 100.0
KEPT = tempfile.TemporaryDirectory()  # removed when the tests end
_made: dict[tuple[Any, ...], Path] = {}  # each ledger is recorded once and copied afterwards: recording syncs the disk


# A program that records on and on, and prints how often it has.
WRITER = """
import sys
from shared import results
number = 0
while True:
    results.record("3.3.1", f"k{number % 3}", {"x": number}, raw=["y" * 100_000])
    number += 1
    print(number, flush=True)
"""


def change(file: Path, by: Callable[[dict[str, Any]], object]) -> None:
    """Change an entry's file, as a hand would; the copy beside its raw data stays as it was."""
    entry = json.loads(file.read_text())
    by(entry)
    file.write_text(json.dumps(entry))


def change_all(folder: Path, by: Callable[[dict[str, Any]], object]) -> None:
    """Change every entry of a lab's folder so."""
    for file in folder.glob("*.json"):
        change(file, by)


def trace(
    ttft_ms: float = 50,
    gap_ms: float = 10,
    tokens: int = 8,
    error: str | None = None,
    start_ms: int = 0,
    prompt: int = 40,
) -> Trace:
    """One request on a regular beat."""
    sent = start_ms * MS
    arrivals = tuple(int(sent + (ttft_ms + i * gap_ms) * MS) for i in range(tokens))
    return Trace(sent, arrivals, ("x",) * tokens, arrivals[-1] + MS, prompt, tokens, 0, "length", error)


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
        "dtype": "",
        "startup_s": 1.5,
    }


def record_load(key: str, engine: str, users: int, number: int, gap_ms: float, prompt: int = 40) -> None:
    """One load, with a little drift from round to round."""
    slower = 1 + number / 100
    traces = tuple(trace((10 + prompt) * slower, gap_ms * slower, prompt=prompt) for _ in range(users))
    run = Run(traces, users, 8, "short", provenance(engine), 0.01)
    results.record("3.3.1", key, metrics.summarise(run))


def fill(gap_ms: dict[str, float], rounds: int = 3) -> None:
    """All that lab 3.3.1 records, for these engines; TTFT is the same for all, `gap_ms` each one's own."""
    made = (tuple(gap_ms.items()), rounds)
    if made in _made:
        shutil.copytree(_made[made], paths.results(), dirs_exist_ok=True)
        return
    record_all(gap_ms, rounds)
    _made[made] = Path(KEPT.name) / f"ledger-{len(_made)}"
    shutil.copytree(paths.results(), _made[made])


def record_all(gap_ms: dict[str, float], rounds: int) -> None:
    record = results.record
    for engine, gap in gap_ms.items():
        record("3.3.1", f"engine/{engine}", {"startup_s": gap})
        record("3.3.1", f"greedy/{engine}", {"worst_gap_nats": 0.05}, raw=[{"gaps": [0.0] * 30 + [0.01, 0.05]}])
        for number in range(1, rounds + 1):
            for users in USERS:
                record_load(f"load/users-{users}/{engine}/round-{number}", engine, users, number, gap)
            for tokens in LENGTHS:
                record_load(f"prompt/tokens-{tokens}/{engine}/round-{number}", engine, 1, number, gap, tokens)
        taken = {"weights_gib": 0.25, "kv_gib": 1.5, "resident_gib": gap / 10}
        record("3.3.1", f"memory/{engine}", taken)
        record_fit(engine)
    loads = {key: e["values"] for key, e in results.load_results("3.3.1").items() if key.startswith("load/")}
    record(
        "3.3.1",
        "own/figures",
        {"loads": len(loads)},
        raw={
            key: {
                "ttft_ms": values["ttft_ms"]["median"],
                "tpot_ms": values["tpot_ms"]["median"],
                "output_tok_s": values["output_tok_s"],
            }
            for key, values in loads.items()
        },
    )
    record(
        "3.3.1",
        "predict/limits",
        {
            "bandwidth_gb_s": BANDWIDTH_GB_S,
            "peak_tflop_s": 0.5,
            "ceiling_tok_s": 370.0,
            "decode_tok_s": {users: 300.0 * users for users in USERS},
            "prefill_ms": {n: n / 10 for n in LENGTHS},
        },
    )
    for bits, form in zip((16, 8, 4), PRECISIONS, strict=True):
        quality = {
            "bytes": bits * 16_800_000,
            "perplexity": 40 / bits**0.1,
            "mean_gap_nats": 0.1 / bits,
        }
        record("3.3.1", f"quality/{form}", quality)
        for number in (1, 2):
            record_load(f"precision/{form}/users-1/round-{number}", "llamacpp", 1, number, bits)
            record_load(f"precision/{form}/tokens-512/round-{number}", "llamacpp", 1, number, bits, 512)
    record("3.3.1", PREDICTED, {form: 1000 / bits for bits, form in zip((8, 4), PRECISIONS[1:], strict=True)})
    for name in TRAPS:
        record("3.3.1", f"lie/{name}", {"trap": name, "wrong": "9", "right": "1", "unit": "ms", "why": "a test"})
    record("3.3.1", "loop/own", {"answers": 12, "users_at_once": 4, "ttft_ms": 50.0, "tok_s": 100.0})
    record_line_up(1, "B", "Q8_0")
    record("3.3.1", "line-up/verdict", {"number": 1, "suspect": "B", "evidence": "provenance.precision"})
    published.record("3.3.1")


def record_line_up(number: int, unfair: str, precision: str) -> None:
    """Four runs of a line-up, of which one read other weights."""
    for name in "ABCD":
        source = {**provenance("llamacpp"), **({"precision": precision} if name == unfair else {})}
        run = Run((trace(),) * 4, 4, 8, "shared-prefix-160", source, 0.01)
        results.record("3.3.1", f"line-up/{number}/{name}", metrics.summarise(run))


def record_fit(engine: str) -> None:
    """The step-time model of an engine's loads, of a made-up model."""
    measured = [
        (n, Work(269e6 + n * 1e6, 2.7e8 * n, n), ms)
        for n, ms in times_ms(results.load_results("3.3.1"), engine).items()
    ]
    found = fitted(measured, BANDWIDTH_GB_S)
    rate = found.peak_tflop_s or float("inf")
    values = {
        "overhead_ms": found.overhead_ms, "bytes_ms": 2.69, "kv_ms_per_user": 0.01,
        "operations_ms_per_user": 2.7e8 / rate / 1e9, "worst_residual": found.worst_residual,
    }  # fmt: skip
    each = values["kv_ms_per_user"] + values["operations_ms_per_user"]
    values["steps"] = {str(n): [ms, found.overhead_ms + 2.69 + n * each] for n, _, ms in measured}  # type: ignore[assignment]
    points = [(n, (work.bytes, work.operations, work.tokens), ms) for n, work, ms in measured]
    raw = {"bandwidth_gb_s": BANDWIDTH_GB_S, "points": points}
    results.record("3.3.1", f"fit/{engine}", values, raw=raw)
