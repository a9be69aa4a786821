"""What the lab's cells share: the small model's prefill in each number format, its engines, and the prompts.

kit = Kit(model, machine)
engine = kit.build(kit.recipe("openvino"))
with kit.load(engine) as run: ...
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from shared.course.prefill.ahead_of_time import loaded, making
from shared.course.prefill.ahead_of_time.build import Engine, Recipe
from shared.course.prefill.ahead_of_time.loaded import InTorch, Loaded
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel
from shared.errors import LabError
from shared.hardware.machine import Machine
from shared.hardware.processor import torch_dtype
from shared.load.prompts import CHECK_QUESTIONS
from shared.metrics import roofline
from shared.metrics.roofline import Ceilings
from shared.models.choice import ModelChoice
from shared.models.llama import Llama

CHECKED_PROMPTS = 100
CALIBRATION_PROMPTS = 32  # NNCF takes the ranges of activations from them
TOPICS = ("rain", "bread", "the moon", "a bridge", "music", "iron", "trees", "maps", "sleep", "light")


@dataclass(frozen=True)
class Kit:
    """The model of this machine, as the lab compiles and runs it."""

    model: ModelChoice
    machine: Machine

    def __post_init__(self) -> None:
        if not self.model.local:
            raise LabError(
                f"{self.model.name} is fetched by an engine's container; the lab compiles a model on this machine.",
                "build the small model: make engines, then LABS_PROFILE=cpu",
            )

    @functools.cached_property
    def device(self) -> str:
        """Where torch computes: an NVIDIA GPU if torch can use one, else the processor."""
        return "cuda" if self.machine.gpu and torch.cuda.is_available() else "cpu"

    @property
    def dtype(self) -> str:
        """The number format in which torch computes faster there."""
        return "bfloat16" if self.device == "cuda" else torch_dtype()

    @property
    def comparable(self) -> tuple[str, ...]:
        """The compilers whose engines compute where torch does. OpenVINO's compute on the processor."""
        return ("openvino", "aoti") if self.device == "cpu" else ("aoti",)

    def recipe(self, compiler: str, length: int | None = None) -> Recipe:
        """A recipe in the number format that is faster where this compiler's engines compute."""
        return Recipe(compiler, torch_dtype() if compiler == "openvino" else self.dtype, length)

    def ceilings(self, working_set_bytes: float) -> Ceilings:
        """Bandwidth and peak of the device on which torch computes, measured now."""
        return roofline.measure(working_set_bytes, self.machine.cores, self.device)

    @functools.cached_property
    def _llamas(self) -> dict[torch.dtype, Llama]:
        return {}

    def llama(self, precision: str = "float32") -> Llama:
        """The reference model in this number format (INT8 starts from float32)."""
        dtype = making.DTYPES[precision]
        if dtype not in self._llamas:
            self._llamas[dtype] = Llama.load(self.model.weights("hf"), dtype)
        return self._llamas[dtype]

    def prefill(self, recipe: Recipe) -> PrefillModel:
        """The graph that this recipe's compiler is given: OpenVINO converts float32 by itself."""
        for_openvino = recipe.compiler == "openvino"
        module = PrefillModel(self.llama("float32" if for_openvino else recipe.precision), mask_once=for_openvino)
        placed: PrefillModel = module.eval().to("cpu" if for_openvino else self.device)
        return placed

    def build(self, recipe: Recipe) -> Engine:
        """The engine of this recipe, from the cache or built now."""
        calibration = self.chats(CALIBRATION_PROMPTS, "calibration") if recipe.precision == "int8" else ()
        return making.make(recipe, self.prefill(recipe), self.model.sha256("hf"), self.machine.cores, list(calibration))

    def load(self, engine: Engine, profile: bool = False) -> Loaded:
        """The engine in a process of its own."""
        return loaded.load(engine, self.machine.cores, profile=profile)

    @contextlib.contextmanager
    def loaded(self, engines: Mapping[str, Engine]) -> Iterator[dict[str, Loaded]]:
        """These engines by name, each in a process of its own until the block ends."""
        with contextlib.ExitStack() as until_the_end:
            yield {name: until_the_end.enter_context(self.load(engine)) for name, engine in engines.items()}

    def torch(self, precision: str, compiled: bool = False) -> InTorch:
        """The prefill in this process: eager, or compiled by torch.compile."""
        module = PrefillModel(self.llama(precision)).eval().to(self.device)
        return InTorch(module, self.machine.cores, compiled)

    @functools.cached_property
    def checked(self) -> tuple[list[list[int]], list[np.ndarray[Any, Any]]]:
        """The prompts on which engines are checked, and the logits of eager torch in float32 after each."""
        prompts, reference = self.chats(CHECKED_PROMPTS), self.torch("float32")
        return prompts, [reference(ids) for ids in prompts]

    def chats(self, count: int, kind: str = "check") -> list[list[int]]:
        """Different prompts as token ids, in the model's chat template; those of another kind differ."""
        texts = self._texts(kind)
        return [self.llama().prompt_ids([{"role": "user", "content": next(texts)}]) for _ in range(count)]

    def _texts(self, kind: str) -> Iterator[str]:
        for round_number in range(1000):
            for number, question in enumerate(CHECK_QUESTIONS):
                topic = TOPICS[(number + round_number) % len(TOPICS)]
                yield f"{question} Then say something about {topic}, number {round_number} of the {kind}."
