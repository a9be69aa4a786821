"""The only access to the system: commands with a time limit, files, disks, listening ports.

Detection and the doctor use a Host and never the system itself, so that a test can replace the machine by a recorded
one (tests/machines/).
"""

import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

from shared import files, paths

GIB = 2**30
LIMIT_S = 10.0
MISSING, TIMED_OUT = "missing", "timed out"


@dataclass(frozen=True)
class CommandOutput:
    """What a command printed, and how it failed."""

    out: str = ""
    err: str = ""
    failure: str = ""  # "" | MISSING | TIMED_OUT | "exit <code>"

    @property
    def first_line(self) -> str:
        """The first line of its error output, or of its output if it printed no errors."""
        return next((line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()), "")


class Host:
    """This machine."""

    env: Mapping[str, str] = os.environ

    def run(self, *command: str, limit_s: float = LIMIT_S) -> CommandOutput:
        """Run a command and return what it printed. Never raises, and never waits much longer than `limit_s`."""
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**self.env, "LC_ALL": "C"},
                start_new_session=True,
            )
        except OSError as e:
            return CommandOutput(err=str(e), failure=MISSING)
        try:
            out, err = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its children too: they hold the pipes open
            # A process that is stuck in a driver ignores even SIGKILL, so the wait is short.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            for pipe in (process.stdout, process.stderr):
                if pipe:
                    pipe.close()
            return CommandOutput(err=f"no answer in {limit_s:g} s", failure=TIMED_OUT)
        return CommandOutput(out, err, f"exit {process.returncode}" if process.returncode else "")

    def read(self, path: str) -> str | None:
        """The text of a file; None if it can't be read."""
        try:
            return Path(path).read_text(errors="replace")
        except OSError:
            return None

    def which(self, tool: str) -> str | None:
        """The path of this command; None if it isn't on the PATH."""
        return shutil.which(tool)

    def free_bytes(self, folder: Path) -> int | None:
        """Free bytes on the disk of this folder, which need not exist yet; None if they can't be read."""
        try:
            return shutil.disk_usage(files.nearest(folder)).free
        except OSError:
            return None

    def locks_work(self, folder: Path) -> bool | None:
        """Whether files in this folder, which need not exist yet, can be locked; None if that can't be tried."""
        return files.locks_work(folder)

    def architecture(self) -> str:
        return platform.machine()

    def cores(self) -> int:
        """How many cores this process may run on, not how many the machine has. A quota may allow less (cpu_quota)."""
        return len(os.sched_getaffinity(0))

    def listeners(self) -> dict[int, str]:
        """Each listening TCP port, and its process if this user may see it. Empty if /proc/net is unreadable."""
        found: dict[int, str] = {}
        try:
            connections = psutil.net_connections("tcp")
        except (OSError, psutil.Error):
            return found
        for one in connections:
            if one.status == psutil.CONN_LISTEN and one.laddr:
                found.setdefault(one.laddr.port, "another user's process, or a container")
                if one.pid is not None:
                    with contextlib.suppress(psutil.Error):  # it has ended
                        found[one.laddr.port] = f"{psutil.Process(one.pid).name()} (process {one.pid})"
        return found


HERE = Host()


def meminfo(host: Host = HERE) -> dict[str, int]:
    """/proc/meminfo in bytes; lines of another form are left out, and without the file it is empty.

    It is parsed here because psutil has no CmaFree, and a recorded machine has only text.
    """
    found = re.findall(r"(?m)^(\S+):[ \t]*([0-9]+)(?: kB)?[ \t]*$", host.read("/proc/meminfo") or "")
    return {name: int(kib) * 1024 for name, kib in found}


UNLIMITED = 2**60  # bytes: a limit above it is none. Cgroups of version 1 write 2**63 for "no limit".


@dataclass(frozen=True)
class Limit:
    """The limit of a memory cgroup, and how much of it is left, in bytes."""

    limit: int
    left: int


def memory_limit(host: Host = HERE) -> Limit | None:
    """The memory limit (such as a container's) that leaves this process least; None if all exceed the machine's memory.

    Reads cgroups of both versions, from this process's own up to the root. File cache that the kernel would free
    (inactive_file) doesn't count as used. CUDA's allocations on unified memory escape these limits.
    """
    total = meminfo(host).get("MemTotal", UNLIMITED)
    found = []
    for version, group in cgroups(host, "memory"):
        files, cache = ("memory.max", "memory.current"), "inactive_file"
        if version == 1:
            files, cache = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"
        limit, used = ((host.read(str(group / file)) or "").strip() for file in files)
        if limit.isdigit() and used.isdigit() and int(limit) < total:
            stat = re.search(rf"^{cache} (\d+)", host.read(str(group / "memory.stat")) or "", re.M)
            kept = int(used) - min(int(used), int(stat[1]) if stat else 0)
            found.append(Limit(int(limit), max(0, int(limit) - kept)))
    return min(found, key=lambda one: one.left, default=None)


def cpu_quota(host: Host = HERE) -> float | None:
    """The CPU time that cgroups allow this process, in CPUs (docker's --cpus, a Kubernetes limit); None if unlimited.

    The affinity still lists every core under a quota. If 64 threads on 64 cores share the time of 2 CPUs, the kernel
    stops all of them for most of each period.
    """
    found = []
    for version, group in cgroups(host, "cpu"):
        if version == 2:
            quota, _, period = (host.read(str(group / "cpu.max")) or "").strip().partition(" ")
        else:
            quota, period = (
                (host.read(str(group / f"cpu.cfs_{name}_us")) or "").strip() for name in ("quota", "period")
            )
        if quota.isdigit() and period.isdigit() and int(period):  # else "max", or -1
            found.append(int(quota) / int(period))
    return min(found, default=None)


def cgroups(host: Host, controller: str) -> Iterator[tuple[int, PurePosixPath]]:
    """Yield (version, folder) of each cgroup in which this controller limits this process, up to the root."""
    for line in (host.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not path.startswith("/") or (controllers and controller not in controllers.split(",")):
            continue  # a line of another form, or another controller's
        version, root = (1, f"/sys/fs/cgroup/{controller}") if controllers else (2, "/sys/fs/cgroup")
        folder = PurePosixPath(root + path)
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                yield version, group


def cpuinfo(*fields: str, host: Host = HERE) -> str | None:
    """The value of the first of these fields in /proc/cpuinfo. x86-64 and arm64 use different names."""
    for line in (host.read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in fields:
            return value.strip()
    return None


def browser(host: Host = HERE) -> str | None:
    """The path of a Chrome or Chromium: on the PATH, or fetched by environment/browser.py. None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    if found := next((path for name in names if (path := host.which(name))), None):
        return found
    fetched = sorted(paths.browsers().glob("chromium-*/chrome-linux*/chrome")) if type(host) is Host else []
    return str(fetched[-1]) if fetched else None
