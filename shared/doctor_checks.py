"""The doctor's checks: each looks at one requirement, and says why it matters and what to do where it isn't met.

A check returns None where it doesn't apply. Nothing about a DGX Spark was verified on hardware.
"""

import contextlib
import json
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared import paths
from shared.hardware import (
    CDI_SPECIFICATIONS,
    Machine,
    bf16_products,
    browser,
    docker_gpu_arguments,
    find_docker,
    gpu_holders,
    is_gb10,
    nvidia_smi,
    without_gpu,
)
from shared.host import GIB, MISSING, TIMED_OUT, Host, meminfo
from shared.process import start_time

NATIVE_DISK_GIB = 15  # all engines, measured
NATIVE_MEMORY_GIB = 12  # four engines at once, measured
# Weights of an 8B model in BF16 (15) + KV cache (4) + an engine's own needs (7) + the reserve that owners keep (20)
UNIFIED_MEMORY_GIB = 46
# Three images of 31 GiB (nvcr.io/nvidia/vllm:26.07-py3 is 33.3 GB, one owner's report) + an 8B model twice (20)
CONTAINER_DISK_GIB = 113
SWAP_IN_USE_GIB = 1
PORTS = {
    3000: "Open WebUI",
    3001: "Grafana",
    8000: "vLLM",
    8080: "llama.cpp, Open WebUI",
    8355: "TensorRT-LLM",
    8888: "JupyterLab",
    9000: "the gateway",
    9090: "Prometheus",
    11434: "Ollama",
    30000: "SGLang",
}
DROP_CACHES = "sudo sh -c 'sync; echo 3 > /proc/sys/vm/drop_caches'"
REGISTER = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
TOOLKIT_GUIDE = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
UPDATE_DGX_OS = "sudo apt update && sudo apt dist-upgrade && sudo reboot"
UPDATE_WINDOWS = "update the NVIDIA driver in Windows, then in PowerShell: wsl --shutdown"


@dataclass(frozen=True)
class Check:
    """One requirement: whether it holds, what was seen, why it matters, and what to do if it doesn't hold."""

    name: str
    state: str  # "ok" | "warning" | "failed"
    observed: str
    why: str = ""
    fix: str = ""  # a command, or what to do in words; also of a row that is ok, where there is something to know


def ok(name: str, observed: str) -> Check:
    return Check(name, "ok", observed)


def check_python(host: Host, machine: Machine) -> Check:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        return ok("Python", version)
    return Check("Python", "failed", version, "the labs' packages are pinned for Python 3.11 to 3.13",
                 "make PYTHON=/path/to/python3.12 lab")  # fmt: skip


def check_package(host: Host, machine: Machine) -> Check:
    here = Path(__file__).resolve().parent
    if here == paths.REPO / "shared" and (paths.REPO / "environment" / "requirements.lock").exists():
        return ok("import shared", "this project's")
    return Check("import shared", "failed", paths.show(here), "another package of that name hides ours",
                 "uninstall it, then: make lab")  # fmt: skip


def check_tool(host: Host, tool: str, package: str) -> Check:
    """A command that the set-up runs."""
    if found := host.which(tool):
        return ok(tool, found)
    return Check(tool, "failed", "not on the PATH", "engines are compiled here", f"sudo apt install {package}")


def check_compiler(host: Host, machine: Machine) -> Check | None:
    return check_tool(host, "c++", "g++") if machine.runner == "native" else None


def check_git(host: Host, machine: Machine) -> Check | None:
    return check_tool(host, "git", "git") if machine.runner == "native" else None


def check_disk(host: Host, machine: Machine) -> Check:
    installed = (paths.cache() / "engines" / "vllm").exists()
    need = 1 if installed or machine.runner == "container" else NATIVE_DISK_GIB
    free = host.free_bytes(paths.cache())
    observed = "unknown" if free is None else f"{free / GIB:.0f} GiB free in {paths.show(paths.cache())}"
    if free is not None and free >= need * GIB:
        return ok("disk", observed)
    return Check("disk", "failed", observed, f"engines and weights take up to {need} GiB",
                 "free some space, or: make LABS_CACHE=/big/disk/labs lab")  # fmt: skip


def check_image_disk(host: Host, machine: Machine) -> Check | None:
    if machine.runner == "native":
        return None
    root = find_docker(host).root
    free = host.free_bytes(Path(root or "/var/lib/docker"))
    observed = "unknown" if free is None else f"{free / GIB:.0f} GiB free in {root}"
    if free is not None and free >= CONTAINER_DISK_GIB * GIB:
        return ok("disk for images", observed)
    return Check("disk for images", "warning", observed,
                 f"the images of three engines and an 8B model take about {CONTAINER_DISK_GIB} GiB (an estimate)",
                 "docker system df   # then remove what you don't need: docker image prune -a")  # fmt: skip


def check_memory(host: Host, machine: Machine) -> Check:
    observed = f"{machine.available_gib:.1f} GiB available of {machine.memory_gib:.0f}"
    fix = "close other programs; make down ends engines that were left"
    if machine.container_limit_gib is not None:
        observed += f" (this container is limited to {machine.container_limit_gib:.0f})"
        fix = f"start the container with more memory, such as: docker run --memory {NATIVE_MEMORY_GIB + 4}g ..."
    if machine.unified_memory and machine.runner == "container":
        need, why = UNIFIED_MEMORY_GIB, (
            "an 8B model in BF16 wants 15 GiB for weights, 4 for the KV cache and 7 for the engine, and 20 in reserve: "
            "when unified memory runs out, the machine freezes instead of failing"
        )  # fmt: skip
    else:
        need, why = NATIVE_MEMORY_GIB, "four engines at once take 12 GiB"
    if machine.available_gib >= need:
        return ok("memory", observed)
    return Check("memory", "failed", observed, why, fix)


def check_swap(host: Host, machine: Machine) -> Check | None:
    memory = meminfo(host)
    if not machine.unified_memory or not machine.swap_gib:
        return None
    used = (memory["SwapTotal"] - memory.get("SwapFree", memory["SwapTotal"])) / GIB
    observed = f"{machine.swap_gib:.0f} GiB, {used:.1f} in use; not counted as available"
    if used <= SWAP_IN_USE_GIB:
        return ok("swap", observed)
    return Check("swap", "warning", observed, "memory has already run short: swap hides how close a freeze "
                 "is, and what an engine reads from it makes every measurement wrong",
                 "stop other engines, then: sudo swapoff -a && sudo swapon -a")  # fmt: skip


def check_cache(host: Host, machine: Machine) -> Check | None:
    """Never a failure: the kernel gives file cache back by itself."""
    if not machine.unified_memory:
        return None
    memory = meminfo(host)
    cached = sum(memory.get(f, 0) for f in ("Cached", "Buffers", "SReclaimable")) - memory.get("Shmem", 0)
    seen = f"{max(0, cached) / GIB:.1f} GiB; the kernel gives it back, and it counts as available"
    return Check("file cache", "ok", seen,
                 "drop it only if loading a model of 70B or more has failed for memory", DROP_CACHES)  # fmt: skip


def in_wsl(host: Host) -> bool:
    return "microsoft" in (host.read("/proc/version") or "").lower()


def check_gpu(host: Host, machine: Machine) -> Check | None:
    answer = nvidia_smi(host)
    gb10 = is_gb10(host, None)
    if machine.gpu:
        return ok("GPU", f"{machine.gpu}, driver {machine.driver or 'unknown'}")
    if answer.failure == MISSING and not gb10:
        return None
    fix = UPDATE_DGX_OS if gb10 and answer.failure == MISSING else "sudo reboot; if it stays: sudo dmesg | grep NVRM"
    if in_wsl(host):
        fix = UPDATE_WINDOWS
    why = "the driver isn't loaded or doesn't fit its programs, as after an update without a restart"
    if answer.failure == TIMED_OUT:
        why = "the driver is stuck, as after memory ran out; engines would hang as well"
    said = f": {answer.said}" if answer.failure.startswith("exit") else ""
    return Check("GPU", "failed", without_gpu(host) + said, why, fix)


def check_cuda(host: Host, machine: Machine) -> Check | None:
    if not machine.gpu:
        return None
    observed = f"up to {machine.cuda}" if machine.cuda else "unknown"
    if machine.cuda and int(machine.cuda.split(".")[0]) >= 13:
        return ok("CUDA of the driver", observed)
    state, fix = "warning", UPDATE_WINDOWS if in_wsl(host) else "install a driver of release 580 or newer"
    if machine.unified_memory:
        state, fix = "failed", UPDATE_DGX_OS
    return Check("CUDA of the driver", state, observed, "the engines' images are built for CUDA 13", fix)


def check_bfloat16(host: Host, machine: Machine) -> Check | None:
    if machine.gpu:
        capability = machine.compute_capability
        if capability and float(capability) >= 8:
            return ok("bfloat16", f"in hardware (compute capability {capability})")
        return Check("bfloat16", "warning", f"compute capability {capability or 'unknown'}; it comes with 8.0",
                     "the labs' weights are BF16", "LABS_PROFILE=cpu make lab")  # fmt: skip
    found = bf16_products(host)
    said = f"fast ({', '.join(found)})" if found else "no fast products: vLLM and SGLang compute in float32"
    return ok("bfloat16", said)


def check_architecture(host: Host, machine: Machine) -> Check | None:
    if not machine.unified_memory:
        return None
    if machine.architecture == "aarch64":
        return ok("architecture", machine.architecture)
    return Check("architecture", "failed", machine.architecture, "a GB10's processor is Arm: this Python is emulated",
                 "make PYTHON=/usr/bin/python3 lab")  # fmt: skip


def wants_docker(host: Host, machine: Machine) -> bool:
    """Engines run in containers wherever there is a GPU, unless the student asked for the processor."""
    return machine.gpu is not None and host.env.get("LABS_PROFILE") != "cpu"


def check_docker(host: Host, machine: Machine) -> Check | None:
    if not wants_docker(host, machine):
        return None
    docker = find_docker(host)
    why = "engines run in containers on a GPU; until docker works, they run on the processor"
    if docker.trouble == "missing":
        return Check("docker", "failed", "not on the PATH", why, "sudo apt install docker.io")
    if docker.trouble == "permission":
        return Check("docker", "failed", docker.said, why + ". A running Jupyter does not see a new group",
                     "sudo usermod -aG docker $USER   # then log out and in, and start Jupyter again")  # fmt: skip
    if docker.trouble in ("down", "hangs"):
        verb = "start" if docker.trouble == "down" else "restart"
        return Check("docker", "failed", docker.said, why, f"sudo systemctl {verb} docker")
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
    """Kernel 7.0.0-1019 hands 9.3 GiB to Kexec HandOver, which /proc/meminfo shows as CmaFree above CmaTotal."""
    kernel, memory = (host.read("/proc/sys/kernel/osrelease") or "").strip(), meminfo(host)
    reserved = memory.get("CmaFree", 0) > memory.get("CmaTotal", 0)
    if not machine.unified_memory or not (reserved or re.match(r"7\.0\.0-1019\b", kernel)):
        return None
    if "kho=off" in (host.read("/proc/cmdline") or "").split() and not reserved:
        return ok("kernel", f"{kernel} with kho=off")
    seen = f"CmaFree {memory['CmaFree'] / GIB:.1f} GiB above CmaTotal" if reserved else "started without kho=off"
    return Check("kernel", "warning", f"{kernel}, {seen}",
                 "it reserves 9.3 GiB for Kexec HandOver, and pinning memory fails (NVIDIA/NV-Kernels#591): two Sparks "
                 "can't be joined, and large models don't fit",
                 "sudo apt update && sudo apt install nvidia-spark-grub-kho && sudo reboot")  # fmt: skip


def check_holders(host: Host, machine: Machine) -> Check | None:
    if not machine.gpu:
        return None
    holders = gpu_holders(host)
    if not holders:
        return ok("GPU in use", "by nobody that this user can see")
    return Check("GPU in use", "warning", "; ".join(holders.values()), "it takes memory and time from what is measured",
                 "end what you don't need (make down ends the labs' own engines)")  # fmt: skip


def check_engines(host: Host, machine: Machine) -> Check:
    """Engines end with their notebook; one that didn't is told apart by its parent, which is gone."""
    running: list[str] = []
    left: list[str] = []
    for file in sorted((paths.cache() / "run").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(file.read_text())
            if record["started"] == start_time(record["pid"]):
                parent_lives = start_time(record["parent"]) is not None
                (running if parent_lives else left).append(f"{record['engine']} (port {record['port']})")
    if not left:
        return ok("leftover engines", f"none; running: {', '.join(running)}" if running else "none")
    return Check("leftover engines", "warning", ", ".join(left), "they hold memory and nobody uses them", "make down")


def check_ports(host: Host, machine: Machine) -> Check:
    held = {port: who for port, who in host.listeners().items() if port in PORTS}
    if "jupyter" in held.get(8888, ""):
        del held[8888]  # as it should be
    if not held:
        return ok("ports", "the usual ones are free")
    first = min(held)
    return Check("ports", "warning", "; ".join(f"{p} ({PORTS[p]}): {who}" for p, who in sorted(held.items())),
                 "only what asks for such a port by number can't start: the labs take free ones",
                 f"sudo ss -ltnp 'sport = :{first}'   # says who; docker ps lists containers")  # fmt: skip


def check_token(host: Host, machine: Machine) -> Check | None:
    """Whether there is a token, never which."""
    if machine.runner == "native":
        return None
    home = host.env.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    file = host.env.get("HF_TOKEN_PATH") or f"{home}/token"
    if host.env.get("HF_TOKEN") or host.read(file) is not None:
        return ok("Hugging Face token", "there")
    return Check("Hugging Face token", "warning", "none", "gated models need one; without it the labs take copies "
                 "without a gate, where there are any",
                 ".venv/bin/hf auth login   # or: export HF_TOKEN=...")  # fmt: skip


def check_browser(host: Host, machine: Machine) -> Check:
    if found := browser(host):
        return ok("Chromium", found)
    return Check("Chromium", "warning", "not found (optional)", "without it figures are interactive only: no pictures "
                 "in files", "sudo apt install chromium")  # fmt: skip


CHECKS: tuple[Callable[[Host, Machine], Check | None], ...] = (
    check_python, check_package, check_compiler, check_git, check_disk, check_image_disk, check_memory, check_swap,
    check_cache, check_gpu, check_cuda, check_bfloat16, check_architecture, check_docker, check_docker_gpu,
    check_kernel, check_holders, check_engines, check_ports, check_token, check_browser,
)  # fmt: skip
