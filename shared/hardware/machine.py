"""Describe this machine: its hardware, the profile that follows from it, and the reason for that profile.

    machine = hardware.detect()     # cores, memory, GPU, profile

`make doctor` (shared/hardware/doctor.py) checks whether it meets the needs of the labs.
"""

from dataclasses import dataclass, replace

from shared.errors import LabError
from shared.hardware.gpu import (
    DOCKER_TROUBLES,
    Gpu,
    dmi,
    find_docker,
    find_gpu,
    is_gb10,
    nvidia_smi,
    unusable,
    without_gpu,
)
from shared.hardware.host import GIB, HERE, MISSING, Host, cpu_quota, meminfo, memory_limit
from shared.hardware.processor import processor_name

PROFILES = ("cpu", "cuda", "spark")


@dataclass(frozen=True)
class Machine:
    """One machine. `profile` decides which models and sizes a lab uses; `why` is the reason for this profile."""

    profile: str  # "spark" | "cuda" | "cpu"
    runner: str  # how engines run: "container" on a GPU, "native" (as processes) without one
    why: str
    name: str  # "DGX Spark" | "GB10 of another maker (...)" | the GPU's name | "no NVIDIA GPU"
    processor: str
    architecture: str
    cores: int  # that this process may use by its affinity and quota, not those of the machine
    cpu_quota: float | None  # limit of the CPU time in a container, in CPUs; None if unlimited
    memory_gib: float | None  # None if it can't be read
    available_gib: float | None  # free without swapping; in a container at most what its limit leaves
    swap_gib: float  # never counted as available
    container_limit_gib: float | None  # memory limit of this process, if it is below the machine's memory
    gpu: str | None  # name and compute capability, as nvidia-smi prints them
    unified_memory: bool  # of a GB10, whose GPU has no memory of its own: `memory_gib` serves both
    gpu_memory_gib: float | None  # of a GPU that has its own memory, if that can be read
    driver: str | None
    cuda: str | None  # the newest CUDA version that the driver supports
    compute_capability: str | None
    size: str  # "full" | "quick": how much is measured (LABS_SIZE)

    @property
    def effort(self) -> "Effort":
        """How much to measure. On a GPU, the full size has longer prompts as well."""
        effort = EFFORTS[self.size]
        longer = () if self.profile == "cpu" or self.size == "quick" else (4096, 8192)
        return replace(effort, prompt_tokens=effort.prompt_tokens + longer)

    def __str__(self) -> str:
        own = f" with {self.gpu_memory_gib:.0f} GiB" if self.gpu_memory_gib else ""
        shared = " shared with the GPU" if self.unified_memory else ""
        memory = "an unknown amount of memory" if self.memory_gib is None else f"{self.memory_gib:.0f} GiB"
        return (
            f"{self.name}{own}: {self.processor}, {self.cores} cores, {memory}{shared}"
            f" → profile {self.profile!r} ({self.why}), size {self.size!r}"
        )


@dataclass(frozen=True)
class Effort:
    """How much a lab measures. Cells are the same at every size; only these numbers differ, and only here."""

    rounds: int  # of each load: five are enough for a spread, two only for trying things out
    tokens: int  # of each answer
    load_tokens: int  # of each answer in the loads of lab 3.3.1, where every engine answers up to 32 users
    waves: int  # requests of each user
    questions: int  # on which an engine is compared with the reference
    prompt_tokens: tuple[int, ...]  # lengths of the long prompts
    warm_up: bool  # whether the first round of a load begins with requests that don't count
    open_loop_percent: tuple[int, ...]  # rates of the open loop, in % of the capacity
    open_loop_s: float  # the longest that a load of the open loop lasts


EFFORTS = {
    "full": Effort(
        rounds=5,
        tokens=32,
        load_tokens=32,
        waves=2,
        questions=12,
        prompt_tokens=(128, 512, 2048),
        warm_up=True,
        open_loop_percent=(50, 80, 95, 110, 150),
        open_loop_s=45,
    ),
    "quick": Effort(
        rounds=2,
        tokens=16,
        load_tokens=8,
        waves=1,
        questions=4,
        prompt_tokens=(128, 512),
        warm_up=False,
        open_loop_percent=(80, 150),
        open_loop_s=5,
    ),
}


def detect(host: Host = HERE) -> Machine:
    """Describe this machine. Never guesses: a fact that can't be read is None, or named as unknown.

    Each command runs once per process; memory is read each time. LABS_PROFILE overrides the profile, LABS_SIZE sets
    the size. Raises LabError if either has an unknown value, or if the profile needs a GPU and there is none.
    """
    gpu = find_gpu(host)
    memory, limit, quota = meminfo(host), memory_limit(host), cpu_quota(host)
    total, available = memory.get("MemTotal"), memory.get("MemAvailable")
    if limit and available is not None:
        available = min(available, limit.left)
    profile, why = choose_profile(host, gpu)
    size = host.env.get("LABS_SIZE", "full")
    if size not in EFFORTS:
        raise LabError(f"LABS_SIZE is {size!r}; it can be 'full' or 'quick'.", "unset it, or choose one of the two")
    return Machine(
        profile=profile,
        runner="native" if profile == "cpu" else "container",
        why=why,
        name=machine_name(host, gpu),
        processor=processor_name(host),
        architecture=host.architecture(),
        cores=min(host.cores(), max(1, int(quota))) if quota else host.cores(),
        cpu_quota=quota,
        memory_gib=None if total is None else total / GIB,
        available_gib=None if available is None else available / GIB,
        swap_gib=memory.get("SwapTotal", 0) / GIB,
        container_limit_gib=limit.limit / GIB if limit else None,
        gpu=f"{gpu.name}, {gpu.compute_capability}" if gpu else None,
        unified_memory=is_gb10(host, gpu),
        gpu_memory_gib=gpu.memory_gib if gpu else None,
        driver=gpu.driver if gpu else None,
        cuda=gpu.cuda if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        size=size,
    )


def choose_profile(host: Host, gpu: Gpu | None) -> tuple[str, str]:
    """The profile, and the reason for it."""
    asked = host.env.get("LABS_PROFILE", "")
    if asked not in ("", *PROFILES):
        raise LabError(
            f"LABS_PROFILE is {asked!r}; it can be 'cpu', 'cuda' or 'spark'.", "unset it, or choose one of the three"
        )
    if asked in ("cuda", "spark") and gpu is None:
        raise LabError(
            f"LABS_PROFILE is {asked!r}, which needs an NVIDIA GPU, but {without_gpu(host)}.",
            "unset LABS_PROFILE, then find out what is wrong with the GPU: make doctor",
        )
    if asked:
        return asked, f"LABS_PROFILE={asked}"
    if gpu is None:
        return "cpu", (f"this is a {machine_name(host, gpu)}, but " if is_gb10(host, gpu) else "") + without_gpu(host)
    if why_not := unusable(host, gpu):
        return "cpu", f"nvidia-smi reports {gpu.name}, but {why_not}, so engines run on the processor"
    if trouble := find_docker(host).trouble:
        return "cpu", (
            f"nvidia-smi reports {gpu.name}, but {DOCKER_TROUBLES[trouble]}, so engines run on the processor; "
            "make doctor shows the fix"
        )
    profile = "spark" if is_gb10(host, gpu) else "cuda"
    return profile, f"nvidia-smi reports {gpu.name}, and docker can give it to containers"


def machine_name(host: Host, gpu: Gpu | None) -> str:
    if is_gb10(host, gpu):
        product = dmi(host, "product_name")
        if product == "NVIDIA_DGX_Spark":
            return "DGX Spark"
        return f"GB10 of another maker ({' '.join(filter(None, (dmi(host, 'sys_vendor'), product))) or 'unknown'})"
    if gpu:
        return gpu.name
    return "no NVIDIA GPU" if nvidia_smi(host).failure in ("", MISSING) else "no working NVIDIA GPU"
