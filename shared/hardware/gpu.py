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
    memory_gib: float | None  # None on a GB10: it has no memory of its own
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
    answer = nvidia_smi(host)
    fields = answer.out.strip().split("\n")[0].split(",")
    if answer.failure or len(fields) != 4:
        return None
    name, (capability, driver, memory) = fields[0].strip(), (reported(field) for field in fields[1:])
    mib = re.match(r"([\d.]+) MiB$", memory or "")
    # "CUDA UMD Version" since driver 610
    cuda = re.search(r"CUDA (?:UMD )?Version *: *([\d.]+)", host.run("nvidia-smi").out)
    return Gpu(name, capability, driver, float(mib[1]) / 1024 if mib else None, cuda[1] if cuda else None)


def reported(field: str) -> str | None:
    """The field, or None where nvidia-smi has no value: a GB10's memory reads [N/A] or Not Supported."""
    text = field.strip()
    return None if text.strip("[]") in ("", "N/A", "Not Supported", "Unknown Error") else text


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
    for line in answer.out.splitlines() if not answer.failure else []:
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
        info = json.loads(answer.out)
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
