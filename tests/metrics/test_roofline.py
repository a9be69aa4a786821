"""Ceilings are compared with published arithmetic, and fits with the machines that made their points."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from shared import LabError, paths
from shared.files import held
from shared.hardware import Machine, detect
from shared.metrics import roofline
from shared.metrics.roofline import (
    SPARK,
    Ceilings,
    Fit,
    Work,
    bits_per_weight,
    ceilings,
    decode_step,
    fit,
    limit_tok_s,
    measure,
    prefill,
)
from shared.models import ModelChoice, choice
from shared.models.catalogue import LLAMA_8B, entry
from tests import machines

BIG = choice.from_catalogue_entry(entry(LLAMA_8B), "3.3.1", token=False)


@pytest.mark.parametrize(("precision", "tok_s"), [("BF16", 18.2), ("NVFP4", 54.9)])
def test_the_ceiling_of_an_8b_model_on_a_spark_is_the_published_one(precision: str, tok_s: float) -> None:
    work = decode_step(BIG, precision, users=1, context_tokens=0)
    assert limit_tok_s(work, SPARK) == pytest.approx(tok_s, rel=0.005)


def test_bytes_and_operations_of_the_small_model(model: ModelChoice) -> None:
    one, sixteen = (decode_step(model, "BF16", users, 100) for users in (1, 16))
    assert one.bytes == pytest.approx(model.file_bytes("BF16") + 101 * 23_040)
    assert sixteen.bytes - one.bytes == 15 * 101 * 23_040  # weights are read once for all
    assert (one.operations, sixteen.operations) == (2 * 134_515_008, 32 * 134_515_008)
    long = prefill(model, "BF16", 512)
    assert long.operations == 1024 * (134_515_008 - 49_152 * 576) + 2 * 49_152 * 576
    assert long.tokens == 512


def test_sixteen_users_may_pass_the_ceiling_of_one(model: ModelChoice) -> None:
    here = Ceilings(20, 5, "measured")
    assert limit_tok_s(decode_step(model, "BF16", 16, 100), here) > 8 * limit_tok_s(
        decode_step(model, "BF16", 1, 100), here
    )


def test_widened_weights_and_keys_are_twice_the_bytes_of_a_step(model: ModelChoice) -> None:
    narrow, wide = (decode_step(model, "BF16", 4, 100, width) for width in (2, 4))
    assert wide.bytes == pytest.approx(2 * narrow.bytes)
    assert wide.operations == narrow.operations


def points(planted: Fit, noise: float, works: list[Work]) -> list[tuple[Work, float]]:
    source = np.random.default_rng(5)
    return [(work, planted.predict(work).step_ms * source.normal(1, noise)) for work in works]


USERS = (1, 2, 4, 8, 16, 32)


def test_a_fit_finds_what_was_planted(model: ModelChoice) -> None:
    planted = Fit(6.0, 15.0, 0.3, 0.0)
    works = [decode_step(model, form, users, 100) for users in USERS for form in ("BF16", "Q8_0", "Q4_0")]
    found = fit(points(planted, 0.01, works))
    assert found.overhead_ms == pytest.approx(6, rel=0.15)
    assert found.bandwidth_gb_s == pytest.approx(15, rel=0.15)
    assert found.peak_tflop_s == pytest.approx(0.3, rel=0.05)
    assert 0 < found.worst_residual < 0.05


def test_users_alone_cannot_tell_overhead_from_bytes(model: ModelChoice) -> None:
    planted = Fit(6.0, 15.0, 0.3, 0.0)
    works = [decode_step(model, "BF16", users, 0) for users in USERS]
    with pytest.raises(LabError, match=r"can't separate overhead, bytes and operations.*\nFix: vary the precision"):
        fit(points(planted, 0, works))
    found = fit(points(planted, 0.01, works), bandwidth_gb_s=15)
    assert found.overhead_ms == pytest.approx(6, rel=0.2)
    assert found.peak_tflop_s == pytest.approx(0.3, rel=0.1)
    with pytest.raises(LabError, match="fit of three terms needs 4 points, but has 3"):
        fit(points(planted, 0, works[:3]))


def test_a_term_that_does_not_show_is_none_and_never_negative(model: ModelChoice) -> None:
    works = [decode_step(model, form, users, 100) for users in USERS for form in ("BF16", "Q4_0")]
    found = fit(points(Fit(0.0, 15.0, None, 0.0), 0, works))
    assert found.overhead_ms == pytest.approx(0, abs=1e-6)
    assert found.bandwidth_gb_s == pytest.approx(15)
    assert found.peak_tflop_s is None


def test_this_machine_is_measured(model: ModelChoice) -> None:
    seen = measure(model.weight_bytes(), cores=1)
    assert seen.kind == "measured"
    assert 0.5 < seen.bandwidth_gb_s < 2000
    assert 0.001 < seen.peak_tflop_s < 100


def test_the_peak_is_that_of_the_faster_product_at_its_best_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """On many cores a product of 512 is over before all have begun. A slow kind is not measured at every size."""
    rates = {(torch.float32, 512): 0.4, (torch.float32, 1024): 1.5, (torch.float32, 2048): 1.2}
    rates[torch.bfloat16, 512] = 0.1
    locked = []

    def best_s(do: Any, for_s: float) -> float:
        locked.append(held(paths.measuring()))
        if not hasattr(do, "args"):
            return 1.0  # the sum that measures the bandwidth
        size = do.args[0].shape[0]
        return float(2 * size**3 / (1e12 * rates[do.args[0].dtype, size]))

    monkeypatch.setattr(roofline, "best_s", best_s)
    assert measure(4e6, cores=1).peak_tflop_s == pytest.approx(1.5)
    assert locked == [True] * 5  # no other measurement runs beside it


def test_a_gpu_has_the_ceilings_of_its_data_sheet_and_an_unknown_one_says_so(
    spark: Machine, machine: Machine, model: ModelChoice
) -> None:
    assert ceilings(spark, 1e9) is SPARK
    assert ceilings(detect(machines.machine("h100")), 1e9).bandwidth_gb_s == 3350
    assert ceilings(machine, model.weight_bytes()).kind == "measured"
    with pytest.raises(LabError, match=r"peak of NVIDIA GeForce RTX 9090, 15.0 are not known.*\nFix: .*DATA_SHEETS"):
        ceilings(replace(spark, gpu="NVIDIA GeForce RTX 9090, 15.0"), 1e9)


def test_a_speed_tells_how_many_bits_were_read() -> None:
    most = bits_per_weight(59, 8.03e9, SPARK.bandwidth_gb_s)
    assert most == pytest.approx(4.61, abs=0.01)
    assert limit_tok_s(Work(8.03e9 * most / 8, 0, 1), SPARK) == pytest.approx(59)
