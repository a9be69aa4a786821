"""From a recipe to a finished engine, and whether it computes what torch computes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.course.prefill.ahead_of_time import aoti_compiler, build, openvino_compiler
from shared.course.prefill.ahead_of_time.build import Engine, Recipe
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel
from shared.metrics.correctness import GAP_LIMIT_NATS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}
# GiB of a build for each GiB of weights. OpenVINO took 2.4 (measured 2026-11-26); the C++ compiler takes some.
BUILD_MEMORY = 6


def make(
    recipe: Recipe,
    prefill: PrefillModel,
    weights_sha256: str,
    threads: int,
    calibration: Sequence[Sequence[int]] = (),
) -> Engine:
    """The engine of this recipe, from the cache or built now.

    `prefill` holds the weights in float32, for AOTInductor in the recipe's precision (`DTYPES`): it compiles what it is
    given, while OpenVINO converts. INT8 needs `calibration`: prompts as token ids.
    """
    made_of = build.ingredients(recipe, weights_sha256, prefill.embedding.device.type)
    weights_gib = sum(w.numel() * w.element_size() for w in prefill.parameters()) / 2**30
    if recipe.compiler == "openvino":
        stages = openvino_compiler.stages(recipe, prefill, threads, calibration)
    else:
        stages = aoti_compiler.stages(recipe, prefill)
    return build.run_stages(recipe, made_of, stages, BUILD_MEMORY * weights_gib)


@dataclass(frozen=True)
class Agreement:
    """How far an engine's next tokens and logits are from the reference's, over several prompts.

    A gap is how far the engine's best token lies below the reference's best one, in the reference's own logits. That
    difference of logits is a difference of log probabilities, so its unit is the nat. BF16 rounds a near-tie to either
    side. So a token is right if its gap is within the limit by which the labs judge all engines' text.
    """

    prompts: int
    same_token: int
    right_token: int  # the same token, or one within the limit
    worst_gap_nats: float
    mean_gap_nats: float
    max_difference: float  # of any logit

    def values(self) -> dict[str, float]:
        return dict(vars(self))


Logits = np.ndarray[Any, Any]  # [vocabulary]


def agreement(
    engine: Callable[[Sequence[int]], Logits], prompts: Sequence[Sequence[int]], expected: Sequence[Logits]
) -> Agreement:
    """Compare an engine's logits after each prompt with those that the reference computed for it."""
    differences, gaps = [], []
    for ids, theirs in zip(prompts, expected, strict=True):
        ours = engine(ids)
        differences.append(float(np.abs(ours - theirs).max()))
        gaps.append(float(theirs.max() - theirs[ours.argmax()]))
    return Agreement(
        prompts=len(gaps),
        same_token=sum(gap == 0 for gap in gaps),
        right_token=sum(gap <= GAP_LIMIT_NATS for gap in gaps),
        worst_gap_nats=max(gaps),
        mean_gap_nats=sum(gaps) / len(gaps),
        max_difference=max(differences),
    )
