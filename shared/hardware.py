"""What machine this is, as facts with the reason for each.

machine = hardware.detect()     # cores, memory, GPU, and the profile that follows

`make doctor` (shared/doctor.py) checks what the labs need of it.
"""

import functools
import hashlib
import json
import re
from dataclasses import dataclass, replace

from shared import paths
from shared.errors import LabError
from shared.host import GIB, HERE, MISSING, TIMED_OUT, Answer, Host, cpuinfo, meminfo, memory_limit

PROFILES = ("cpu", "cuda", "spark")
# Where the NVIDIA Container Toolkit writes its CDI specification: its service nvidia-cdi-refresh (since 1.18), and
# `nvidia-ctk cdi generate` as documented (docs.nvidia.com, container-toolkit 1.20.1, cdi-support; read 2026-11-24).
CDI_SPECIFICATIONS = ("/var/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml")
BYTES_PER_VALUE = {"": 2, "bfloat16": 2, "float32": 4}  # of weights, keys and values, by what computes with them
DOCKER_TROUBLES = {
    "missing": "docker is not on the PATH",
    "permission": "docker refuses this user",
    "down": "docker's daemon can't be reached",
    "hangs": "docker does not answer",
    "no GPU": "docker has no way to give a GPU to a container",
}


@dataclass(frozen=True)
class Machine:
    """One machine. `profile` decides which models and sizes a lab uses, `why` says what it follows from."""

    profile: str  # "spark" | "cuda" | "cpu"
    runner: str  # how engines run: as "container"s on a GPU, as "native" processes without one
    why: str
    name: str  # "DGX Spark" | "GB10 of another maker (...)" | the GPU's name | "no NVIDIA GPU"
    processor: str
    architecture: str
    cores: int  # that this process may use, not that the box has
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


EFFORTS = {
    "full": Effort(rounds=5, tokens=32, waves=2, questions=12, prompt_tokens=(128, 512, 2048)),
    "quick": Effort(rounds=2, tokens=16, waves=1, questions=4, prompt_tokens=(128, 512)),
}


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU, as nvidia-smi describes it; None for what it doesn't know."""

    name: str
    compute_capability: str | None
    driver: str | None
    memory_gib: float | None  # None on a GB10: it has no memory of its own
    cuda: str | None


@dataclass(frozen=True)
class Docker:
    """Whether this user can give GPUs to containers, and how docker would do it."""

    trouble: str  # "" | a key of DOCKER_TROUBLES
    said: str = ""  # docker's own words for it
    version: str = ""
    root: str = ""  # where its images lie
    runtimes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()  # of CDI, the Container Device Interface


def detect(host: Host = HERE) -> Machine:
    """Look at this machine. Never guesses: what can't be read is None or says so.

    What commands say is asked once per process, memory each time. LABS_PROFILE overrides the profile, LABS_SIZE
    sets the size. Raises LabError for values that neither has, and for a GPU's profile without a GPU.
    """
    gpu = find_gpu(host)
    memory, limit = meminfo(host), memory_limit(host)
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
        processor=processor(host),
        architecture=host.architecture(),
        cores=host.cores(),
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
        raise LabError(f"LABS_PROFILE is {asked!r}; it can be 'cpu', 'cuda' or 'spark'.",
                       "unset it, or choose one of the three")  # fmt: skip
    if asked in ("cuda", "spark") and gpu is None:
        raise LabError(f"LABS_PROFILE is {asked!r}, which needs an NVIDIA GPU, but {without_gpu(host)}.",
                       "unset LABS_PROFILE; make doctor says what is wrong with the GPU")  # fmt: skip
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


def is_gb10(host: Host, gpu: Gpu | None) -> bool:
    """By the GPU's name; else, if nvidia-smi is silent, by what the box or its DGX OS calls itself."""
    if gpu:
        return re.search(r"\bGB10\b", gpu.name) is not None
    return dmi(host, "product_name") == "NVIDIA_DGX_Spark" or "DGX Spark" in (host.read("/etc/dgx-release") or "")


def dmi(host: Host, field: str) -> str:
    """What the firmware says of the box; readable by every user."""
    return (host.read(f"/sys/class/dmi/id/{field}") or "").strip()


@functools.cache
def nvidia_smi(host: Host) -> Answer:
    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    return host.run("nvidia-smi", query, "--format=csv,noheader")


@functools.cache
def find_gpu(host: Host) -> Gpu | None:
    answer = nvidia_smi(host)
    fields = answer.out.strip().split("\n")[0].split(",")
    if answer.failure or len(fields) != 4:
        return None
    name, (capability, driver, memory) = fields[0].strip(), (known(field) for field in fields[1:])
    mib = re.match(r"([\d.]+) MiB$", memory or "")
    # "CUDA UMD Version" since driver 610
    cuda = re.search(r"CUDA (?:UMD )?Version *: *([\d.]+)", host.run("nvidia-smi").out)
    return Gpu(name, capability, driver, float(mib[1]) / 1024 if mib else None, cuda[1] if cuda else None)


def known(field: str) -> str | None:
    """nvidia-smi writes [N/A] or Not Supported for what a GPU can't say: of its memory, on a GB10."""
    text = field.strip()
    return None if text.strip("[]") in ("", "N/A", "Not Supported", "Unknown Error") else text


def without_gpu(host: Host) -> str:
    """Why no GPU was found."""
    answer = nvidia_smi(host)
    if answer.failure == MISSING:
        return "nvidia-smi is not on the PATH"
    if answer.failure == TIMED_OUT:
        return f"nvidia-smi gave {answer.said}"
    if answer.failure:
        return f"nvidia-smi failed ({answer.failure})"
    return "nvidia-smi finds no GPU"


def gpu_holders(host: Host = HERE) -> dict[int, str]:
    """The processes that compute on a GPU now: process id → its name with the memory that it holds."""
    answer = host.run("nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader")
    found = {}
    for line in answer.out.splitlines() if not answer.failure else []:
        pid, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")  # a process's name may hold commas
        if pid.strip().isdigit():
            held = known(memory) or "memory unknown"
            found[int(pid)] = f"{known(name) or 'unnamed'} (process {pid.strip()}, {held})"
    return found


@functools.cache
def find_docker(host: Host) -> Docker:
    answer = host.run("docker", "info", "--format", "{{json .}}")
    if answer.failure in (MISSING, TIMED_OUT):
        return Docker("missing" if answer.failure == MISSING else "hangs", answer.said)
    try:
        info = json.loads(answer.out)
    except ValueError:
        info = {}
    # Without a daemon the client prints its own half; releases differ in whether that is an error.
    if answer.failure or not info.get("ServerVersion"):
        said = answer.err.strip() or " ".join(info.get("ServerErrors") or [answer.said])
        return Docker("permission" if "permission denied" in said else "down", said)
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = tuple(d["ID"] for d in info.get("DiscoveredDevices") or [] if "nvidia.com/gpu" in d.get("ID", ""))
    trouble = "" if "nvidia" in runtimes or devices else "no GPU"
    return Docker(trouble, "", info["ServerVersion"], info.get("DockerRootDir", ""), runtimes, devices)


def docker_gpu_arguments(host: Host = HERE) -> tuple[str, ...]:
    """What `docker run` must be told to give a container the GPU.

    `--gpus` calls the toolkit's hook, which refuses in any mode but "legacy" unless the NVIDIA runtime is used
    (NVIDIA Container Toolkit, README of nvidia-container-runtime). So where it has CDI specifications and its runtime
    is registered, the runtime is named. Where only CDI devices are known, docker itself maps `--gpus` to them
    (moby/moby#50228, in 29.2).
    """
    docker = find_docker(host)
    cdi = docker.devices or any(host.read(file) is not None for file in CDI_SPECIFICATIONS)
    if cdi and "nvidia" in docker.runtimes:
        return ("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
    return ("--gpus", "all")


@functools.cache
def processor(host: Host = HERE) -> str:
    name = cpuinfo("model name", "Model", host=host)
    if name is None:  # arm64 gives only part numbers: lscpu knows their names
        lines = host.run("lscpu").out.splitlines()
        name = " + ".join(line.split(":")[1].strip() for line in lines if line.strip().startswith("Model name"))
    return name or f"unnamed {host.architecture()} processor"


def bf16_products(host: Host = HERE) -> list[str]:
    """The processor's instruction sets for which torch has fast BF16 products; below them float32 is the faster.

    On two cores with AVX2 alone, vLLM answered 32 users five times as fast in float32 (measured 2026-11-25).
    """
    flags = (cpuinfo("flags", "Features", host=host) or "").split()
    return [flag for flag in ("amx_bf16", "avx512_bf16", "avx512bw", "bf16") if flag in flags]


def torch_dtype(host: Host = HERE) -> str:
    """What an engine on torch is told to compute in on this processor: --dtype."""
    return "bfloat16" if bf16_products(host) else "float32"


def cpu_flags() -> str:
    """A short name for this processor's instruction set: what is compiled for one may not run on another."""
    return hashlib.sha256((cpuinfo("flags", "Features") or "").encode()).hexdigest()[:8]


def browser(host: Host = HERE) -> str | None:
    """The path of a Chrome or Chromium, if there is one: on the PATH, or as environment/browser.py fetched it."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    if found := next((path for name in names if (path := host.which(name))), None):
        return found
    fetched = sorted(paths.browsers().glob("chromium-*/chrome-linux*/chrome")) if host is HERE else []
    return str(fetched[-1]) if fetched else None
