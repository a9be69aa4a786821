"""What the labs need to know of an engine, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.models import ModelChoice

Flags = Mapping[str, object]

PROFILES = ("cpu", "cuda", "spark")  # of shared.hardware
CAPABILITIES = ("continuous batching", "prefix cache", "draft model", "EAGLE-3", "tensor parallel", "Prometheus")


@dataclass(frozen=True)
class Start:
    """What a start command is made of."""

    home: Path  # where the engine is installed
    model: ModelChoice
    precision: str
    port: int
    cores: int
    flags: Flags = field(default_factory=dict)  # those that a notebook shows; appended to the command


@dataclass(frozen=True)
class EngineSpec:
    """One engine: how it is started natively, when it is ready, how to talk to it, and what it can do."""

    name: str
    title: str
    command: Callable[[Start], list[str]]  # without the notebook's flags
    env: Callable[[Start], Mapping[str, str]]
    precisions: tuple[str, ...]  # the weights that it loads; the first is the default
    reads: str  # "gguf" | "hf": a GGUF file per precision, or the safetensors folder
    token_ids: str  # how it returns the ids of generated tokens: see api.greedy_tokens
    built_on: str = ""  # another engine, whose programs it runs
    port: int = 0  # where it listens if nobody says otherwise; the labs always say: a free one
    flags_in: str = "arguments"  # or "environment": where it takes its flags from
    flags_fault: Callable[[str, Flags], str] | None = None  # (its log, flags): which one it silently left aside
    served_name: Callable[[ModelChoice, str], str] = lambda model, _: model.name  # as requests name the model
    prepare: Callable[[str, ModelChoice, str], None] | None = None  # (url, model, precision), before the first token
    health: str = "/health"
    metrics: str = "/metrics"  # Prometheus text; "" if it has none
    metrics_of: str = ""  # the program below it that serves the metrics, if it isn't the engine itself
    counters: Mapping[str, str] = field(default_factory=dict)  # our name → its metric's
    exact_length: Mapping[str, object] = field(default_factory=dict)  # request fields that suppress end-of-text
    startup_s: int = 30  # what to expect on two cores, said while waiting
    kv_bytes: Callable[[ModelChoice, Flags], int] = lambda *_: 0  # what it sets apart for keys and values
    overhead_gib: float = 0.5  # its processes, beside weights and KV cache; measured on two cores
    unavailable: str = ""  # why the labs can't start it; "" if they can
    cannot: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # profile → capability → reason
    causes: tuple[tuple[str, str, str], ...] = ()  # (pattern in the log, cause, fix)

    def weights_form(self, precision: str) -> str:
        """What `ModelChoice.weights` calls the file for this engine."""
        return precision if self.reads == "gguf" else "hf"

    def why_not(self, profile: str, capability: str) -> str:
        """Why it can't do this on machines of this profile; "" if it can."""
        return self.unavailable or self.cannot.get(profile, {}).get(capability, "")


def everywhere(reasons: Mapping[str, str]) -> Mapping[str, Mapping[str, str]]:
    """What an engine can't do on any machine: today all of them start the processor's build of it."""
    return dict.fromkeys(PROFILES, reasons)


def as_arguments(flags: Flags) -> list[str]:
    """{"--a": 1, "--b": True, "--c": False} → ["--a", "1", "--b"]: False leaves a switch out."""
    out: list[str] = []
    for flag, value in flags.items():
        if value is not False:
            out += [flag] if value is True else [flag, str(value)]
    return out
