"""Whether an engine fits into memory, and the floors of free memory below which a running engine is ended.

On a DGX Spark the CPU and the GPU share one memory. Running out of it raises no error: the machine freezes or resets.
So a launch is refused, with its sum, unless everything fits and a reserve stays free. While an engine loads and runs,
its watchdog (shared/launch/watchdog.py) ends it if free memory falls below a floor.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shared.engines import EngineSpec, Flags
from shared.engines.spec import Container, Speculation
from shared.errors import LabError
from shared.hardware.gpu import gpu_holders
from shared.hardware.machine import Machine
from shared.hardware.processor import BYTES_PER_VALUE
from shared.models.choice import ModelChoice

MEMINFO = Path("/proc/meminfo")  # the file that the watchdog reads; psutil is not available to it
SPARK_RESERVE_GIB = 20.0  # owners of a Spark leave this free beside weights, KV cache and the engine's own memory
NATIVE_RESERVE_GIB = 0.5
SPARK_FLOORS_GIB = (16.0, 8.0)  # while loading, while running; one report of an owner each


@dataclass(frozen=True)
class Need:
    """The memory that one engine needs, in GiB."""

    title: str
    weights: float
    kv: float
    own: float  # the engine itself: its processes, and on a GPU its workspaces and captured graphs
    reserve: float  # left for everything else
    draft: float = 0.0  # weights and KV cache of its draft

    @property
    def total(self) -> float:
        return self.weights + self.kv + self.own + self.reserve + self.draft

    def __str__(self) -> str:
        draft = f"{self.draft:.1f} for the draft + " if self.draft else ""
        return (
            f"{self.title} needs {self.weights:.1f} GiB for weights + {self.kv:.1f} for the KV cache + {self.own:.1f} "
            f"for the engine itself + {draft}{self.reserve:.1f} in reserve = {self.total:.1f} GiB"
        )


def need(
    spec: EngineSpec,
    model: ModelChoice,
    precision: str,
    flags: Flags,
    machine: Machine,
    speculation: Speculation | None = None,
) -> Need:
    """The memory that a launch needs. Raises LabError if the flags set no limit for the KV cache of a container."""
    way = spec.way(machine.runner)
    kv_bytes = way.kv_bytes(model, flags)
    if kv_bytes is None:
        assert isinstance(way, Container)
        raise LabError(
            f"{spec.title} takes most of the memory for its KV cache unless flags limit it. The flags given are "
            f"{dict(flags) or 'none'}.",
            f"limit the KV cache: set {way.bound_by}",
        )
    wider = BYTES_PER_VALUE[spec.dtype(machine.runner)] / 2
    weights = model.file_bytes(spec.weights_form(model, precision)) * wider
    reserve = SPARK_RESERVE_GIB if machine.unified_memory else NATIVE_RESERVE_GIB
    draft_bytes = 0.0
    if speculation:
        # A head keeps keys and values as one layer of the model does. A draft model is smaller than the model.
        layers = {"eagle3": 1, "model": model.layers, "ngram": 0}[speculation.draft.kind]
        draft_bytes = speculation.bytes * wider + kv_bytes * layers / model.layers
    return Need(spec.title, weights / 2**30, kv_bytes / 2**30, way.overhead_gib, reserve, draft_bytes / 2**30)


def share(needed: Need, machine: Machine) -> float:
    """All that the engine needs, without the reserve, as a share of the GPU's memory, rounded up to a hundredth."""
    used = needed.total - needed.reserve
    return min(0.99, int(used / gpu_memory_gib(machine) * 100 + 1) / 100)


def gpu_memory_gib(machine: Machine) -> float:
    """The memory of the GPU in GiB: its own, or the machine's where they share one memory."""
    return machine.memory_gib if machine.gpu_memory_gib is None else machine.gpu_memory_gib


def require(spec: EngineSpec, needed: Need, flags: Flags, machine: Machine, ours: Collection[int]) -> None:
    """Raise LabError if the engine doesn't fit into memory, or if another process than `ours` holds the GPU.

    It must fit by the sum of `needed`, and by the engine's own check at start of the share that `flags` ask for.
    """
    way = spec.way(machine.runner)
    fix = "stop another engine (make down), close other programs, or use a shorter context"
    there, only = machine.available_gib, f"only {machine.available_gib:.1f} GiB are available"
    if machine.gpu_memory_gib is not None and machine.runner == "container":
        there, only = machine.gpu_memory_gib, f"the GPU has only {machine.gpu_memory_gib:.1f} GiB"
    if needed.total > there:
        raise LabError(f"{needed}, but {only}.", fix)
    if not isinstance(way, Container):
        return
    if holders := [text for pid, text in gpu_holders().items() if pid not in ours]:
        raise LabError(
            f"Another program holds the GPU: {'; '.join(holders)}.",
            "end it: make down ends engines of the labs, ollama stop unloads a model of Ollama, docker ps and "
            "nvidia-smi list other programs",
        )
    if way.share_flag not in flags:
        return
    asked = flags[way.share_flag]
    try:
        asked_gib = float(str(asked)) * gpu_memory_gib(machine)
    except ValueError:
        raise LabError(
            f"{way.share_flag} is {asked!r}, but must be a number.",
            f"give a share of the GPU's memory, for example {{{way.share_flag!r}: 0.3}}, or leave the flag out",
        ) from None
    if asked_gib > there:
        raise LabError(
            f"{way.share_flag} {asked} asks for {asked_gib:.1f} of the GPU's {gpu_memory_gib(machine):.1f} GiB, but "
            f"{only}.",
            f"leave {way.share_flag} out: the labs set the share that this launch needs",
        )


def floors_gib(machine: Machine) -> tuple[float, float]:
    """The floors of available memory in GiB: while an engine loads, and while it runs.

    LABS_MEMORY_FLOORS_GIB=loading,running replaces them. Raises LabError if its value is not two numbers.
    """
    text = os.environ.get("LABS_MEMORY_FLOORS_GIB")
    if text:
        if not re.fullmatch(r"\d+(\.\d+)?,\d+(\.\d+)?", text):
            raise LabError(
                f"LABS_MEMORY_FLOORS_GIB is {text!r}, but must be two numbers.", "export LABS_MEMORY_FLOORS_GIB=16,8"
            )
        loading, running = map(float, text.split(","))
        return loading, running
    if machine.unified_memory:
        return SPARK_FLOORS_GIB
    # On other machines running out ends in an error or a killed process. The floor only keeps the machine responsive.
    return min(1.0, 0.03 * machine.memory_gib), min(0.5, 0.015 * machine.memory_gib)


def guard(machine: Machine, samples: Path) -> dict[str, object]:
    """The arguments of the watchdog's guard."""
    loading, running = floors_gib(machine)
    return {"meminfo": str(MEMINFO), "loading_gib": loading, "running_gib": running, "samples": str(samples)}


def story(samples: Path, needed: Need) -> str:
    """The end of an error message: the sum of an engine that the guard ended, the guard's last samples, and the fix."""
    lines = samples.read_text(errors="replace").splitlines()[-8:]
    return (
        f"The memory guard ended it before the machine could freeze. {needed}. The guard's last samples:\n"
        + "\n".join(f"  | {line}" for line in lines)
        + "\nFix: lower the number of sequences or the context length in the flags of launch(), choose a smaller "
        "model, or end other programs (make down ends all engines). To lower the guard's limits: "
        "export LABS_MEMORY_FLOORS_GIB=<GiB while loading>,<GiB while running>"
    )
