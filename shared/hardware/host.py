"""The one door to the machine: commands with a time limit, files, disks, listening ports.

Detection and the doctor ask a Host, never the system itself, so that a test can put another machine in
its place (tests/machines/).
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

from shared import paths

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
        """The first line that it printed, its complaint before its output."""
        return next((line.strip() for line in (self.err + "\n" + self.out).splitlines() if line.strip()), "")


class Host:
    """This machine."""

    env: Mapping[str, str] = os.environ

    def run(self, *command: str, limit_s: float = LIMIT_S) -> CommandOutput:
        """What the command printed. Never raises, never waits much longer than `limit_s`."""
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
            # A process that is stuck inside a driver doesn't even react to SIGKILL: it isn't waited for.
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
        """Where this command is on the PATH."""
        return shutil.which(tool)

    def free_bytes(self, folder: Path) -> int | None:
        """What may still be written to the disk of this folder, which need not exist yet."""
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            return None

    def architecture(self) -> str:
        return platform.machine()

    def cores(self) -> int:
        """On how many this process may run, not how many the box has; a quota may leave less (cpu_quota)."""
        return len(os.sched_getaffinity(0))

    def listeners(self) -> dict[int, str]:
        """TCP port → the process that listens on it, as far as this user may know."""
        port_of = {}
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for line in (self.read(table) or "").splitlines()[1:]:
                fields = line.split()
                if len(fields) > 9 and fields[3] == "0A":  # TCP_LISTEN
                    port_of[f"socket:[{fields[9]}]"] = int(fields[1].rsplit(":", 1)[1], 16)
        found = dict.fromkeys(port_of.values(), "another user's process, or a container")
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                for link in (process / "fd").iterdir():
                    port = port_of.get(os.readlink(link))
                    if port is not None:
                        found[port] = f"{(process / 'comm').read_text().strip()} (process {process.name})"
        return found


HERE = Host()


def meminfo(host: Host = HERE) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = (host.read("/proc/meminfo") or "").splitlines()
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


@dataclass(frozen=True)
class Limit:
    """A memory cgroup's limit, and what is left of it, in bytes."""

    limit: int
    left: int


def memory_limit(host: Host = HERE) -> Limit | None:
    """The tightest limit on this process's memory, if any is below the machine's: in a container its own.

    cgroups of both versions, from this process's up to the root. File cache that the kernel would give back
    (inactive_file) is not counted as used. CUDA's allocations on unified memory escape these limits.
    """
    total = meminfo(host)["MemTotal"]
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
    """How many CPUs' time this process may use, if a cgroup limits it: docker's --cpus, a limit of Kubernetes.

    The affinity still shows every core then. With a thread for each of 64 cores on the time of 2, all threads are
    stopped together for most of each period.
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
    """(version, folder) of each cgroup that limits this process by this controller, up to the root of its tree."""
    for line in (host.read("/proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        version, root = (1, f"/sys/fs/cgroup/{controller}") if controllers else (2, "/sys/fs/cgroup")
        folder = PurePosixPath(root + path)
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                yield version, group


def cpuinfo(*fields: str, host: Host = HERE) -> str | None:
    """The first of these fields of /proc/cpuinfo; x86-64 and arm64 name them differently."""
    for line in (host.read("/proc/cpuinfo") or "").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in fields:
            return value.strip()
    return None


def browser(host: Host = HERE) -> str | None:
    """The path of a Chrome or Chromium, if there is one: on the PATH, or as environment/browser.py fetched it."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    if found := next((path for name in names if (path := host.which(name))), None):
        return found
    fetched = sorted(paths.browsers().glob("chromium-*/chrome-linux*/chrome")) if host is HERE else []
    return str(fetched[-1]) if fetched else None
