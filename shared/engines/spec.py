"""What the labs need to know about an engine, as data."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.errors import LabError
from shared.hardware.processor import torch_dtype
from shared.models.choice import ModelChoice

Flags = Mapping[str, object]

ONE_GPU = "it splits a model over GPUs, and a Spark has one"
CAPABILITIES = ("continuous batching", "prefix cache", "draft model", "EAGLE-3", "tensor parallel", "Prometheus")
DRAFTS = {"eagle3": "EAGLE-3", "model": "draft model", "ngram": "n-gram look-up"}  # kind → the capability it needs


@dataclass(frozen=True)
class Draft:
    """Where an engine's drafts come from, and how many tokens it drafts for each verification.

    kind     "eagle3": a head; "model": a small model; "ngram": what followed the last tokens earlier in the text
    tokens   drafted for each verification, one after the other (k)
    path     the head's or model's folder, or its GGUF for llama.cpp. None for n-gram look-up, and for an engine in a
             container, which takes the draft that the catalogue names for the model.
    """

    kind: str
    tokens: int
    path: Path | None = None
    match: int = 3  # n-gram look-up: so many last tokens must occur earlier in the text
    synthetic_length: float | None = (
        None  # llama.cpp accepts drafts at random: tokens per verification, its own included
    )

    def __post_init__(self) -> None:
        if self.kind not in DRAFTS:
            raise LabError(f"There is no draft of kind {self.kind!r}.", f"choose one of {', '.join(DRAFTS)}")
        if not all(type(number) is int and number >= 1 for number in (self.tokens, self.match)):
            raise LabError(
                f"A draft has tokens={self.tokens!r} and match={self.match!r}, but both must be whole numbers of at "
                "least 1.",
                "to run without drafts, leave out the argument draft of launch()",
            )
        length = self.synthetic_length
        if length is not None and not 1 <= length <= self.tokens + 1:
            raise LabError(
                f"synthetic_length is {length}, but a verification of {self.tokens} drafts adds 1 to {self.tokens + 1} "
                "tokens.",
                f"choose a length between 1 and {self.tokens + 1}",
            )


@dataclass(frozen=True)
class Speculation:
    """A draft as one engine was started with it."""

    draft: Draft
    flags: Flags  # that make the engine draft
    weights: str = ""  # the hash of the draft's weights, or repository@revision; "" for n-gram look-up
    bytes: int = 0  # of the draft's weights on disk

    def provenance(self) -> dict[str, Any]:
        """What a result records about it: no path."""
        draft = self.draft
        more = {"weights": self.weights} if draft.kind != "ngram" else {"match": draft.match}
        synthetic = {} if draft.synthetic_length is None else {"synthetic_length": draft.synthetic_length}
        return {"kind": draft.kind, "tokens": draft.tokens, **more, **synthetic}


@dataclass(frozen=True)
class LaunchPlan:
    """What a start command is made of."""

    home: Path  # where the engine is installed; for a container, the folder that is mounted into it
    model: ModelChoice
    precision: str
    port: int  # on which the engine listens; in a container always the image's own
    cores: int
    flags: Flags = field(default_factory=dict)  # as a notebook shows them; appended to the command
    weights: str = ""  # the file, folder or repository to load, as the engine sees it
    kv_bytes: int = 0  # the size of the KV cache that the flags ask for
    share: float = 0.0  # of the GPU's memory, for weights, KV cache and the engine itself together
    speculation: Speculation | None = None

    @property
    def every_flag(self) -> Flags:
        """The notebook's flags, and those of the draft."""
        return {**self.flags, **(self.speculation.flags if self.speculation else {})}


@dataclass(frozen=True)
class Native:
    """An engine as a process on this machine's processor, as `make engines` installed it."""

    command: Callable[[LaunchPlan], list[str]]  # without the notebook's flags
    env: Callable[[LaunchPlan], Mapping[str, str]]
    startup_s: int  # on two cores; printed while the engine starts
    overhead_gib: float  # of its processes, with prompts that they store, without weights and KV cache; on two cores
    precisions: tuple[str, ...] = ("BF16",)  # of weights that it can load; the first is the default
    on_torch: bool = False  # computes in hardware.torch_dtype(), which may be wider than the weights
    kv_bytes: Callable[[ModelChoice, Flags], int] = lambda *_: 0  # size of its KV cache
    ready_within_s: float = 300
    speculate: Callable[[Draft, str], Flags] | None = None  # (draft, its weights as the engine sees them) → flags
    refuses: Callable[[Flags], str] = lambda _: ""  # flags → why it must not be started with them
    greedy_only: str = ""  # why it verifies drafts at temperature 0 only; "" if it also does at other temperatures
    cannot: Mapping[str, str] = field(default_factory=dict)  # capability → reason


@dataclass(frozen=True)
class Container:
    """An engine in its image, on an NVIDIA GPU. None was run when this was written: see environment/verified."""

    image: str  # its name in environment/containers/images.toml
    arguments: Callable[[LaunchPlan], list[str]]  # after the image's name; without the flags. The entrypoint stays.
    startup_s: int  # estimated for compiling kernels and loading 16 GB; printed while the engine starts
    overhead_gib: float  # without weights and KV cache, as owners of a Spark reported, and the prompts that it stores
    kv_bytes: Callable[[ModelChoice, Flags], int | None]  # None if the flags set no limit
    bound_by: str  # the flags that `kv_bytes` needs, as the error names them
    env: Callable[[LaunchPlan], Mapping[str, str]] = lambda _: {}
    files: Callable[[LaunchPlan], Mapping[str, str]] = lambda _: {}  # name below /labs in the container → its text
    share_flag: str = ""  # the flag that sets the share of memory, if the engine has one
    precisions: tuple[str, ...] = ("BF16",)
    ready_within_s: float = 1800  # loading 16 GB from a cold disk, compiling kernels for a new GPU
    speculate: Callable[[Draft, str], Flags] | None = None  # (draft, its weights inside the container) → flags
    refuses: Callable[[Flags], str] = lambda _: ""
    greedy_only: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineSpec:
    """One engine: the ways to start it, when it is ready, how to talk to it, and what it can do."""

    name: str
    title: str
    reads: str  # "gguf" | "hf": a GGUF file per precision, or the safetensors folder
    token_ids: str  # how it returns the ids of generated tokens: see http.greedy_tokens
    container: Container
    native: Native | None = None
    no_native: str = ""  # why it can't run natively
    built_on: str = ""  # the name of another engine whose programs it runs natively
    flags_in: str = "arguments"  # or "environment": where it reads its flags
    flags_fault: Callable[[str, Flags], str] | None = None  # (its log, flags) → which flag it silently ignored
    draft_fault: Callable[[str], str] | None = None  # its log → why it runs without the draft that it was given
    served_name: Callable[[ModelChoice, str], str] = lambda model, _: model.name  # the model's name in requests
    prepare: Callable[[str, ModelChoice, str], None] | None = None  # (url, model, precision), before the first token
    health: str = "/health"
    metrics: str = "/metrics"  # Prometheus text; "" if it has none
    metrics_of: str = ""  # the child program that serves the metrics, if the engine itself doesn't
    counters: Mapping[str, str] = field(default_factory=dict)  # our name → the name of its metric
    accepted_at: str = ""  # the metric of accepted drafts by their position, which is its label; "" if it has none
    exact_length: Mapping[str, object] = field(default_factory=dict)  # request fields that suppress end-of-text

    def way(self, runner: str) -> Native | Container:
        """How this runner ("native" | "container") starts it. Raises LabError if it can't."""
        if runner == "container":
            return self.container
        if self.native is None:
            raise LabError(f"{self.title} can't be started here: {self.no_native}.", "use another engine")
        return self.native

    def weights_form(self, model: ModelChoice, precision: str) -> str:
        """The key under which the ModelChoice has these weights for this engine."""
        if not model.local:
            return f"{self.reads} {precision}"
        return precision if self.reads == "gguf" else "hf"

    def dtype(self, runner: str) -> str:
        """The data type that the labs make it compute in, or "" for an engine that decides by itself."""
        native = self.native if runner == "native" else None
        return torch_dtype() if native and native.on_torch else ""

    def why_not(self, runner: str, capability: str) -> str:
        """Why it lacks this capability when started by this runner, or "" if it has it."""
        if runner == "container":
            return self.container.cannot.get(capability, "")
        return self.no_native if self.native is None else self.native.cannot.get(capability, "")


def as_arguments(flags: Flags) -> list[str]:
    """{"--a": 1, "--b": True, "--c": False} → ["--a", "1", "--b"]. False leaves a switch out."""
    out: list[str] = []
    for flag, value in flags.items():
        if value is not False:
            out += [flag] if value is True else [flag, str(value)]
    return out


def whole_number(flags: Flags, name: str, *, least: int = 1, also: tuple[str, ...] = ()) -> int | None:
    """The whole number that this flag is set to, or None if it isn't set.

    Raises LabError for any other value, and for another spelling of the flag: the engine would take the last one, and
    the labs would compute its memory with this one. `also` holds the engine's other names for it.
    """
    written_once(flags, name, also)
    if name not in flags:
        return None
    text = str(flags[name])
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
        raise LabError(
            f"{name} is {flags[name]!r}, but must be a whole number from {least} to 10^18.",
            f"give a number without a sign or a unit, for example {{{name!r}: 4096}}",
        )
    return int(text)


def memory_share(flags: Flags, name: str) -> float | None:
    """The share of a GPU's memory that this flag is set to: above 0 and at most 1. None if it isn't set.

    Raises LabError for any other value, and for another spelling of the flag.
    """
    written_once(flags, name)
    if name not in flags:
        return None
    try:
        found = float(str(flags[name]))
    except ValueError:
        found = 0.0
    if not 0 < found <= 1:  # false for nan, too
        raise LabError(
            f"{name} is {flags[name]!r}, but must be a number above 0 and at most 1, with a decimal point.",
            f"give a share of the GPU's memory, for example {{{name!r}: 0.3}}, or leave the flag out",
        )
    return found


def written_once(flags: Flags, name: str, also: tuple[str, ...] = ()) -> None:
    """Raise LabError if the flags set this flag under another spelling, which an engine's parser takes for the same.

    These are `--max_num_seqs`, `--max-num-seqs=4` as one word, the abbreviation `--max-num-s`, and the names in `also`.
    """
    plain = name.lstrip("-").replace("_", "-")
    for flag in flags:
        other = flag.split("=")[0].lstrip("-").replace("_", "-")
        short = flag.startswith("--") and plain.startswith(other)
        if flag != name and (other == plain or short or flag.split("=")[0] in also):
            raise LabError(
                f"{flag} sets {name} in another spelling, and the labs compute an engine's memory with {name}.",
                f"write it as {{{name!r}: ...}}, once",
            )
