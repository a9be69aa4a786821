"""The doctor's checks. Each examines one requirement and returns what it saw, why it matters, and the fix.

A check that doesn't apply to the machine returns None. Nothing about a DGX Spark was verified on hardware.
"""

import contextlib
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import shared
from shared import paths, proxies
from shared.hardware.host import GIB, Host, browser, meminfo
from shared.hardware.machine import Machine
from shared.processes import start_time

NATIVE_DISK_GIB = 15  # all engines, measured
NATIVE_MEMORY_GIB = 12  # four engines at once, measured
# Weights of an 8B model in BF16 (15) + KV cache (4) + the engine itself (7) + the reserve that owners keep (20)
UNIFIED_MEMORY_GIB = 46
SWAP_IN_USE_GIB = 1
PORTS = {
    3000: "the chat page, Open WebUI",
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


@dataclass(frozen=True)
class Check:
    """One requirement: whether it holds, what was seen, why it matters, and the fix if it doesn't hold."""

    name: str
    state: str  # "ok" | "warning" | "failed"
    observed: str
    why: str = ""
    fix: str = ""  # a command or an instruction; a row that is ok may have one as advice


def ok(name: str, observed: str) -> Check:
    return Check(name, "ok", observed)


def check_python(host: Host, machine: Machine) -> Check:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        return ok("Python", version)
    return Check(
        "Python",
        "failed",
        version,
        "the labs' packages are pinned for Python 3.11 to 3.13",
        "make PYTHON=/path/to/python3.12 lab",
    )


def check_package(host: Host, machine: Machine) -> Check:
    here = Path(shared.__file__).resolve().parent
    if here == paths.REPO / "shared" and (paths.REPO / "environment" / "requirements.lock").exists():
        return ok("import shared", "this project")
    return Check(
        "import shared",
        "failed",
        paths.show(here),
        "another package of that name is imported instead",
        "unset PYTHONPATH; rm -rf .venv; make lab",
    )


def check_tool(host: Host, tool: str, package: str) -> Check:
    """A command that the set-up runs."""
    if found := host.which(tool):
        return ok(tool, found)
    return Check(
        tool, "failed", "not on the PATH", "the set-up compiles engines on this machine", f"sudo apt install {package}"
    )


def check_compiler(host: Host, machine: Machine) -> Check | None:
    return check_tool(host, "c++", "g++") if machine.runner == "native" else None


def check_git(host: Host, machine: Machine) -> Check | None:
    return check_tool(host, "git", "git") if machine.runner == "native" else None


def check_disk(host: Host, machine: Machine) -> Check:
    installed = os.path.exists(paths.cache() / "engines" / "vllm")
    need = 1 if installed or machine.runner == "container" else NATIVE_DISK_GIB
    free = host.free_bytes(paths.cache())
    observed = "unknown" if free is None else f"{free / GIB:.0f} GiB free in {paths.show(paths.cache())}"
    if free is not None and free >= need * GIB:
        return ok("disk", observed)
    return Check(
        "disk",
        "failed",
        observed,
        f"engines and weights take up to {need} GiB",
        "free some space, or: make LABS_CACHE=/big/disk/labs lab",
    )


def check_locks(host: Host, machine: Machine) -> Check:
    """Whether the file systems of the cache and of the results have locks. Network file systems may have none."""
    where = {paths.show(folder): host.locks_work(folder) for folder in (paths.cache(), paths.results())}
    without = [folder for folder, work in where.items() if work is False]
    if not without:
        return ok("file locks", "unknown" if None in where.values() else "work")
    return Check(
        "file locks",
        "warning",
        f"none in {' and '.join(without)}",
        "without locks, a measurement can't wait for another one, and two set-ups can damage each other's files",
        "run one notebook at a time, or move both to a local disk: export LABS_CACHE=... LABS_RESULTS=...",
    )


def check_proxy(host: Host, machine: Machine) -> Check | None:
    """The proxies of the environment. User names and passwords in them are never shown."""
    found = proxies.AS_SET if host.env is os.environ else proxies.proxies(host.env)
    if not found:
        return None
    faults = {name: why for name, proxy in found.items() if (why := proxies.fault(proxies.known(proxy)))}
    if not faults:
        seen = ", ".join(f"{name} ({proxies.address(proxy)})" for name, proxy in found.items())
        return ok("proxy", f"{seen}; not used for this machine's own addresses")
    return Check(
        "proxy",
        "warning",
        "; ".join(f"{name} is ignored: {why}" for name, why in faults.items()),
        "downloads then go without a proxy, and may not reach the internet",
        f"unset {' '.join(faults)}; export HTTPS_PROXY=http://host:port",
    )


def check_memory(host: Host, machine: Machine) -> Check:
    if machine.available_gib is None or machine.memory_gib is None:
        return Check(
            "memory",
            "failed" if machine.runner == "container" else "warning",
            "unknown: /proc/meminfo can't be read, or has no MemTotal or MemAvailable",
            "the labs can't check that an engine fits before it starts, nor end it when memory runs short",
            "cat /proc/meminfo   # a container without it needs: mount -t proc proc /proc",
        )
    observed = f"{machine.available_gib:.1f} GiB available of {machine.memory_gib:.0f}"
    fix = "close other programs; make down ends leftover engines"
    if machine.container_limit_gib is not None:
        observed += f" (this container is limited to {machine.container_limit_gib:.0f})"
        fix = f"start the container with more memory, such as: docker run --memory {NATIVE_MEMORY_GIB + 4}g ..."
    if machine.unified_memory and machine.runner == "container":
        need = UNIFIED_MEMORY_GIB
        why = (
            "an 8B model in BF16 needs 15 GiB for weights, 4 for the KV cache, 7 for the engine and 20 in reserve: "
            "when unified memory runs out, the machine freezes"
        )
    else:
        need, why = NATIVE_MEMORY_GIB, "four engines at once take 12 GiB"
    if machine.available_gib >= need:
        return ok("memory", observed)
    return Check("memory", "failed", observed, why, fix)


def check_cores(host: Host, machine: Machine) -> Check:
    if machine.cpu_quota is None or machine.cores == host.cores():
        return ok("cores", str(machine.cores))
    seen = f"{machine.cores} of {host.cores()}: the quota is {machine.cpu_quota:g} CPUs"
    why = (
        "engines start as many threads as the quota allows; with more threads, the quota would pause all of them most "
        "of the time"
    )
    fix = f"for more, start the container with a larger quota: docker run --cpus {host.cores()} ..."
    return Check("cores", "ok", seen, why, fix)


def check_swap(host: Host, machine: Machine) -> Check | None:
    memory = meminfo(host)
    if not machine.unified_memory or not machine.swap_gib or "SwapTotal" not in memory:
        return None
    used = (memory["SwapTotal"] - memory.get("SwapFree", memory["SwapTotal"])) / GIB
    observed = f"{machine.swap_gib:.0f} GiB, {used:.1f} in use; not counted as available"
    if used <= SWAP_IN_USE_GIB:
        return ok("swap", observed)
    return Check(
        "swap",
        "warning",
        observed,
        "memory has already run short; swap hides how close a freeze is, and an engine that reads from it "
        "is measured wrongly",
        "stop other engines, then: sudo swapoff -a && sudo swapon -a",
    )


def check_cache(host: Host, machine: Machine) -> Check | None:
    """The size of the file cache. It is never a failure, because the kernel frees file cache by itself."""
    memory = meminfo(host)
    if not machine.unified_memory or "Cached" not in memory:
        return None
    cached = sum(memory.get(f, 0) for f in ("Cached", "Buffers", "SReclaimable")) - memory.get("Shmem", 0)
    seen = f"{max(0, cached) / GIB:.1f} GiB; the kernel frees it when needed, so it counts as available"
    why = "drop it only if a model of 70B or more failed to load for lack of memory"
    return Check("file cache", "ok", seen, why, DROP_CACHES)


def check_engines(host: Host, machine: Machine) -> Check:
    """Engines that should have ended with their notebook: they run, but their parent process has ended."""
    running: list[str] = []
    left: list[str] = []
    for file in sorted((paths.state() / "run").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(file.read_text())
            if record["started"] == start_time(record["pid"]):
                parent_lives = start_time(record["parent"]) is not None
                (running if parent_lives else left).append(f"{record['engine']} (port {record['port']})")
    if not left:
        return ok("leftover engines", f"none; running: {', '.join(running)}" if running else "none")
    return Check(
        "leftover engines", "warning", ", ".join(left), "they hold memory, and no notebook uses them", "make down"
    )


def check_ports(host: Host, machine: Machine) -> Check:
    held = {port: who for port, who in host.listeners().items() if port in PORTS}
    if "jupyter" in held.get(8888, ""):
        del held[8888]  # JupyterLab itself, as expected
    if not held:
        return ok("ports", "all usual ports are free")
    first = min(held)
    return Check(
        "ports",
        "warning",
        "; ".join(f"{p} ({PORTS[p]}): {who}" for p, who in sorted(held.items())),
        "a program that needs one of these ports can't start; the engines of the labs use free ports",
        f"sudo ss -ltnp 'sport = :{first}'   # shows the process; docker ps lists containers",
    )


def check_token(host: Host, machine: Machine) -> Check | None:
    """Whether there is a token. The token itself is never shown."""
    if machine.runner == "native":
        return None
    home = host.env.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
    file = host.env.get("HF_TOKEN_PATH") or f"{home}/token"
    if host.env.get("HF_TOKEN") or (host.read(file) or "").strip():
        return ok("Hugging Face token", "found")
    return Check(
        "Hugging Face token",
        "warning",
        "none",
        "gated models need one; without it the labs use ungated copies where they exist",
        ".venv/bin/hf auth login   # or: export HF_TOKEN=...",
    )


def check_browser(host: Host, machine: Machine) -> Check:
    if found := browser(host):
        return ok("Chromium", found)
    return Check(
        "Chromium",
        "warning",
        "not found (optional)",
        "without it plots are interactive only, with no pictures in files, and lab 3.3.6 can't check a page",
        ".venv/bin/python -m environment.browser   # or on Debian, not on Ubuntu: sudo apt install chromium",
    )
