"""What the notebook of lab 3.3.1 prints follows from the ledger, and names what the model does not explain."""

import asyncio
import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from shared import models, results
from shared.course import labs, milestones
from shared.course.benchmark import experiments, lab_tables, limits, precision_findings, step_findings
from shared.hardware import Machine
from shared.load import Run, Trace
from shared.metrics import summarise
from shared.metrics.roofline import SPARK, Ceilings
from shared.models import ModelChoice
from shared.results.ledger import folder_of
from shared.results.reading import Entries
from tests.helpers.ledger import change_all, fill, provenance, record_fit, record_load, trace


@pytest.fixture
def model() -> ModelChoice:
    return models.small()


def floor_ms(tokens: int, parameters: int, weight_bytes: int, gb_s: float, tflop_s: float) -> float:
    return max(weight_bytes / gb_s / 1e6, 2 * parameters * tokens / tflop_s / 1e9)


def entries() -> Entries:
    return results.load_results("3.3.1")


def test_the_limits_grow_with_the_users_until_computing_decides(model: ModelChoice) -> None:
    def floor_ms(tokens: int, weights: int, *_: float) -> float:
        return tokens * weights / 1e6

    found = limits.work_out_limits(model, Ceilings(30, 0.2, "measured"), floor_ms, (1, 4, 32, 64), (128,))
    decode = found["decode_tok_s"]
    assert 3.5 < decode[4] / decode[1] < 4
    assert decode[64] == pytest.approx(decode[32])
    assert found["prefill_ms"] == {128: 128 * (model.parameters - model.lookup - model.output) / 1e6}
    assert next(row[1] for row in limits.limits_table(found).rows) == f"at most {decode[1]:.0f} tok/s"


def test_a_processor_is_measured_once_and_a_gpu_quoted(
    model: ModelChoice, machine: Machine, spark: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def ceilings(machine: Machine, size: float) -> Ceilings:
        measured.append(machine)
        return Ceilings(30.0 + len(measured), 0.4, "measured")

    lab = labs.open("3.3.1")
    assert limits.known_ceilings(lab, spark, model) == SPARK
    assert lab.results() == {}  # a quoted figure isn't measured here
    monkeypatch.setattr(limits, "ceilings", ceilings)
    first = limits.known_ceilings(lab, machine, model)
    assert limits.known_ceilings(lab, machine, model) == first == Ceilings(31.0, 0.4, "measured")
    assert len(measured) == 1


def test_an_engine_in_float32_is_held_to_half_the_ceiling(model: ModelChoice) -> None:
    fill({"llamacpp": 10, "vllm": 10})

    def widen(entry: dict[str, Any]) -> None:
        if entry["provenance"].get("engine") == "vllm":
            entry["provenance"]["dtype"] = "float32"

    change_all(folder_of("3.3.1"), widen)
    shares = limits.share_of_ceiling(entries(), model, Ceilings(30, 2.0, "measured"), floor_ms)
    assert shares["vllm"]["bytes"] == pytest.approx(2 * shares["llamacpp"]["bytes"])
    assert shares["vllm"]["share"] == pytest.approx(2 * shares["llamacpp"]["share"])
    assert shares["llamacpp"]["tok_s"] == pytest.approx(1e3 / 10.2, rel=1e-3)  # decode alone: 1000 / TPOT
    grew = limits.growth(entries())
    table = limits.ceiling_table(shares, grew, 32)
    assert [row[0] for row in table.rows] == ["llama.cpp", "vLLM"]
    assert limits.each_engine({"vllm": 0.4, "ollama": 0.36}) == "vLLM 0.4, Ollama 0.36"


STEP = {"bytes_ms": 9.0, "kv_ms_per_user": 0.1, "operations_ms_per_user": 5.0, "overhead_ms": 12.0}
FITS = {
    "llamacpp": {**STEP, "worst_residual": 0.45, "steps": {"1": [23.0, 26.0], "32": [145.0, 184.0]}},
    "vllm": {**STEP, "worst_residual": 0.08, "steps": {"1": [26.0, 26.1], "32": [180.0, 184.0]}},
}


def test_the_table_of_the_fit_names_the_engines_that_it_does_not_explain() -> None:
    table = step_findings.step_table(FITS)
    assert table.title.startswith("The model explains 1 of 2 engines")
    assert "overhead" not in " ".join(table.header)
    assert {row[0]: row[-2:] for row in table.rows} == {"llama.cpp": ("45 %", "no"), "vLLM": ("8 %", "yes")}


def test_the_figure_of_a_step_shows_the_measured_step() -> None:
    plot = step_findings.step_plot(FITS, 32)
    [measured] = [trace for trace in plot.figure.data if trace.type == "scatter"]
    assert list(measured.y) == [145.0, 180.0]
    assert [row[-1] for row in plot.rows] == ["145", "180"]
    assert all(bar.text is None for bar in plot.figure.data if bar.type == "bar")  # unreadable on hatching


def test_a_claim_states_that_a_misfitting_model_does_not_explain_an_engine() -> None:
    fill({"ollama": 11, "llamacpp": 10, "vllm": 20, "sglang": 25})
    evidence = milestones.check("3.3.1").claims[5].evidence
    assert "ms neither reading nor computing)" in evidence
    assert " not (" not in evidence
    for number in (1, 2, 3):
        record_load(f"load/users-4/vllm/round-{number}", "vllm", 4, number, 60)
    record_fit("vllm")
    found = milestones.check("3.3.1").claims[5].evidence
    assert "explained, with a misfit of at most 20 %: " in found
    assert "vLLM not (misfit " in found


def test_predictions_start_from_the_bf16_step_of_the_same_series(model: ModelChoice) -> None:
    fill({"llamacpp": 10, "vllm": 20})

    found = precision_findings.predict(entries(), model, 100.0)
    assert set(found) == {"Q8_0", "Q4_0"}  # BF16 is measured, not predicted
    saved_ms = (model.decode_bytes("BF16") - model.decode_bytes("Q8_0")) / 100e6
    assert found["Q8_0"] == pytest.approx(1e3 / (16.24 - saved_ms), rel=1e-3)
    rows = {row[0]: row for row in precision_findings.precision_table(entries()).rows}
    assert rows["BF16"][2] == "–"
    too_slow_gb_s = (model.decode_bytes("BF16") - model.decode_bytes("Q4_0")) / 17e6  # it would save 17 of 16.24 ms
    assert set(precision_findings.predict(entries(), model, too_slow_gb_s)) == {"Q8_0"}


def test_a_miss_of_a_prediction_is_printed_with_its_direction() -> None:
    fill({"llamacpp": 10})
    recorded = {"Q8_0": 100.0, "Q4_0": 246.0}
    results.record("3.3.1", precision_findings.PREDICTED, recorded)
    lines = precision_findings.off_by(entries())
    assert lines[0].startswith("Q8_0: measured 123 tok/s, 23 % faster than the prediction of 100")
    assert lines[1] == "Q4_0: measured 246 tok/s, within 5 % of the prediction of 246."
    results.record("3.3.1", precision_findings.PREDICTED, {"Q8_0": 200.0})
    assert "slower than the prediction" in precision_findings.off_by(entries())[0]


def not_fixed_ms(unexplained_ms: float, steps: Sequence[tuple[float, int]], gb_s: float) -> float:
    return max(0.0, unexplained_ms - min(step - read / gb_s / 1e6 for step, read in steps))


@pytest.mark.parametrize(
    ("unexplained_ms", "misfit", "verdict"),
    [
        (12.0, 0.1, "8.61 ms can't be a fixed cost"),
        (2.0, 0.1, "fit into"),
        (12.0, 0.3, "The step-time model does not explain llama.cpp here, so its 12 unexplained ms mean little"),
    ],
)
def test_what_the_steps_with_fewer_bits_prove_about_the_unexplained_time(
    unexplained_ms: float, misfit: float, verdict: str
) -> None:
    fill({"llamacpp": 10})
    results.record("3.3.1", "fit/llamacpp", {"overhead_ms": unexplained_ms, "worst_residual": misfit})
    found = precision_findings.not_fixed(entries(), 100.0, not_fixed_ms)
    assert found
    assert found["rest_ms"]["Q4_0"] == pytest.approx(4.06 - 67.2e6 / 100e6, abs=0.01)
    assert verdict in precision_findings.fixed_cost_table(found).title
    assert precision_findings.not_fixed({}, 100.0, not_fixed_ms) is None


def test_ttft_per_token_and_its_growth_are_shown() -> None:
    fill({"llamacpp": 10})
    [row] = lab_tables.per_token_table(entries()).rows
    assert row == ("llama.cpp", "1.1", "1.04", "0.95×")  # 10 ms and one per token, with the drift of round 2


def test_pairs_without_a_winner_are_counted_in_the_title() -> None:
    fill({"llamacpp": 10, "vllm": 20})

    def ahead(a: list[float], b: list[float]) -> str | None:
        return "a" if min(a) > max(b) else None

    table = lab_tables.winners_table(entries(), ahead, (1, 32))
    assert table.rows == [("llama.cpp or vLLM", "llama.cpp", "llama.cpp")]
    assert "0 of 2 comparisons have no winner" in table.title


def test_a_students_loop_stands_beside_the_labs() -> None:
    fill({"llamacpp": 10})
    run = Run((trace(), trace(start_ms=200)), 2, 8, "short", provenance("llamacpp"), 0.01)
    own = {"users_at_once": 2, "answers": 2, "ttft_ms": 50.0, "tok_s": 80.0}
    table = lab_tables.loops_table(own, summarise(run))
    assert table.title.endswith("2 users, 2 requests")
    assert [row[:4] for row in table.rows] == [("yours", "2", "2", "50"), ("the lab's", "1", "2", "50")]


def test_what_ollama_reports_is_compared_with_what_was_asked() -> None:
    shown = SimpleNamespace(details=SimpleNamespace(quantization_level="BF16"))
    loaded = [SimpleNamespace(context_length=2304)]
    equal = lab_tables.reported_by_ollama(shown, loaded, {"precision": "BF16", "context": "2304"})
    assert equal.title == "Ollama reports what was asked"
    other = lab_tables.reported_by_ollama(shown, [], {"precision": "Q4_0", "context": "2304"})
    assert other.title == "Ollama reports something else than was asked"
    assert [row[2] for row in other.rows] == ["BF16", "–"]


def test_the_title_of_library_and_server_gives_the_ratios() -> None:
    asked = {"in this process": [(100.0, 50.0), (110.0, 52.0)], "over HTTP": [(105.0, 51.0), (105.0, 51.0)]}
    table = lab_tables.library_table(asked)
    assert table.title == "One user over HTTP: 1.00× the library's TTFT, 1.00× its decode speed"


def test_maxima_of_forty_scatter_around_the_percentile_of_their_pool() -> None:
    pool = [float(n) for n in range(1, 401)]
    samples = experiments.samples_of(pool, 40)
    assert samples == experiments.samples_of(pool, 40)
    low, high = experiments.middle_90([max(sample) for sample in samples])
    assert experiments.nearest_rank(pool, 0.99) == 396
    assert low < 380 < 396 < high <= 400


def test_a_lie_is_shown_with_both_numbers() -> None:
    shown = experiments.lie("The same prompt again", "tok/s", "12,024", "351", "cached")
    table = lab_tables.lie_table(shown)
    assert (table.title, table.rows) == ("The same prompt again", [("12,024 tok/s", "351 tok/s", "cached")])


def test_a_students_loop_drives_an_engine_request_by_request(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def ask(engine: object, messages: object, tokens: int) -> Trace:
        sent.append(messages)
        await asyncio.sleep(0)
        return trace(start_ms=100 * len(sent), tokens=tokens)

    async def one_by_one(users: int, requests: int, send: Any) -> list[Trace]:
        return [await send(number) for number in range(requests)]

    monkeypatch.setattr(experiments, "ask", ask)
    supply = ([{"role": "user", "content": str(number)}] for number in itertools.count())
    driven = experiments.drive(one_by_one, None, supply, 2, 3, 8)  # type: ignore[arg-type]
    figures, stamps = asyncio.run(driven)
    assert [messages[0]["content"] for messages in sent] == ["0", "1", "2"]
    assert figures["answers"] == 3
    assert figures["ttft_ms"] == 50
    assert figures["tok_s"] == pytest.approx(3 * 8 / ((stamps[-1][1] - stamps[0][0]) / 1e9))
