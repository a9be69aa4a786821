"""An engine is read from the ledger as it was measured, and what is missing is named with its cell."""

import statistics

import pytest

from shared import LabError, results
from shared.metrics import Slo
from shared.metrics.roofline import decode_step
from shared.models import ModelChoice
from shared.results import recorded_engine, step_time
from tests.helpers import quiet_ledger
from tests.helpers.ledger import change_all, record_load
from tests.helpers.quiet_ledger import ANSWER, PROMPT, TPOT_MS, TTFT_MS


@pytest.fixture
def quiet() -> None:
    quiet_ledger.record_loads()
    quiet_ledger.record_bandwidth()


@pytest.mark.usefixtures("quiet")
def test_an_engine_is_what_its_loads_say(model: ModelChoice) -> None:
    recorded = recorded_engine.read("vllm", model)
    assert (recorded.lab, recorded.users) == ("3.3.2", [1, 4, 8, 16, 32])  # half of 64 users had no seat
    assert (recorded.seats, recorded.seats_source) == (32, "recorded flag: --max-num-seqs")
    assert (recorded.bandwidth_gb_s, recorded.bandwidth_source) == (33.7, "measured, 3.3.2: predict/growth")
    assert (recorded.prompt_tokens, recorded.output_tokens) == (PROMPT, ANSWER)
    engine = recorded.engine(0.9)
    assert engine.kv_bytes == 2**30
    assert engine.kv_bytes_per_request(100) == 100 * 2 * 30 * 3 * 64 * 2  # K and V, layers, heads, size, BF16
    for users in (1, 32):
        assert engine.step_parts(users, PROMPT, ANSWER).step_ms == pytest.approx(TPOT_MS[users], rel=0.2)
        assert engine.prompt.ttft_ms(users * PROMPT) == pytest.approx(TTFT_MS[users], rel=0.2)


@pytest.mark.usefixtures("quiet")
def test_the_spread_is_that_of_the_requests(model: ModelChoice) -> None:
    """A fifth of the requests took 1.1 times as long as the median: 90 % are only kept by that limit, half by 1."""
    recorded = recorded_engine.read("vllm", model)
    slow, middle = recorded.engine(0.9), recorded.engine(0.5)
    assert (slow.tpot_spread, slow.ttft_spread) == pytest.approx((1.1, 1.1))
    assert (middle.tpot_spread, middle.ttft_spread) == pytest.approx((1, 1))
    assert recorded.kept("load/users-1/vllm/round-1", Slo(tpot_ms=1.05 * TPOT_MS[1])) == 0.8


@pytest.mark.parametrize(
    ("share", "limit"), [(0.5, 5), (0.51, 6), (0.9, 9), (0.91, 10), (0.1, 1), (0.3, 3), (0.999, 10)]
)
def test_a_limit_is_kept_by_its_share_of_the_values(share: float, limit: int) -> None:
    values = [float(n) for n in range(1, 11)]
    assert recorded_engine.kept_by(values, share) == limit
    assert sum(value <= limit for value in values) >= share * 10


@pytest.mark.usefixtures("quiet")
def test_a_load_that_is_left_out_doesn_t_count(model: ModelChoice) -> None:
    recorded = recorded_engine.read("vllm", model)
    others = recorded.engine(0.5, without=32)
    work = decode_step(model, "BF16", 32, PROMPT + ANSWER // 2)
    by_hand = step_time.fitted(
        [point for point in step_time.points(recorded.loads, "vllm", model) if point[0] != 32], 33.7
    )
    assert others.step.predict(work) == by_hand.predict(work)
    assert others.step != recorded.engine(0.5).step


@pytest.mark.usefixtures("quiet")
def test_prompts_of_lab_3_3_1_count_if_the_same_machine_measured_them(model: ModelChoice) -> None:
    assert recorded_engine.read("vllm", model).prompts == {}
    for number in (1, 2):
        record_load(f"prompt/tokens-512/vllm/round-{number}", "vllm", 1, number, 10, 512)
        record_load(f"prompt/tokens-512/ollama/round-{number}", "ollama", 1, number, 10, 512)
    assert recorded_engine.read("vllm", model).prompts == {}  # other provenance: no runner, no dtype
    entries = results.load_results("3.3.2")
    source = entries["load/users-1/vllm/round-1"]["provenance"]
    change_all(results.ledger.folder_of("3.3.1"), lambda e: e["provenance"].update(runner="native", dtype="bfloat16"))
    found = recorded_engine.read("vllm", model)
    assert sorted(found.prompts) == ["prompt/tokens-512/vllm/round-1", "prompt/tokens-512/vllm/round-2"]
    assert list(found.prompt_points()) == [pytest.approx((512, statistics.median([522 * 1.01, 522 * 1.02])))]
    assert source["runner"] == "native"


def test_lab_3_3_1_stands_in_for_lab_3_3_2(model: ModelChoice) -> None:
    quiet_ledger.record_loads((1, 4), "3.3.2")
    quiet_ledger.record_loads((1, 4, 16, 32), "3.3.1")
    results.record("3.3.1", "predict/limits", {"bandwidth_gb_s": 30.0})
    recorded = recorded_engine.read("vllm", model)
    assert (recorded.lab, recorded.users, recorded.bandwidth_gb_s) == ("3.3.1", [1, 4, 16, 32], 30.0)


def test_a_ledger_without_loads_names_the_cells(model: ModelChoice) -> None:
    with pytest.raises(LabError, match=r"0 in lab 3\.3\.2 and 0 in lab 3\.3\.1.*\nFix: run the cell `run-load` of lab"):
        recorded_engine.read("vllm", model)
    quiet_ledger.record_loads((1, 4, 64))
    with pytest.raises(LabError, match=r"2 in lab 3\.3\.2 and 0 in lab 3\.3\.1, but the step-time model needs 4"):
        recorded_engine.read("vllm", model)
    with pytest.raises(LabError, match=r"no engine 'vlm'.*\nFix: choose one of"):
        recorded_engine.read("vlm", model)


def test_a_ledger_without_bandwidth_names_the_cell(model: ModelChoice) -> None:
    quiet_ledger.record_loads()
    with pytest.raises(LabError, match=r"no memory bandwidth.*\nFix: run the cell `predict-growth` of lab 3\.3\.2"):
        recorded_engine.read("vllm", model)
    folder = results.ledger.folder_of("3.3.2")
    change_all(folder, lambda e: e["provenance"].update(runner="container", gpu="NVIDIA GB10"))
    assert recorded_engine.read("vllm", model).bandwidth_gb_s == 273
    change_all(folder, lambda e: e["provenance"].update(gpu="NVIDIA T4"))
    with pytest.raises(LabError, match="bandwidth of NVIDIA T4 is not known"):
        recorded_engine.read("vllm", model)


@pytest.mark.usefixtures("quiet")
def test_another_model_s_loads_are_refused(model: ModelChoice) -> None:
    change_all(results.ledger.folder_of("3.3.2"), lambda e: e["provenance"].update(model="other"))
    with pytest.raises(LabError, match=r"measured other, but this machine's model is smollm2.*\nFix: run the cell"):
        recorded_engine.read("vllm", model)


@pytest.mark.usefixtures("quiet")
def test_torn_traces_and_unknown_flags_are_named(model: ModelChoice) -> None:
    folder = results.ledger.folder_of("3.3.2")
    change_all(folder, lambda e: e["provenance"].update(flags={}))
    recorded = recorded_engine.read("vllm", model)
    assert (recorded.seats, recorded.seats_source) == (64, "the largest measured number of users")
    change_all(folder, lambda e: e["provenance"].update(runner="container", gpu="NVIDIA GB10"))
    with pytest.raises(LabError, match="don't set the size of its KV cache"):
        recorded_engine.read("vllm", model).kv_bytes()
    results.ledger.raw_file("3.3.2", "load/users-8/vllm/round-1").unlink()
    with pytest.raises(LabError, match=r"users-8--vllm--round-1\.json\.gz is missing or torn"):
        recorded.engine(0.9)
