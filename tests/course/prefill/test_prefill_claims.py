"""The lab's claims and tables on made-up results: what holds, what doesn't, and what is not judged."""

from typing import Any

import pytest

from shared.course import evidence
from shared.course.evidence import FAILS, HOLDS, Evidence
from shared.course.prefill import arithmetic, claims, curve, prefill_report
from shared.course.prefill.tensorrt import flows
from shared.metrics.roofline import Ceilings
from shared.models import ModelChoice
from shared.results import ledger

LAB = "3.3.3"
BUILT = {
    "build_s": 60.0, "size_mb": 540.0, "load_s": 1.0, "model_code": [], "operators": 1500, "kernels": 400,
    "prompts": 100, "same_token": 95, "right_token": 100, "worst_gap_nats": 0.2, "max_difference": 0.9,
}  # fmt: skip
FAST, BARELY, SLOW = [10.0, 10.1, 10.2, 10.0, 10.3], [18.0, 18.1, 18.2, 18.0, 18.3], [20.0, 20.1, 20.2, 20.0, 20.3]
CURVE = {
    "openvino": {"128": FAST, "512": FAST},
    "eager": {"128": SLOW, "512": SLOW},
    "aoti": {"128": SLOW, "512": SLOW},
}
FIT = {
    "errors_percent": {"300": [5.0, 3.0, 7.0], "1500": [-12.0, -14.0, -9.0]},
    "queued": {"requests": 10, "error_percent": [4.0, -2.0, 9.0]},
}
PRECISION = {
    "tokens": 128,
    "ms": {"float": {"128": SLOW}, "int8": {"128": FAST}},
    "quality": {
        "float": {"perplexity": 20.0, "mean_gap_nats": 0.01, "worst_gap_nats": 0.1},
        "int8": {"perplexity": 22.0, "mean_gap_nats": 0.02, "worst_gap_nats": 0.5},
    },
}
RIGHT: dict[str, Any] = {
    "build/openvino": BUILT,
    "build/aoti": BUILT,
    "curve": {"ms": CURVE},
    "fit": FIT,
    "precision": PRECISION,
    "mix/chat": {"ms": {"yours": FAST, "eager": SLOW}, "padding": {}},
}


def record(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, size: str) -> list[str]:
    """The outcome of each claim on the right results with these changes."""
    monkeypatch.setenv("LABS_SIZE", size)
    for key, values in (RIGHT | changes).items():
        if values is not None:
            ledger.record(LAB, key, values, raw={})
    found = Evidence(LAB)
    return [evidence.test_claim(claim, found).outcome for claim in claims.CLAIMS]


def test_right_results_support_every_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    assert record({}, monkeypatch, "full") == [HOLDS] * len(claims.CLAIMS)


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (0, {"build/aoti": None}),
        (0, {"build/aoti": {**BUILT, "model_code": ["transformers"]}}),
        (0, {"build/openvino": {**BUILT, "right_token": 99, "worst_gap_nats": 3.0}}),
        (1, {"build/aoti": {**BUILT, "kernels": 1500}}),
        (1, {"build/aoti": None}),
        (1, {"build/openvino": None, "build/aoti": None, "build/other": BUILT}),
        (2, {"curve": None}),
        (2, {"curve": {"ms": {**CURVE, "openvino": {"128": FAST, "512": SLOW}}}}),
        (2, {"curve": {"ms": {**CURVE, "openvino": {"128": BARELY, "512": FAST}}}}),
        (3, {"fit": {**FIT, "errors_percent": {"300": [30.0, 28.0, 33.0]}}}),
        (3, {"fit": {**FIT, "queued": {"requests": 10, "error_percent": [-60.0, -65.0, -50.0]}}}),
        (4, {"precision": None}),
        (5, {"mix/chat": {"ms": {"yours": SLOW, "eager": SLOW}, "padding": {}}}),
        (5, {"mix/chat": {"ms": {"eager": SLOW}, "padding": {}}}),
    ],
)
def test_what_is_wrong_or_missing_fails_its_claim(
    place: int, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert record(changes, monkeypatch, "full")[place] == FAILS


def test_a_long_prompt_needs_only_a_clear_gain_and_any_engine_may_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    float32 = {"ms": {**CURVE, "openvino": {"128": FAST, "512": SLOW}, "aoti": {"128": BARELY, "512": BARELY}}}
    assert record({"curve": float32}, monkeypatch, "full")[2] == HOLDS


def test_speeds_are_not_judged_at_the_quick_size(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = {"curve": {"ms": {**CURVE, "openvino": {"128": SLOW, "512": SLOW}}}}
    assert record(slow, monkeypatch, "quick")[2] == HOLDS


SHAPE = arithmetic.Shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152)


def test_tables_and_plots_show_what_was_measured(spark_model: ModelChoice) -> None:
    times = curve.restored(CURVE)
    server = {"llamacpp": {128: FAST, 512: FAST}, "llamacpp, own clock": {128: FAST, 512: FAST}}
    plot = prefill_report.curve_plot({**times, **server}, "the small model")
    assert [trace.name for trace in plot.figure.data][3:] == [
        "llama.cpp (the client’s clock)",
        "llama.cpp (its own clock)",
    ]
    assert len({(trace.line.color, trace.marker.symbol, trace.line.dash) for trace in plot.figure.data}) == 5
    assert plot.rows[0][0] == "128"
    beside = prefill_report.gains({**times, **server})
    assert beside.header[-1] == "llama.cpp (its own clock)"
    batches = prefill_report.batch_table({"1": {32: FAST}, "4": {32: SLOW}})
    assert batches.rows[0][-1].startswith("2.01×")  # twice the time for four times the tokens
    assert prefill_report.chunk_table({64: SLOW, 512: FAST}, 512).rows[0][:2] == ("64", "8")
    gains = prefill_report.gains(times)
    assert gains.rows[0][1].startswith("1.99×")
    assert "no winner" in gains.rows[0][2]
    here = Ceilings(30.0, 1e-9, "made up")
    shares = {
        name: {n: arithmetic.achieved(arithmetic.operations(SHAPE, n), 1.0, 1e-9) for n in (128,)} for name in times
    }
    assert "more than is possible" in prefill_report.share_table(shares, here).rows[0][1]
    parts = prefill_report.parts_plot(SHAPE, (16, 4096))
    assert len(parts.rows) == 2
    table = prefill_report.step_table("engine flow", flows.engine_flow(spark_model, flows.Sizes()))
    assert ("build the engine", "--use_fused_mlp", "gate and up projection as one product; the default") in table.rows
