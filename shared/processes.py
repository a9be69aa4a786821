"""Other processes by their id (start time, descendants, signals), and which TCP ports are free."""

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import psutil


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
