"""The doctor's checks of the GPU, its driver, and docker. Nothing about a DGX Spark was verified on hardware."""

import re
from pathlib import Path

from shared.hardware.doctor_checks import Check, ok
from shared.hardware.gpu import (
    CDI_SPECIFICATIONS,
    docker_gpu_arguments,
    find_docker,
    gpu_holders,
    is_gb10,
    nvidia_smi,
    without_gpu,
)
from shared.hardware.host import GIB, MISSING, TIMED_OUT, Host, meminfo
from shared.hardware.machine import Machine
from shared.hardware.processor import bf16_products

# Three images of 31 GiB (nvcr.io/nvidia/vllm:26.07-py3 is 33.3 GB, one owner's report) + an 8B model twice (20)
CONTAINER_DISK_GIB = 113
REGISTER = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
TOOLKIT_GUIDE = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
UPDATE_DGX_OS = "sudo apt update && sudo apt dist-upgrade && sudo reboot"
UPDATE_DRIVER = "install driver release 580 or newer (https://www.nvidia.com/drivers), then: sudo reboot"
UPDATE_WINDOWS = "update the NVIDIA driver in Windows, then in PowerShell: wsl --shutdown"


def check_image_disk(host: Host, machine: Machine) -> Check | None:
    if machine.runner == "native":
        return None
    root = find_docker(host).root or "/var/lib/docker"
    free = host.free_bytes(Path(root))
    observed = "unknown" if free is None else f"{free / GIB:.0f} GiB free in {root}"
    if free is not None and free >= CONTAINER_DISK_GIB * GIB:
        return ok("disk for images", observed)
    return Check(
        "disk for images",
        "warning",
        observed,
        f"the images of three engines and an 8B model take about {CONTAINER_DISK_GIB} GiB (an estimate)",
        "docker system df   # then remove what you don't need: docker image prune -a",
    )


def in_wsl(host: Host) -> bool:
    return "microsoft" in (host.read("/proc/version") or "").lower()


def check_gpu(host: Host, machine: Machine) -> Check | None:
    answer = nvidia_smi(host)
    gb10 = is_gb10(host, None)
    if machine.gpu:
        return ok("GPU", f"{machine.gpu}, driver {machine.driver or 'unknown'}")
    if answer.failure == MISSING and not gb10:
        return None
    fix = (
        UPDATE_DGX_OS
        if gb10 and answer.failure == MISSING
        else "sudo reboot; if that doesn't help: sudo dmesg | grep NVRM"
    )
    if in_wsl(host):
        fix = UPDATE_WINDOWS
    why = "the driver is not loaded or doesn't match its programs, as after an update without a reboot"
    if answer.failure == TIMED_OUT:
        why = "the driver is stuck, as after memory ran out; engines would hang too"
    detail = f": {answer.first_line}" if answer.failure.startswith("exit") else ""
    return Check("GPU", "failed", without_gpu(host) + detail, why, fix)


def check_cuda(host: Host, machine: Machine) -> Check | None:
    if not machine.gpu:
        return None
    observed = f"up to {machine.cuda}" if machine.cuda else "unknown"
    if machine.cuda and int(machine.cuda.split(".")[0]) >= 13:
        return ok("CUDA of the driver", observed)
    state, fix = "warning", UPDATE_WINDOWS if in_wsl(host) else UPDATE_DRIVER
    if machine.unified_memory:
        state, fix = "failed", UPDATE_DGX_OS
    return Check("CUDA of the driver", state, observed, "the engines' images are built for CUDA 13", fix)


def check_bfloat16(host: Host, machine: Machine) -> Check | None:
    if machine.gpu:
        capability = machine.compute_capability
        if capability and float(capability) >= 8:
            return ok("bfloat16", f"in hardware (compute capability {capability})")
        return Check(
            "bfloat16",
            "warning",
            f"compute capability {capability or 'unknown'}; BF16 needs 8.0",
            "the labs' weights are BF16",
            "LABS_PROFILE=cpu make lab",
        )
    found = bf16_products(host)
    detail = f"fast ({', '.join(found)})" if found else "no fast BF16 instructions: vLLM and SGLang compute in float32"
    return ok("bfloat16", detail)


def check_architecture(host: Host, machine: Machine) -> Check | None:
    if not machine.unified_memory:
        return None
    if machine.architecture == "aarch64":
        return ok("architecture", machine.architecture)
    return Check(
        "architecture",
        "failed",
        machine.architecture,
        "a GB10 has an Arm processor, so this Python is emulated",
        "make PYTHON=/usr/bin/python3 lab",
    )


def wants_docker(host: Host, machine: Machine) -> bool:
    """Whether engines need docker: on every machine with a GPU, unless LABS_PROFILE is cpu."""
    return machine.gpu is not None and host.env.get("LABS_PROFILE") != "cpu"


def check_docker(host: Host, machine: Machine) -> Check | None:
    if not wants_docker(host, machine):
        return None
    docker = find_docker(host)
    why = "engines run in containers on a GPU; until docker works, they run on the processor"
    if docker.trouble == "missing":
        return Check("docker", "failed", "not on the PATH", why, "sudo apt install docker.io")
    if docker.trouble == "permission":
        return Check(
            "docker",
            "failed",
            docker.message,
            why + ". A new group takes effect only after Jupyter is restarted",
            "sudo usermod -aG docker $USER   # then log out and in, and start Jupyter again",
        )
    if docker.trouble in ("down", "hangs"):
        verb = "start" if docker.trouble == "down" else "restart"
        return Check("docker", "failed", docker.message, why, f"sudo systemctl {verb} docker")
    return ok("docker", f"{docker.version}, without sudo")


def check_docker_gpu(host: Host, machine: Machine) -> Check | None:
    docker = find_docker(host) if wants_docker(host, machine) else None
    if docker is None or docker.trouble not in ("", "no GPU"):
        return None
    if docker.trouble:
        fix = REGISTER
        if host.which("nvidia-ctk") is None:
            fix = f"install the NVIDIA Container Toolkit ({TOOLKIT_GUIDE}), then: {REGISTER}"
        why = "docker can't give a GPU to a container; until it can, engines run on the processor"
        seen = f"runtimes: {', '.join(docker.runtimes)}; no CDI device"
        return Check("docker and the GPU", "failed", seen, why, fix)
    cdi = bool(docker.devices) or any(host.read(file) is not None for file in CDI_SPECIFICATIONS)
    ways = [*(["NVIDIA runtime"] if "nvidia" in docker.runtimes else []), *(["CDI"] if cdi else [])]
    return ok("docker and the GPU", f"{' and '.join(ways)}: {' '.join(docker_gpu_arguments(host))}")


def check_kernel(host: Host, machine: Machine) -> Check | None:
    """Whether the kernel reserves memory for Kexec HandOver.

    Kernel 7.0.0-1019 reserves 9.3 GiB. In /proc/meminfo, CmaFree is then above CmaTotal.
    """
    kernel, memory = (host.read("/proc/sys/kernel/osrelease") or "").strip(), meminfo(host)
    reserved = memory.get("CmaFree", 0) > memory.get("CmaTotal", 0)
    if not machine.unified_memory or not (reserved or re.match(r"7\.0\.0-1019\b", kernel)):
        return None
    if "kho=off" in (host.read("/proc/cmdline") or "").split() and not reserved:
        return ok("kernel", f"{kernel} with kho=off")
    seen = f"CmaFree {memory['CmaFree'] / GIB:.1f} GiB above CmaTotal" if reserved else "started without kho=off"
    return Check(
        "kernel",
        "warning",
        f"{kernel}, {seen}",
        "it reserves 9.3 GiB for Kexec HandOver, and pinning memory fails (NVIDIA/NV-Kernels#591): two Sparks "
        "can't be joined, and large models don't fit",
        "sudo apt update && sudo apt install nvidia-spark-grub-kho && sudo reboot",
    )


def check_holders(host: Host, machine: Machine) -> Check | None:
    if not machine.gpu:
        return None
    holders = gpu_holders(host)
    if not holders:
        return ok("GPU in use", "no process that this user can see")
    return Check(
        "GPU in use",
        "warning",
        "; ".join(holders.values()),
        "it takes memory and GPU time from the engine that is measured",
        "end the processes that you don't need (make down ends the labs' own engines)",
    )
