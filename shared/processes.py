"""Other processes by their id (start time, descendants, signals), free TCP ports, and the limit of open files."""

import contextlib
import os
import resource
import signal
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil

from shared.errors import LabError

OPEN_FILES = 65_536  # enough for every load; some programs walk through all numbers up to their limit
OTHER_FILES = 64  # beside a load's connections: logs, counters, pipes, the event loop


def start_time(pid: int) -> int | None:
    """The start of a living process in clock ticks since boot; None if it has ended.

    It distinguishes the process from a later one with the same id. psutil's `create_time` can't: it adds the boot time,
    which moves when the system clock is set, so the value of a living process would change.
    """
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None


def descendants(root: int) -> list[int]:
    """All living processes below `root`, each listed after its parent."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(root).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
    return found


def signal_all(pids: Iterable[int], number: int) -> None:
    """Send this signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def pause_all(pids: Sequence[int], within_s: float = 2.0) -> None:
    """Send SIGSTOP to each process, and return when all stand still.

    The kernel stops a process when that next gets the processor, which can take a while on a busy machine. A process
    that waits for a disk stops later: after `within_s` it is no longer waited for.
    """
    signal_all(pids, signal.SIGSTOP)
    end_s = time.monotonic() + within_s
    while not all(map(stands_still, pids)) and time.monotonic() < end_s:
        time.sleep(0.002)


def stands_still(pid: int) -> bool:
    """Whether this process is stopped, or has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    return True


def free_port() -> int:
    """A port of 127.0.0.1 that no program uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def port_taken(port: int) -> bool:
    """Whether another program holds this port of 127.0.0.1."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def open_files_for(connections: int, what: str) -> None:
    """Let this process, and those that it starts from now on, open this many connections beside what is open.

    Raises the soft limit of open files, as far as the hard limit allows. Raises LabError, with `what` as its subject,
    if that isn't enough.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + connections + OTHER_FILES
    most = max(OPEN_FILES, needed) if hard == resource.RLIM_INFINITY else min(hard, max(OPEN_FILES, needed))
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise LabError(
            f"{what} needs {needed:,} open files, but this process may have only {soft:,}.",
            f"choose at most {max(1, connections - (needed - soft)):,} connections at once, or have the limit raised: "
            "`ulimit -Hn` shows it, and an administrator sets it in /etc/security/limits.conf (nofile)",
        )
