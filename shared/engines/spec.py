"""What the labs need to know of an engine, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.models import ModelChoice

Flags = Mapping[str, object]


@dataclass(frozen=True)
class Start:
    """What a start command is made of, beside the flags that a notebook shows."""

    home: Path  # where the engine is installed
    model: ModelChoice
    precision: str
    port: int
    cores: int


@dataclass(frozen=True)
class EngineSpec:
    """One engine: how it is started natively, when it is ready, and how to talk to it."""

    name: str
    title: str
    command: Callable[[Start], list[str]]  # without the notebook's flags, which are appended
    env: Callable[[Start], Mapping[str, str]]
    precisions: tuple[str, ...]  # the weights that it loads; the first is the default
    reads: str  # "gguf" | "hf": a GGUF file per precision, or the safetensors folder
    token_ids: str  # how it returns the ids of generated tokens: see client.greedy_tokens
    health: str = "/health"
    metrics: str = "/metrics"
    exact_length: Mapping[str, object] = field(default_factory=dict)  # request fields that suppress end-of-text
    startup_s: int = 60  # what to expect on two cores, said while waiting
    causes: tuple[tuple[str, str, str], ...] = ()  # (pattern in the log, cause, fix)

    def weights_form(self, precision: str) -> str:
        """What `ModelChoice.weights` calls the file for this engine."""
        return precision if self.reads == "gguf" else "hf"


def as_arguments(flags: Flags) -> list[str]:
    """{"--a": 1, "--b": True, "--c": False} → ["--a", "1", "--b"]: False leaves a switch out."""
    out: list[str] = []
    for flag, value in flags.items():
        if value is not False:
            out += [flag] if value is True else [flag, str(value)]
    return out
