"""Holding every build still while something is measured."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from shared.processes import descendants, signal_all, start_time


class Stopped(Exception):
    """Another step failed, or the person pressed Ctrl-C."""


class Quiet:
    """Stops all running builds while something is measured: nothing is measured beside a compiler."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._pids: set[int] = set()
        self._change = threading.Condition()
        self._held = False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Waits until nothing is being measured. A process is started, and added, inside this block."""
        with self._change:
            self._wait()
            yield

    def add(self, pid: int) -> None:
        with self._change:
            self._pids.add(pid)

    def forget(self, pid: int) -> None:
        with self._change:
            self._pids.discard(pid)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Nothing else runs inside this block. One at a time."""
        with self._change:
            self._wait()
            self._held = True
            deadline = time.monotonic() + 5
            while not self._stop_all() and time.monotonic() < deadline:
                time.sleep(0.02)
        try:
            yield
        finally:
            with self._change:
                for root in self._pids:
                    signal_all(descendants(root), signal.SIGCONT)
                self._held = False
                self._change.notify_all()

    def _wait(self) -> None:
        while self._held and not self._stop.is_set():
            self._change.wait(0.1)
        if self._stop.is_set():
            raise Stopped

    def _stop_all(self) -> bool:
        """Stop every build once; whether all stand still now.

        Once is not enough: a process forks while its siblings are being stopped, and a watchdog that has
        only just begun has no command below it yet. The watchdogs themselves go on: they must see this
        program end.
        """
        still = True
        for root in self._pids:
            below = descendants(root)
            signal_all(below, signal.SIGSTOP)
            begun = bool(below) or start_time(root) is None
            still = still and begun and not any(runs(pid) for pid in below)
        return still


def runs(pid: int) -> bool:
    """Whether a process is neither gone nor stopped."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "TtZX"
    return False
