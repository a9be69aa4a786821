"""Processes that end when the program that started them ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from shared import paths
from shared.engines.http import get
from shared.errors import LabError
from shared.processes import open_files_for, start_time

WATCHDOG = Path(__file__).with_name("watchdog.py")

# Variables that engines, their allocators and their thread pools read. Flags and the engine's file in shared/engines
# set them. From the user's shell they would change what is measured, and no result would show it.
ENGINES_READ = re.compile(
    r"(LLAMA|GGML|OLLAMA|VLLM|SGLANG|SGL|TRTLLM|TLLM|OMP|GOMP|KMP|MKL|TORCH|TORCHINDUCTOR|PYTORCH|ATEN|MALLOC|MIMALLOC"
    r"|JEMALLOC|TCMALLOC)_\w+|OPENBLAS_NUM_THREADS|NUMEXPR_NUM_THREADS|LD_PRELOAD"
)


KEEP_LOGS = 19  # beside that of the engine which starts
SET_BY_TORCH = {"TORCHINDUCTOR_CACHE_DIR"}  # in the notebook's own process, once torch is loaded


def inherited_environment(environment: Mapping[str, str] = os.environ) -> tuple[dict[str, str], list[str]]:
    """The variables of the user that an engine gets, and the names of those that it does not get."""
    kept = {name: value for name, value in environment.items() if not ENGINES_READ.fullmatch(name)}
    return kept, sorted(environment.keys() - kept.keys() - SET_BY_TORCH)


class Guarded:
    """A command under shared/launch/watchdog.py. `end()`, or the end of this process, ends it with all its children."""

    def __init__(
        self,
        command: list[str],
        log: IO[bytes],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        nice: int = 0,
        label: str = "",
        guard: Mapping[str, object] | None = None,
        owner: int | None = None,
        inherited: Mapping[str, str] = os.environ,
    ) -> None:
        """Start the command with `env` added to the `inherited` variables, and its output written to `log`.

        Its TMPDIR is a folder of its own, which the watchdog removes at the end. What torch compiles is kept elsewhere.
        At the end the watchdog removes all containers that have the `label`. `guard` holds the arguments of
        watchdog.Guard. With an `owner` (a process id), the command lives as long as that process, not as long as this
        one.
        """
        open_files_for(0, "A server")  # it inherits the limit, and opens a file for each connection
        read_end, self._lifeline = os.pipe()  # the watchdog ends the command when our end is closed
        settings = json.dumps(
            {
                "lifeline": read_end,
                "parent": os.getpid(),
                "nice": nice,
                "label": label,
                "guard": guard,
                "owner": owner,
            }
        )
        try:
            self._process = subprocess.Popen(
                # -I -S: the standard library only. It starts faster, and no module of shared/ can shadow one of its.
                [sys.executable, "-I", "-S", str(WATCHDOG), settings, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={"TORCHINDUCTOR_CACHE_DIR": str(paths.compiled()), **inherited, **(env or {})},
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
        """The exit code, or 128 + n if signal n ended the command. None while it runs."""
        code = self._process.poll()
        return code if code is None or code >= 0 else 128 - code  # negative: the watchdog itself was killed

    def ready(self) -> None:
        """Tell the watchdog that the engine has started. From then on the guard uses its lower floor."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGUSR1)

    def end(self) -> None:
        """End the command and every process that it started. Returns when they are gone."""
        lifeline, self._lifeline = self._lifeline, -1  # first, because another thread may call this too
        if lifeline >= 0:
            os.close(lifeline)
            if self._owned and self._process.poll() is None:
                os.kill(self.pid, signal.SIGTERM)
        self._process.wait()


def until_ready(server: Guarded, title: str, port: int, path: str, log: Path, within_s: float) -> float:
    """Wait until GET `path` of a server returns 200. Returns the seconds that it took.

    Raises LabError, with the last lines of its log, if the server ends or isn't ready in time. It has then ended.
    """
    began = time.monotonic()
    while (get(port, path) or (0,))[0] != 200:
        late = time.monotonic() - began > within_s
        if late or server.exit_code() is not None:
            server.end()
            what = f"was not ready after {within_s:.0f} s" if late else "ended while it started"
            last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise LabError(
                f"{title} {what}. Its log ends with:\n{last}", "correct what the log names, and start it again"
            )
        time.sleep(0.05)
    return time.monotonic() - began


def remove_old_logs(logs: Path, keep: int = KEEP_LOGS) -> None:
    """Remove all but the newest logs of engines, and what the guard wrote beside them.

    An engine that runs keeps its log, however many were started since: should it die, the error shows its last lines.
    """
    in_use = set()
    for file in (paths.state() / "run").glob("*.json"):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            record = json.loads(file.read_text())
            if start_time(record["pid"]) == record["started"]:
                in_use.add(record["log"])
    for old in sorted(logs.glob("engine-*.log"))[:-keep]:
        if str(old) not in in_use:
            old.unlink(missing_ok=True)
            old.with_suffix(".memory").unlink(missing_ok=True)


class Adopted:
    """A guarded command that another process started, identified by the process id and start time of its watchdog."""

    def __init__(self, pid: int, started: int) -> None:
        self.pid, self._started = pid, started

    def exit_code(self) -> int | None:
        """None while it runs, else 1. Only its parent gets the real exit code."""
        return None if start_time(self.pid) == self._started else 1

    def ready(self) -> None:
        """Do nothing: an adopted engine has already started."""

    def end(self) -> None:
        """End the command and every process that it started. Returns when they are gone."""
        while self.exit_code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            time.sleep(0.05)


def keeper() -> int | None:
    """The process that owns engines instead of this one, where notebooks share them (LABS_ENGINES_OF). Else None."""
    asked = os.environ.get("LABS_ENGINES_OF", "")
    return int(asked) if asked.isdigit() else None
