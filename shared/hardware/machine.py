"""What machine this is, as facts with the reason for each.

machine = hardware.detect()     # cores, memory, GPU, and the profile that follows

`make doctor` (shared/hardware/doctor.py) checks what the labs need of it.
"""

from dataclasses import dataclass, replace

from shared.errors import LabError
from shared.hardware.gpu import DOCKER_TROUBLES, Gpu, dmi, find_docker, find_gpu, is_gb10, nvidia_smi, without_gpu
from shared.hardware.host import GIB, HERE, MISSING, Host, cpu_quota, meminfo, memory_limit
from shared.hardware.processor import processor_name

PROFILES = ("cpu", "cuda", "spark")


@dataclass(frozen=True)
class Machine:
    """One machine. `profile` decides which models and sizes a lab uses, `why` says what it follows from."""

    profile: str  # "spark" | "cuda" | "cpu"
    runner: str  # how engines run: as "container"s on a GPU, as "native" processes without one
    why: str
    name: str  # "DGX Spark" | "GB10 of another maker (...)" | the GPU's name | "no NVIDIA GPU"
    processor: str
    architecture: str
    cores: int  # that this process may use, by its affinity and its quota; not that the box has
    cpu_quota: float | None  # the time of how many CPUs a container may use, if that is limited
    memory_gib: float
    available_gib: float  # what can be taken without swapping; in a container not more than its limit leaves
    swap_gib: float  # never counted as available
    container_limit_gib: float | None  # this process's own memory limit, if it is below the machine's memory
    gpu: str | None  # name and compute capability, as nvidia-smi prints them
    unified_memory: bool  # the GPU has no memory of its own: `memory_gib` is for both
    gpu_memory_gib: float | None  # of a GPU with its own
    driver: str | None
    cuda: str | None  # the newest CUDA that the driver runs
    compute_capability: str | None
    size: str  # "full" | "quick": how long the measurements are (LABS_SIZE)

    @property
    def effort(self) -> "Effort":
        """How much to measure: on a GPU longer prompts as well."""
        effort = EFFORTS[self.size]
        longer = () if self.profile == "cpu" or self.size == "quick" else (4096, 8192)
        return replace(effort, prompt_tokens=effort.prompt_tokens + longer)

    def __str__(self) -> str:
        own = f" with {self.gpu_memory_gib:.0f} GiB" if self.gpu_memory_gib else ""
        shared = " shared with the GPU" if self.unified_memory else ""
        return (
            f"{self.name}{own}: {self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB{shared}"
            f" → profile {self.profile!r} ({self.why}), size {self.size!r}"
        )


@dataclass(frozen=True)
class Effort:
    """How much a lab measures: the same cells, longer or shorter. The one place where it is decided."""

    rounds: int  # of each load: five carry a spread, two are for trying things out
    tokens: int  # of each answer
    waves: int  # requests of each user
    questions: int  # on which an engine is held to the reference
    prompt_tokens: tuple[int, ...]  # lengths of the long prompts
    warm_up: bool  # whether the first round of a load begins with requests that don't count
    open_loop_percent: tuple[int, ...]  # rates of the open loop, in % of the capacity
    open_loop_s: float  # the longest that a load of the open loop lasts


EFFORTS = {
    "full": Effort(
        rounds=5,
        tokens=32,
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
        waves=1,
        questions=4,
        prompt_tokens=(128, 512),
        warm_up=False,
        open_loop_percent=(80, 150),
        open_loop_s=10,
    ),
}


def detect(host: Host = HERE) -> Machine:
    """Look at this machine. Never guesses: what can't be read is None or says so.

    What commands say is asked once per process, memory each time. LABS_PROFILE overrides the profile, LABS_SIZE
    sets the size. Raises LabError for values that neither has, and for a GPU's profile without a GPU.
    """
    gpu = find_gpu(host)
    memory, limit, quota = meminfo(host), memory_limit(host), cpu_quota(host)
    available = memory["MemAvailable"]
    if limit:
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
        memory_gib=memory["MemTotal"] / GIB,
        available_gib=available / GIB,
        swap_gib=memory.get("SwapTotal", 0) / GIB,
        container_limit_gib=limit.limit / GIB if limit else None,
        gpu=f"{gpu.name}, {gpu.compute_capability}" if gpu else None,
        unified_memory=is_gb10(host, gpu) or (gpu is not None and gpu.memory_gib is None),
        gpu_memory_gib=gpu.memory_gib if gpu else None,
        driver=gpu.driver if gpu else None,
        cuda=gpu.cuda if gpu else None,
        compute_capability=gpu.compute_capability if gpu else None,
        size=size,
    )


def choose_profile(host: Host, gpu: Gpu | None) -> tuple[str, str]:
    """The profile and what it follows from."""
    asked = host.env.get("LABS_PROFILE", "")
    if asked not in ("", *PROFILES):
        raise LabError(
            f"LABS_PROFILE is {asked!r}; it can be 'cpu', 'cuda' or 'spark'.", "unset it, or choose one of the three"
        )
    if asked in ("cuda", "spark") and gpu is None:
        raise LabError(
            f"LABS_PROFILE is {asked!r}, which needs an NVIDIA GPU, but {without_gpu(host)}.",
            "unset LABS_PROFILE; make doctor says what is wrong with the GPU",
        )
    if asked:
        return asked, f"LABS_PROFILE={asked}"
    if gpu is None:
        return "cpu", (f"this is a {machine_name(host, gpu)}, but " if is_gb10(host, gpu) else "") + without_gpu(host)
    if trouble := find_docker(host).trouble:
        return "cpu", (
            f"nvidia-smi names {gpu.name}, but {DOCKER_TROUBLES[trouble]}: engines run on the processor; "
            "make doctor says how to change that"
        )
    return "spark" if is_gb10(
        host, gpu
    ) else "cuda", f"nvidia-smi names {gpu.name}, and docker can give it to containers"


def machine_name(host: Host, gpu: Gpu | None) -> str:
    if is_gb10(host, gpu):
        product = dmi(host, "product_name")
        if product == "NVIDIA_DGX_Spark":
            return "DGX Spark"
        return f"GB10 of another maker ({' '.join(filter(None, (dmi(host, 'sys_vendor'), product))) or 'unknown'})"
    if gpu:
        return gpu.name
    return "no NVIDIA GPU" if nvidia_smi(host).failure in ("", MISSING) else "no working NVIDIA GPU"
