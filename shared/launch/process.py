"""Processes that end with the program that started them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from shared.processes import start_time

WATCHDOG = Path(__file__).with_name("watchdog.py")


class Guarded:
    """A command under shared/launch/watchdog.py: `end()` ends it and all below it, and so does our own death."""

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
        inherited: Mapping[str, str] = os.environ,
    ) -> None:
        """`env` is added to what is `inherited`; `afterwards` is run when all is over; `guard` holds the arguments
        of watchdog.Guard.

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
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={**inherited, **(env or {})},
                pass_fds=[read_end],
                start_new_session=True,
            )
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
