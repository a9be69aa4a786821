"""A step-time model follows from the loads, and is the sum of its parts."""

import pytest

from shared import results
from shared.course.checks import reference
from shared.course.registry import find_lab
from shared.models import ModelChoice
from shared.results import step_time
from tests.helpers.ledger import fill

[STEP] = [e for e in find_lab("3.3.1").exercises if e.function == "step_ms"]


def test_a_step_is_fitted_from_the_median_of_the_rounds(model: ModelChoice) -> None:
    fill({"llamacpp": 30, "vllm": 50})
    entries = results.load_results("3.3.1")
    assert step_time.times_ms(entries, "vllm") == {users: pytest.approx(51) for users in (1, 4, 16, 32)}
    points = step_time.points(entries, "vllm", model)
    assert [users for users, _, _ in points] == [1, 4, 16, 32]
    context = 40 + 4  # the prompt, and half of eight tokens
    assert points[0][1].bytes == pytest.approx(model.decode_bytes("BF16") + (context + 1) * 23_040)
    values = step_time.values(points, 20.0, reference(find_lab("3.3.1"), STEP))
    parts = values["overhead_ms"] + values["bytes_ms"]
    each = values["kv_ms_per_user"] + values["operations_ms_per_user"]
    for users, (measured, modelled) in values["steps"].items():
        assert measured == pytest.approx(51)
        assert modelled == pytest.approx(parts + int(users) * each)
        assert modelled == pytest.approx(
            measured, rel=0.06
        )  # it doesn't grow with users: the KV cache's part can't fit
    assert values["bytes_ms"] == pytest.approx(model.decode_bytes("BF16") / 20e6)


def test_an_engine_that_widened_its_weights_reads_twice_as_long(model: ModelChoice) -> None:
    fill({"vllm": 50})
    entries = results.load_results("3.3.1")
    wide = {key: {**e, "provenance": {**e["provenance"], "dtype": "float32"}} for key, e in entries.items()}
    for entry in entries.values():
        entry["provenance"].pop("dtype", None)  # as ledgers were before
    step = reference(find_lab("3.3.1"), STEP)
    narrow_ms, wide_ms = (
        step_time.values(step_time.points(some, "vllm", model), 20.0, step)["bytes_ms"] for some in (entries, wide)
    )
    assert wide_ms == pytest.approx(2 * narrow_ms)
