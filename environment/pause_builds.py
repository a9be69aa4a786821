"""Pause all builds while something is measured."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from shared.processes import descendants, signal_all, start_time


class Stopped(Exception):
    """Raised in a step when another step failed or Ctrl-C was pressed."""


class Quiet:
    """Pauses all running builds during a measurement, so that no compiler distorts it."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._pids: set[int] = set()
        self._change = threading.Condition()
        self._held = False

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until nothing is being measured. Start a process, and add it, inside this block."""
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
        """Pause all builds during this block. Only one such block runs at a time."""
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
        """Send SIGSTOP to every build once. Returns whether all of them have stopped.

        Once is not enough: a process may fork while its siblings are being stopped, and a watchdog that has just
        started has no child yet. The watchdogs themselves keep running, because they must notice when this program
        ends.
        """
        still = True
        for root in self._pids:
            below = descendants(root)
            signal_all(below, signal.SIGSTOP)
            begun = bool(below) or start_time(root) is None
            still = still and begun and not any(runs(pid) for pid in below)
        return still


def runs(pid: int) -> bool:
    """Whether a process is alive and not stopped."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "TtZX"
    return False
