"""What machine this is, as facts with the reason for each.

machine = hardware.detect()     # cores, memory, GPU, and the profile that follows
hardware.doctor()               # every requirement checked, with a fix for each that fails
"""

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from shared import paths
from shared.errors import LabError

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """One machine. `profile` decides which models and sizes a lab uses, `why` says what it follows from."""

    profile: str  # "spark" | "cuda" | "cpu"
    why: str
    processor: str
    architecture: str
    cores: int  # that this process may use, not that the box has
    memory_gib: float
    available_gib: float  # MemAvailable: what can be taken without swapping
    gpu: str | None
    size: str  # "full" | "quick": how long the measurements are (LABS_SIZE)

    @property
    def rounds(self) -> int:
        """How often each load is repeated: five carry a spread, two are for trying things out."""
        return 5 if self.size == "full" else 2

    def __str__(self) -> str:
        gpu = f", {self.gpu}" if self.gpu else ", no NVIDIA GPU"
        return (
            f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB{gpu}"
            f" → profile {self.profile!r} ({self.why}), size {self.size!r}"
        )


@dataclass(frozen=True)
class Check:
    """One requirement: whether it holds, what was seen, and what to do if it doesn't."""

    name: str
    ok: bool
    observed: str
    fix: str


def detect() -> Machine:
    """Look at this machine. Never guesses: what can't be read is None or says so."""
    gpu = nvidia_gpu()
    if gpu and "GB10" in gpu:
        profile, why = "spark", f"nvidia-smi names {gpu}"
    elif gpu:
        profile, why = "cuda", f"nvidia-smi names {gpu}"
    else:
        profile, why = "cpu", "nvidia-smi is missing or finds no GPU"
    size = os.environ.get("LABS_SIZE", "full")
    if size not in ("full", "quick"):
        raise LabError(f"LABS_SIZE is {size!r}; it can be 'full' or 'quick'.", "unset it, or choose one of the two")
    memory = meminfo()
    return Machine(
        profile=profile,
        why=why,
        processor=processor(),
        architecture=platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=memory["MemTotal"] / GIB,
        available_gib=memory["MemAvailable"] / GIB,
        gpu=gpu,
        size=size,
    )


@functools.cache
def nvidia_gpu() -> str | None:
    """Name and compute capability of the first GPU, as nvidia-smi prints them; None if there is none."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else None


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


def cpuinfo(*fields: str) -> str | None:
    """The first of these fields of /proc/cpuinfo; x86-64 and arm64 name them differently."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in fields:
            return value.strip()
    return None


def processor() -> str:
    name = cpuinfo("model name", "Model")
    if name is None:  # arm64 gives only part numbers: lscpu knows their names
        try:
            lines = subprocess.run(
                ["lscpu"], capture_output=True, text=True, timeout=10, check=True
            ).stdout.splitlines()
            name = " + ".join(line.split(":")[1].strip() for line in lines if line.strip().startswith("Model name"))
        except (OSError, subprocess.SubprocessError):
            name = None
    return name or f"unnamed {platform.machine()} processor"


def cpu_flags() -> str:
    """A short name for this processor's instruction set: what is compiled for one may not run on another."""
    return hashlib.sha256((cpuinfo("flags", "Features") or "").encode()).hexdigest()[:8]


def check(name: str, ok: bool, observed: str, fix: str) -> Check:
    return Check(name, ok, observed, "" if ok else fix)


def check_python() -> Check:
    version = platform.python_version()
    return check(
        "Python 3.11 to 3.13",
        (3, 11) <= sys.version_info < (3, 14),
        version,
        "make PYTHON=/path/to/python3.12 lab",
    )


def check_package() -> Check:
    here = Path(__file__).resolve().parent
    wanted = paths.REPO / "shared"
    foreign = not (paths.REPO / "environment" / "requirements.lock").exists()
    return check("`import shared` is this project's", here == wanted and not foreign, paths.show(here),
                 "another package of that name hides ours: uninstall it, then run make lab")  # fmt: skip


def check_tool(tool: str, package: str) -> Check:
    found = shutil.which(tool)
    return check(tool, found is not None, found or "not on the PATH", f"sudo apt install {package}")


def check_disk() -> Check:
    folder = paths.cache()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    installed = (paths.cache() / "engines" / "vllm").exists()
    need = 1 if installed else 15
    return check(f"{need} GiB of disk for engines", free >= need, f"{free:.0f} GiB free in {paths.show(folder)}",
                 "free some space, or make LABS_CACHE=/big/disk/labs")  # fmt: skip


def check_memory() -> Check:
    available = meminfo()["MemAvailable"] / GIB
    return check("12 GiB of memory for four engines at once", available >= 12, f"{available:.1f} GiB available",
                 "close other programs (make down ends engines that were left)")  # fmt: skip


def check_browser() -> Check:
    """Not a requirement: without one, figures are interactive only."""
    found = browser()
    return check("Chromium for static pictures (optional)", found is not None, found or "not found",
                 "sudo apt install chromium, if you want pictures in files")  # fmt: skip


def browser() -> str | None:
    """The path of a Chrome or Chromium, if there is one."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_package,
    lambda: check_tool("c++", "g++"),
    lambda: check_tool("git", "git"),
    check_disk,
    check_memory,
    check_browser,
)


def doctor() -> list[Check]:
    """Run every check, in the order in which they matter."""
    return [one() for one in CHECKS]


def main() -> int:
    print(detect())
    checks = doctor()
    for c in checks:
        print(f"  {'ok  ' if c.ok else 'FIX '} {c.name}: {c.observed}" + ("" if c.ok else f"\n        → {c.fix}"))
    return 0 if all(c.ok or "(optional)" in c.name for c in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
