"""Does an engine fit into memory, and what ends it if it doesn't after all.

On a DGX Spark the CPU and the GPU share one memory, and running out of it does not end in an error: the machine
freezes or resets. So a launch is refused, with its sum, unless everything fits with a reserve; and while an engine
loads and runs, its watchdog (shared/launch/watchdog.py) ends it below a floor.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from shared.engines import EngineSpec, Flags
from shared.engines.spec import Container
from shared.errors import LabError
from shared.hardware.gpu import gpu_holders
from shared.hardware.machine import Machine
from shared.hardware.processor import BYTES_PER_VALUE
from shared.models.choice import ModelChoice

MEMINFO = Path("/proc/meminfo")
SPARK_RESERVE_GIB = 20.0  # what owners of a Spark leave free beside weights, KV cache and the engine's own
NATIVE_RESERVE_GIB = 0.5
SPARK_FLOORS_GIB = (16.0, 8.0)  # while loading, while running: where owners end an engine (one report each)


@dataclass(frozen=True)
class Need:
    """What one engine takes, in GiB."""

    title: str
    weights: float
    kv: float
    own: float  # its processes, and on a GPU its workspaces and captured graphs
    reserve: float  # left for everything else

    @property
    def total(self) -> float:
        return self.weights + self.kv + self.own + self.reserve

    def __str__(self) -> str:
        return (
            f"{self.title} needs {self.weights:.1f} GiB for weights + {self.kv:.1f} for the KV cache + {self.own:.1f} "
            f"for itself + {self.reserve:.1f} in reserve = {self.total:.1f} GiB"
        )


def need(spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags, machine: Machine) -> Need:
    """The sum. Raises LabError if the flags leave the KV cache to the engine's default."""
    way = spec.way(machine.runner)
    kv_bytes = way.kv_bytes(model, flags)
    if kv_bytes is None:
        assert isinstance(way, Container)
        raise LabError(
            f"{spec.title} would choose its KV cache itself, up to most of the memory, and was given {dict(flags)}.",
            f"say how much it may hold: {way.bound_by}",
        )
    wider = BYTES_PER_VALUE[spec.dtype(machine.runner)] / 2
    weights = model.file_bytes(spec.weights_form(model, precision)) * wider
    reserve = SPARK_RESERVE_GIB if machine.unified_memory else NATIVE_RESERVE_GIB
    return Need(spec.title, weights / 2**30, kv_bytes / 2**30, way.overhead_gib, reserve)


def share(needed: Need, machine: Machine) -> float:
    """Weights, KV cache and the engine's own as a share of the GPU's memory, rounded up to a hundredth."""
    used = needed.weights + needed.kv + needed.own
    return min(0.99, int(used / gpu_memory_gib(machine) * 100 + 1) / 100)


def gpu_memory_gib(machine: Machine) -> float:
    """The memory that the GPU has: its own, or the machine's."""
    return machine.memory_gib if machine.gpu_memory_gib is None else machine.gpu_memory_gib


def require(spec: EngineSpec, needed: Need, flags: Flags, machine: Machine, ours: Collection[int]) -> None:
    """Raise LabError unless the engine fits, by the sum and by its own check at start, and no process but `ours`
    holds the GPU."""
    way = spec.way(machine.runner)
    fix = "stop another engine (make down), close other programs, or ask for less context"
    there, where = machine.available_gib, "available"
    if machine.gpu_memory_gib is not None and machine.runner == "container":
        there, where = machine.gpu_memory_gib, "all the GPU has"
    if needed.total > there:
        raise LabError(f"{needed}, and {there:.1f} GiB are {where}.", fix)
    if not isinstance(way, Container):
        return
    if holders := [text for pid, text in gpu_holders().items() if pid not in ours]:
        raise LabError(
            f"Another program holds the GPU: {'; '.join(holders)}.",
            "end it (make down ends what the labs left; ollama stop, docker ps and nvidia-smi tell of others)",
        )
    asked = flags.get(way.share_flag)
    if asked is not None and float(str(asked)) * gpu_memory_gib(machine) > there:
        raise LabError(
            f"{way.share_flag} {asked} of {gpu_memory_gib(machine):.1f} GiB is "
            f"{float(str(asked)) * gpu_memory_gib(machine):.1f} GiB, and {there:.1f} GiB are {where}.",
            f"leave {way.share_flag} out: the labs set what this launch needs",
        )


def floors_gib(machine: Machine) -> tuple[float, float]:
    """Below which an engine is ended while it loads, and while it runs (LABS_MEMORY_FLOORS_GIB=loading,running)."""
    text = os.environ.get("LABS_MEMORY_FLOORS_GIB")
    if text:
        if not re.fullmatch(r"\d+(\.\d+)?,\d+(\.\d+)?", text):
            raise LabError(f"LABS_MEMORY_FLOORS_GIB is {text!r}.", "two numbers, as in LABS_MEMORY_FLOORS_GIB=16,8")
        loading, running = map(float, text.split(","))
        return loading, running
    if machine.unified_memory:
        return SPARK_FLOORS_GIB
    # Where running out ends in an error or a killed process, the floor only has to keep the machine responsive.
    return min(1.0, 0.03 * machine.memory_gib), min(0.5, 0.015 * machine.memory_gib)


def guard(machine: Machine, samples: Path) -> dict[str, object]:
    """The arguments of the watchdog's guard."""
    loading, running = floors_gib(machine)
    return {"meminfo": str(MEMINFO), "loading_gib": loading, "running_gib": running, "samples": str(samples)}


def story(samples: Path, needed: Need) -> str:
    """What the guard saw before it ended an engine."""
    lines = samples.read_text(errors="replace").splitlines()[-8:]
    return (
        f"The memory guard ended it, before the machine could freeze. {needed}. Its last samples:\n"
        + "\n".join(f"  | {line}" for line in lines)
        + "\nFix: fewer or shorter sequences, a smaller model, or end other programs; the floors are "
        "LABS_MEMORY_FLOORS_GIB"
    )
