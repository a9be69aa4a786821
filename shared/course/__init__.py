"""What the six labs ask of a student: their exercises, and the claims of their milestones."""

from dataclasses import dataclass
from pathlib import Path

from shared import paths
from shared.course import (
    batching_claims,
    benchmark_arithmetic,
    benchmark_claims,
    benchmark_figures,
    benchmark_traps,
    continuous_batching,
)
from shared.errors import LabError
from shared.evidence import Claim
from shared.exercise import Exercise


@dataclass(frozen=True)
class Lab:
    """One of the six. Without claims it is not written yet."""

    number: str
    notebook: str
    milestone: str  # its line of the module's checklist
    exercises: tuple[Exercise, ...] = ()
    claims: tuple[Claim, ...] = ()

    @property
    def solution(self) -> Path:
        return paths.REPO / "solutions" / self.notebook


LABS = {
    lab.number: lab
    for lab in (
        Lab(
            "3.3.1", "lab-3.3.1-engine-benchmark.ipynb", "comprehensive engine benchmark report",
            benchmark_figures.EXERCISES + benchmark_arithmetic.EXERCISES + benchmark_traps.EXERCISES,
            benchmark_claims.CLAIMS,
        ),
        Lab(
            "3.3.2", "lab-3.3.2-vllm-continuous-batching.ipynb", "vLLM with continuous batching",
            continuous_batching.EXERCISES, batching_claims.CLAIMS,
        ),
        Lab("3.3.3", "lab-3.3.3-tensorrt-llm-prefill.ipynb", "TensorRT-LLM engine built and tested"),
        Lab("3.3.4", "lab-3.3.4-speculative-decoding.ipynb", "speculative decoding speed-up measured"),
        Lab("3.3.5", "lab-3.3.5-production-api.ipynb", "production FastAPI server implemented"),
        Lab("3.3.6", "lab-3.3.6-ollama-web-ui.ipynb", "Ollama web UI enhanced"),
    )
}  # fmt: skip


def lab(number: str) -> Lab:
    if number not in LABS:
        raise LabError(f"There is no lab {number!r}.", f"choose one of {', '.join(LABS)}")
    return LABS[number]
