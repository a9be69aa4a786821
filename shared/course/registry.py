"""The registry of the six labs. A lab's exercises and claims are imported from its room on first use."""

import functools
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared import paths
from shared.course.evidence import Claim
from shared.course.exercise import Exercise
from shared.errors import LabError


@dataclass(frozen=True)
class Lab:
    """One of the six labs."""

    number: str
    notebook: str
    milestone: str  # as the module's checklist names it
    outline_hours: float  # in the published outline: module 3.3 of the public DGX Spark AI curriculum, read 2026-11-24
    room: str = ""  # the package in shared.course with its exercises and claims; "": not written yet
    starter: str = ""  # the folder of starter code beside its notebook, in labs/ and in solutions/

    @property
    def solution(self) -> Path:
        return paths.REPO / "solutions" / self.notebook

    @functools.cached_property
    def exercises(self) -> tuple[Exercise, ...]:
        return self._of_room("exercises", "EXERCISES")

    @functools.cached_property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of its milestone. A lab that is not written yet has none."""
        return self._of_room("claims", "CLAIMS")

    def _of_room(self, module: str, name: str) -> tuple[Any, ...]:
        if not self.room:
            return ()
        found: tuple[Any, ...] = getattr(importlib.import_module(f"shared.course.{self.room}.{module}"), name)
        return found


LABS = {
    lab.number: lab
    for lab in (
        Lab("3.3.1", "lab-3.3.1-engine-benchmark.ipynb", "comprehensive engine benchmark report", 3, "benchmark"),
        Lab("3.3.2", "lab-3.3.2-vllm-continuous-batching.ipynb", "vLLM with continuous batching", 2, "batching"),
        Lab("3.3.3", "lab-3.3.3-tensorrt-llm-prefill.ipynb", "TensorRT-LLM engine built and tested", 3),
        Lab(
            "3.3.4", "lab-3.3.4-speculative-decoding.ipynb", "speculative decoding speed-up measured", 2, "speculation"
        ),
        Lab(
            "3.3.5", "lab-3.3.5-production-api.ipynb", "production FastAPI server implemented", 2, "gateway", "gateway"
        ),
        Lab("3.3.6", "lab-3.3.6-ollama-web-ui.ipynb", "Ollama web UI enhanced", 2, "webui", "webui"),
    )
}


def find_lab(number: str) -> Lab:
    """The lab with this number. Raises LabError if there is none."""
    if number not in LABS:
        raise LabError(f"There is no lab {number!r}.", f"choose one of {', '.join(LABS)}")
    return LABS[number]
