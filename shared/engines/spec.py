"""What the labs need to know of an engine, as data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import LabError
from shared.hardware.processor import torch_dtype
from shared.models.choice import ModelChoice

Flags = Mapping[str, object]

ONE_GPU = "it splits a model over GPUs, and a Spark has one"
CAPABILITIES = ("continuous batching", "prefix cache", "draft model", "EAGLE-3", "tensor parallel", "Prometheus")


@dataclass(frozen=True)
class LaunchPlan:
    """What a start command is made of."""

    home: Path  # where the engine is installed; of a container, where the labs keep what they mount into it
    model: ModelChoice
    precision: str
    port: int  # where it is to listen; in a container always the image's own
    cores: int
    flags: Flags = field(default_factory=dict)  # those that a notebook shows; appended to the command
    weights: str = ""  # the file, folder or repository to load, as the engine sees it
    kv_bytes: int = 0  # the KV cache that the flags ask for
    share: float = 0.0  # of the GPU's memory: weights, KV cache and the engine's own, together


@dataclass(frozen=True)
class Native:
    """An engine as a process on this machine's processor, as `make engines` installed it."""

    command: Callable[[LaunchPlan], list[str]]  # without the notebook's flags
    env: Callable[[LaunchPlan], Mapping[str, str]]
    startup_s: int  # what to expect on two cores, said while waiting
    overhead_gib: float  # its processes, beside weights and KV cache; measured on two cores
    precisions: tuple[str, ...] = ("BF16",)  # the weights that it loads; the first is the default
    on_torch: bool = False  # computes in hardware.torch_dtype(), and so may widen what it loads
    kv_bytes: Callable[[ModelChoice, Flags], int] = lambda *_: 0  # what it sets apart for keys and values
    ready_within_s: float = 300
    cannot: Mapping[str, str] = field(default_factory=dict)  # capability → reason


@dataclass(frozen=True)
class Container:
    """An engine in its image, on an NVIDIA GPU. Nobody here has run one: see environment/verified."""

    image: str  # its name in environment/containers/images.toml
    arguments: Callable[[LaunchPlan], list[str]]  # what follows the image, whose entrypoint stays; without the flags
    startup_s: int  # a guess, said while waiting: compiling kernels and loading 16 GB
    overhead_gib: float  # beside weights and KV cache, as owners of a Spark reported
    kv_bytes: Callable[[ModelChoice, Flags], int | None]  # None: the flags leave the KV cache to the engine's default
    bound_by: str  # the flags that `kv_bytes` needs, for the error
    env: Callable[[LaunchPlan], Mapping[str, str]] = lambda _: {}
    files: Callable[[LaunchPlan], Mapping[str, str]] = lambda _: {}  # name below /labs in the container → its text
    share_flag: str = ""  # the notebook's own word on the share of memory, if the engine has such a flag
    precisions: tuple[str, ...] = ("BF16",)
    ready_within_s: float = 1800  # a 16 GB load from a cold disk, kernels compiled for a new GPU
    speculate: Callable[[str], Flags] | None = None  # (the EAGLE-3 head's repository or folder) → flags
    cannot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineSpec:
    """One engine: the ways to start it, when it is ready, how to talk to it, and what it can do."""

    name: str
    title: str
    reads: str  # "gguf" | "hf": a GGUF file per precision, or the safetensors folder
    token_ids: str  # how it returns the ids of generated tokens: see api.greedy_tokens
    container: Container
    native: Native | None = None
    no_native: str = ""  # why there is no native way
    built_on: str = ""  # another engine, whose programs it runs natively
    flags_in: str = "arguments"  # or "environment": where it takes its flags from
    flags_fault: Callable[[str, Flags], str] | None = None  # (its log, flags): which one it silently left aside
    served_name: Callable[[ModelChoice, str], str] = lambda model, _: model.name  # as requests name the model
    prepare: Callable[[str, ModelChoice, str], None] | None = None  # (url, model, precision), before the first token
    health: str = "/health"
    metrics: str = "/metrics"  # Prometheus text; "" if it has none
    metrics_of: str = ""  # the program below it that serves the metrics, if it isn't the engine itself
    counters: Mapping[str, str] = field(default_factory=dict)  # our name → its metric's
    exact_length: Mapping[str, object] = field(default_factory=dict)  # request fields that suppress end-of-text

    def way(self, runner: str) -> Native | Container:
        """How it is started by this runner ("native" | "container"). Raises LabError if it can't be."""
        if runner == "container":
            return self.container
        if self.native is None:
            raise LabError(f"{self.title} can't be started here: {self.no_native}.", "use another engine")
        return self.native

    def weights_form(self, model: ModelChoice, precision: str) -> str:
        """What the ModelChoice calls these weights for this engine."""
        if not model.local:
            return f"{self.reads} {precision}"
        return precision if self.reads == "gguf" else "hf"

    def dtype(self, runner: str) -> str:
        """What it is told to compute in; "" for an engine that decides by itself."""
        native = self.native if runner == "native" else None
        return torch_dtype() if native and native.on_torch else ""

    def why_not(self, runner: str, capability: str) -> str:
        """Why it can't do this when started by this runner; "" if it can."""
        if runner == "container":
            return self.container.cannot.get(capability, "")
        return self.no_native if self.native is None else self.native.cannot.get(capability, "")


def as_arguments(flags: Flags) -> list[str]:
    """{"--a": 1, "--b": True, "--c": False} → ["--a", "1", "--b"]: False leaves a switch out."""
    out: list[str] = []
    for flag, value in flags.items():
        if value is not False:
            out += [flag] if value is True else [flag, str(value)]
    return out


def whole_number(flags: Flags, name: str) -> int | None:
    """The whole number that this flag is set to, None if it isn't set. Raises LabError if it is something else."""
    if name not in flags:
        return None
    try:
        return int(str(flags[name]))
    except ValueError:
        raise LabError(f"{name} is {flags[name]!r}, and it takes a whole number.", "correct the flag") from None
