"""From a recipe to a finished engine, and whether it computes what torch computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from shared.course.prefill.ahead_of_time import aoti_compiler, build, openvino_compiler
from shared.course.prefill.ahead_of_time.build import Engine, Recipe
from shared.course.prefill.ahead_of_time.loaded import Runner
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}


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
    if recipe.compiler == "openvino":
        stages = openvino_compiler.stages(recipe, prefill, threads, calibration)
    else:
        stages = aoti_compiler.stages(recipe, prefill)
    return build.run_stages(recipe, made_of, stages)


@dataclass(frozen=True)
class Agreement:
    """How far an engine's logits are from the reference's, over several prompts."""

    prompts: int
    same_argmax: int
    max_difference: float  # of any logit
    max_logit_gap: float  # how far the engine's best token is below the reference's best, in logits of the reference

    def values(self) -> dict[str, float]:
        return dict(vars(self))


def agreement(engine: Runner, reference: Runner, prompts: Sequence[Sequence[int]]) -> Agreement:
    """Compare the logits of an engine and of the reference after each prompt."""
    same, differences, gaps = 0, [], []
    for ids in prompts:
        ours, theirs = engine(ids), reference(ids)
        same += int(ours.argmax() == theirs.argmax())
        differences.append(float(np.abs(ours - theirs).max()))
        gaps.append(float(theirs.max() - theirs[ours.argmax()]))
    return Agreement(len(prompts), same, max(differences), max(gaps))
