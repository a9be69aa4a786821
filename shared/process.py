"""Processes that end with the program that started them, the ports they listen on, and who waits for whom."""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

WATCHDOG = Path(__file__).with_name("watchdog.py")


class Guarded:
    """A command under shared/watchdog.py: `end()` ends it and all below it, and so does our own death."""

    def __init__(
        self,
        command: list[str],
        log: IO[bytes],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        nice: int = 0,
        afterwards: Sequence[str] = (),
        guard: Mapping[str, object] | None = None,
        owner: int | None = None,
    ) -> None:
        """`afterwards` is run when all is over; `guard` holds the arguments of watchdog.Guard.

        With an `owner` it lives as long as that process, not as long as this one.
        """
        read_end, self._lifeline = os.pipe()  # while our end is open, the watchdog lets the command live
        settings = json.dumps(
            {
                "lifeline": read_end,
                "parent": os.getpid(),
                "nice": nice,
                "afterwards": list(afterwards),
                "guard": guard,
                "owner": owner,
            }
        )
        try:
            self._process = subprocess.Popen(
                # -I -S: only the standard library; no module of shared/ can hide one of it, and it starts faster
                [sys.executable, "-I", "-S", str(WATCHDOG), settings, *command],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=cwd,
                env={**os.environ, **(env or {})}, pass_fds=[read_end], start_new_session=True,
            )  # fmt: skip
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(read_end)
        self.pid, self._owned = self._process.pid, owner is not None

    def exit_code(self) -> int | None:
        """None while it runs; 128 + n if signal n ended it."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code  # negative: the watchdog itself was killed

    def ready(self) -> None:
        """Say that it has started: from now on the guard's lower floor holds."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    def end(self) -> None:
        """End it and everything that it started; returns when they are gone."""
        lifeline, self._lifeline = self._lifeline, -1  # first: another thread may end it as well
        if lifeline >= 0:
            os.close(lifeline)
            if self._owned and self._process.poll() is None:
                os.kill(self.pid, signal.SIGTERM)
        self._process.wait()


class Adopted:
    """A guarded command that another process has started, found again by its watchdog's id."""

    def __init__(self, pid: int, started: int) -> None:
        self.pid, self._started = pid, started

    def exit_code(self) -> int | None:
        """None while it runs. How it ended only its parent knows."""
        return None if start_time(self.pid) == self._started else 1

    def ready(self) -> None:
        """It has started long ago."""

    def end(self) -> None:
        """End it and everything that it started; returns when they are gone."""
        while self.exit_code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            time.sleep(0.05)


def keeper() -> int | None:
    """The process that engines belong to in place of this one (LABS_ENGINES_OF), where many notebooks share them."""
    asked = os.environ.get("LABS_ENGINES_OF", "")
    return int(asked) if asked.isdigit() else None


@contextlib.contextmanager
def exclusive(file: Path, waiting: str) -> Iterator[None]:
    """Hold the lock of this file; if another program has it, say `waiting` and wait. Any death frees it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def held(file: Path) -> bool:
    """Whether somebody is inside `exclusive` of this file now."""
    try:
        with file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def start_time(pid: int) -> int | None:
    """When a living process began, in clock ticks since boot: tells it from a later one with the same id."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else int(fields[19])
    return None


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def taken(port: int) -> bool:
    """Whether another program holds this port of 127.0.0.1."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False
