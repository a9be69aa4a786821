"""The NVIDIA GPU, and how docker can give it to a container, as nvidia-smi and docker report them."""

import functools
import json
import re
from dataclasses import dataclass

from shared.hardware.host import HERE, MISSING, TIMED_OUT, CommandOutput, Host

# Where the NVIDIA Container Toolkit writes its CDI specification: its service nvidia-cdi-refresh (since 1.18), and
# `nvidia-ctk cdi generate` as documented (docs.nvidia.com, container-toolkit 1.20.1, cdi-support; read 2026-11-24).
CDI_SPECIFICATIONS = ("/var/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml")
DOCKER_TROUBLES = {
    "missing": "docker is not on the PATH",
    "permission": "this user has no permission to use docker",
    "down": "docker's daemon can't be reached",
    "hangs": "docker does not answer",
    "no GPU": "docker has no way to give a GPU to a container",
}


@dataclass(frozen=True)
class Gpu:
    """The first NVIDIA GPU as nvidia-smi describes it. A fact that it doesn't report is None."""

    name: str
    compute_capability: str | None
    driver: str | None
    memory_gib: float | None  # None on a GB10, which has no memory of its own, and where it can't be read
    cuda: str | None


@dataclass(frozen=True)
class Docker:
    """Whether this user can give GPUs to containers, and how docker does it."""

    trouble: str  # "" | a key of DOCKER_TROUBLES
    message: str = ""  # docker's own error message
    version: str = ""
    root: str = ""  # the folder of its images
    runtimes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()  # CDI (Container Device Interface) devices


def is_gb10(host: Host, gpu: Gpu | None) -> bool:
    """Whether the GPU is a GB10: by its name, or without a GPU by the product name of the box or its DGX OS."""
    if gpu:
        return re.search(r"\bGB10\b", gpu.name) is not None
    return dmi(host, "product_name") == "NVIDIA_DGX_Spark" or "DGX Spark" in (host.read("/etc/dgx-release") or "")


def dmi(host: Host, field: str) -> str:
    """A DMI field in which the firmware describes the box, or ""; every user may read it."""
    return (host.read(f"/sys/class/dmi/id/{field}") or "").strip()


@functools.cache
def nvidia_smi(host: Host) -> CommandOutput:
    query = "--query-gpu=name,compute_cap,driver_version,memory.total"
    return host.run("nvidia-smi", query, "--format=csv,noheader")


@functools.cache
def find_gpu(host: Host) -> Gpu | None:
    rows = [row for line in nvidia_smi(host).out.splitlines() if (row := gpu_row(line))]
    if not rows:
        return None
    name, capability, driver, memory = rows[0]
    mib = re.fullmatch(r"(\d+(?:\.\d+)?) MiB", memory or "")
    # "CUDA UMD Version" since driver 610
    cuda = re.search(r"CUDA (?:UMD )?Version *: *([\d.]+)", host.run("nvidia-smi").out)
    return Gpu(name, capability, driver, float(mib[1]) / 1024 if mib else None, cuda[1] if cuda else None)


def gpu_row(line: str) -> tuple[str, str | None, str | None, str | None] | None:
    """(name, compute capability, driver, memory) of a GPU; None for a line of another form, such as a warning.

    nvidia-smi may print warnings around its answer, and then fail although the answer is right (exit 14: a damaged
    infoROM).
    """
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 4 or not fields[0]:
        return None
    capability, driver, memory = map(reported, fields[1:])
    forms = ((capability, r"\d+\.\d+"), (driver, r"\d+\.\S+"), (memory, r"\d+(\.\d+)? MiB"))
    right = all(field is None or re.fullmatch(form, field) for field, form in forms)
    return (fields[0], capability, driver, memory) if right else None


def reported(field: str) -> str | None:
    """The field, or None where nvidia-smi has no value or may not show it: [N/A], [Insufficient Permissions]."""
    text = field.strip()
    hidden = ("", "N/A", "Not Supported", "Unknown Error", "Insufficient Permissions", "GPU requires reset")
    return None if text.strip("[]") in hidden or (text.startswith("[") and text.endswith("]")) else text


def is_jetson(host: Host, gpu: Gpu) -> bool:
    """Whether the GPU is part of a Jetson, a small Arm board: by its name, its system's release file or the board."""
    board = host.read("/proc/device-tree/model") or ""
    named = re.search(r"\((nvgpu|nvmap)\)|\b(Jetson|Tegra|Xavier|Orin|Thor)\b", gpu.name)
    return bool(named) or "Jetson" in board or host.read("/etc/nv_tegra_release") is not None


def unusable(host: Host, gpu: Gpu) -> str:
    """Why engines can't run on this GPU, whatever docker can do; "" if they can."""
    if is_gb10(host, gpu):
        return ""
    if is_jetson(host, gpu):
        return "it is part of a Jetson, for which the labs have no container images"
    return "" if gpu.memory_gib else "nvidia-smi doesn't report how much memory it has"


def without_gpu(host: Host) -> str:
    """The reason why no GPU was found."""
    answer = nvidia_smi(host)
    if answer.failure == MISSING:
        return "nvidia-smi is not on the PATH"
    if answer.failure == TIMED_OUT:
        return f"nvidia-smi gave {answer.first_line}"
    if answer.failure:
        return f"nvidia-smi failed ({answer.failure})"
    return "nvidia-smi finds no GPU"


def gpu_holders(host: Host = HERE) -> dict[int, str]:
    """The processes that compute on a GPU now: process id → name and GPU memory in use."""
    answer = host.run("nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader")
    found = {}
    for line in answer.out.splitlines():
        pid, _, rest = line.partition(",")
        name, _, memory = rest.rpartition(",")  # a process's name may contain commas
        if pid.strip().isdigit():
            held = reported(memory) or "memory unknown"
            found[int(pid)] = f"{reported(name) or 'unnamed'} (process {pid.strip()}, {held})"
    return found


@functools.cache
def find_docker(host: Host) -> Docker:
    answer = host.run("docker", "info", "--format", "{{json .}}")
    if answer.failure in (MISSING, TIMED_OUT):
        return Docker("missing" if answer.failure == MISSING else "hangs", answer.first_line)
    try:
        info, _ = json.JSONDecoder().raw_decode(answer.out[answer.out.index("{") :])  # warnings may stand around it
    except ValueError:
        info = {}
    # Without a daemon the client prints only its own part. Whether that is an error depends on the release.
    if answer.failure or not info.get("ServerVersion"):
        message = answer.err.strip() or " ".join(info.get("ServerErrors") or [answer.first_line])
        return Docker("permission" if "permission denied" in message else "down", message)
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    devices = tuple(d["ID"] for d in info.get("DiscoveredDevices") or [] if "nvidia.com/gpu" in d.get("ID", ""))
    trouble = "" if "nvidia" in runtimes or devices else "no GPU"
    return Docker(trouble, "", info["ServerVersion"], info.get("DockerRootDir", ""), runtimes, devices)


def docker_gpu_arguments(host: Host = HERE) -> tuple[str, ...]:
    """The arguments with which `docker run` gives a container the GPU.

    `--gpus` calls the toolkit's hook. Unless the NVIDIA runtime is used, the hook refuses every mode but "legacy"
    (NVIDIA Container Toolkit, README of nvidia-container-runtime). So the runtime is named where the toolkit has CDI
    specifications and its runtime is registered. Where docker has only CDI devices, it maps `--gpus` to them itself
    (moby/moby#50228, in 29.2).
    """
    docker = find_docker(host)
    cdi = docker.devices or any(host.read(file) is not None for file in CDI_SPECIFICATIONS)
    if cdi and "nvidia" in docker.runtimes:
        return ("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
    return ("--gpus", "all")
