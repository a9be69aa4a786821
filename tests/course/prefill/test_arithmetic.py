"""The operations of a prefill, counted against torch's own counter, and what follows from them."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from shared.course.prefill import arithmetic
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel
from shared.course.prefill.arithmetic import Shape
from shared.metrics.roofline import SPARK, Ceilings
from tests.helpers.tiny_llama import CONFIGS, TINY, tiny

SMOLLM2 = Shape(layers=30, hidden=576, heads=9, kv_heads=3, head_dim=64, mlp=1536, vocabulary=49152)


@pytest.mark.parametrize("tokens", [2, 17, 64])
def test_operations_are_those_that_torch_counts(tokens: int) -> None:
    llama = tiny(CONFIGS["llama"])[0]
    parts = arithmetic.operations(arithmetic.shape_of(llama), tokens)
    with FlopCounterMode(display=False) as counter:
        PrefillModel(llama)(torch.ones((1, tokens), dtype=torch.long), torch.tensor([tokens - 1]))
    products = parts.projections + parts.mlp + parts.output
    square = 4 * tokens**2 * TINY["num_hidden_layers"] * TINY["hidden_size"]  # torch counts masked pairs, too
    assert counter.get_total_flops() in (products, products + square)
    assert parts.attention == square // 2 * (tokens + 1) // tokens


def test_the_small_model_has_its_known_size() -> None:
    assert SMOLLM2.weights == pytest.approx(134_515_008, rel=1e-3)  # norms aren't matrices


def test_attention_overtakes_the_mlp_where_the_counts_cross() -> None:
    length = arithmetic.attention_overtakes(SMOLLM2)
    assert length == 4607
    at, before = (arithmetic.operations(SMOLLM2, n) for n in (length, length - 1))
    assert at.attention >= at.mlp
    assert before.attention < before.mlp


def test_the_ridge_is_where_intensity_reaches_the_machines_ratio() -> None:
    length = arithmetic.ridge_tokens(SMOLLM2, SPARK, 2)
    assert length
    ridge = SPARK.peak_tflop_s * 1e3 / SPARK.bandwidth_gb_s
    assert arithmetic.intensity(SMOLLM2, length, 2) >= ridge > arithmetic.intensity(SMOLLM2, length - 1, 2)
    assert arithmetic.ridge_tokens(SMOLLM2, Ceilings(1e-6, 1e6, "made up"), 2) is None
    assert arithmetic.ridge_tokens(SMOLLM2, Ceilings(1e9, 1e-6, "made up"), 2) == 1


def test_more_than_the_peak_is_flagged() -> None:
    parts = arithmetic.operations(SMOLLM2, 512)
    fair = arithmetic.achieved(parts, seconds=1.0, peak_tflop_s=2 * parts.total / 1e12)
    assert (fair.share, fair.suspicious) == (0.5, False)
    wrong = arithmetic.achieved(parts, seconds=0.1, peak_tflop_s=2 * parts.total / 1e12)
    assert wrong.suspicious
    assert "more than is possible" in str(wrong)


def test_wider_values_move_more_bytes() -> None:
    assert arithmetic.bytes_moved(SMOLLM2, 10, 4) == 2 * arithmetic.bytes_moved(SMOLLM2, 10, 2)
    assert arithmetic.intensity(replace(SMOLLM2, layers=60), 10, 2) > arithmetic.intensity(SMOLLM2, 10, 2)
