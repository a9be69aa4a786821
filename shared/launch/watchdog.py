"""Run a command that cannot outlive the program that started it, nor use up the machine's memory.

    python watchdog.py '{"lifeline": 4, "parent": 4711, ...}' command...

The parent holds the write end of a pipe, and this process waits on the read end. However the parent ends, kill -9
included, the kernel closes the parent's end. The watchdog then ends all its descendants: SIGTERM first, SIGKILL after
`GRACE_S`. As a "subreaper" it inherits orphaned grandchildren, so it also finds a worker that moved into its own
session. If the watchdog itself is killed, the kernel kills the command (PR_SET_PDEATHSIG).

A container is not a descendant of the `docker run` that started it. So at the end every container with the label of
this launch is removed, whatever happened. A label, because the container's name may belong to a foreign container.

A guard samples MemAvailable once a second and kills all descendants below a floor. A machine whose CPU and GPU share
their memory (a DGX Spark) freezes or resets when it runs out, and raises no error. The guard runs in this process,
because a busy notebook would sample late. SIGUSR1 means that the engine is ready: from then on the lower floor applies.

This file uses only the standard library, so that it starts in milliseconds under any Python.
"""

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

GRACE_S = 3.0
GUARD_EXIT = 77  # the exit code of an engine that the guard ended
FREE_S = 1.0  # no container has appeared for so long: none is being created any more
REMOVE_WITHIN_S = 15.0  # then a daemon that does not answer is given up
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def descendants(root: int) -> list[int]:
    """All living processes below `root`, nearest first, from /proc."""
    parent_of = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat") as f:
                # "pid (comm) state ppid ...": comm may contain spaces and brackets, so cut at the last bracket
                state, ppid = f.read().rsplit(")", 1)[1].split()[:2]
                if state != "Z":
                    parent_of[int(name)] = int(ppid)
    found, frontier = [], [root]
    while frontier:
        frontier = [pid for pid, ppid in parent_of.items() if ppid in frontier]
        found += frontier
    return found


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_all(grace_s: float = GRACE_S) -> None:
    """End every descendant of this process: by SIGTERM, then by SIGKILL. Returns when none is left."""
    own = os.getpid()
    signal_all(descendants(own), signal.SIGTERM)
    signal_all(descendants(own), signal.SIGCONT)  # a paused process acts on no SIGTERM
    deadline = time.monotonic() + grace_s
    while has_children():
        if time.monotonic() > deadline:
            signal_all(descendants(own), signal.SIGKILL)
        time.sleep(0.02)


def has_children() -> bool:
    """Reap ended children. Returns whether any child is left, by waitpid, since a walk over /proc can miss a fork.

    As a subreaper this process becomes the parent of every orphan below it, so no child means no descendant.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


class Guard:
    """Samples the available memory once a second, and writes each sample to a file: time, GiB, floor.

    Each line is forced to the disk, so that the last ones are there after the machine was reset.
    """

    def __init__(self, meminfo: str, loading_gib: float, running_gib: float, samples: str) -> None:
        self.meminfo, self.floor, self.running_gib = meminfo, loading_gib, running_gib
        self.out = open(samples, "a")  # noqa: SIM115  for as long as this process lives
        self.began = self.last = time.monotonic() - 1

    def tripped(self) -> bool:
        """Whether less than the floor is available. Reads at most once a second, however often it is called."""
        now = time.monotonic()
        if now - self.last < 1:
            return False
        self.last = now
        with open(self.meminfo) as f:
            found = [int(line.split()[1]) / 2**20 for line in f if line.startswith("MemAvailable:")]
        if not found:
            return False  # a test is writing the file; the real one always has the line
        with contextlib.suppress(OSError):  # a full disk must not end an engine
            self.out.write(f"{now - self.began - 1:.1f} s: {found[0]:.2f} GiB available, floor {self.floor:.2f}\n")
            self.out.flush()
            os.fdatasync(self.out.fileno())
        return found[0] < self.floor


def main() -> int:
    """Run the command with a folder of its own for temporary files, and remove the folder when everything has ended.

    vLLM, for one, leaves two sockets in TMPDIR at each start, because it has no time to clean up when it is ended.
    """
    with tempfile.TemporaryDirectory(prefix="labs-", ignore_cleanup_errors=True) as folder:
        os.environ["TMPDIR"] = folder
        return watch()


def watch() -> int:
    """Run the command to its end. Returns the exit code for this process."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    lifeline, parent, label = settings["lifeline"], settings["parent"], settings["label"]
    if settings["owner"]:  # the command lives as long as that process, even if the parent ends
        try:
            lifeline, parent = os.pidfd_open(settings["owner"]), None
        except OSError as e:
            print(f"the owner, process {settings['owner']}, has ended: {e.strerror}", file=sys.stderr)
            return 143
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    asked_to_stop = is_ready = False

    def stop(*_: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    def ready(*_: object) -> None:
        nonlocal is_ready
        is_ready = True
        if guard:
            guard.floor = guard.running_gib

    guard = Guard(**settings["guard"]) if settings["guard"] else None
    signal.signal(signal.SIGUSR1, ready)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    own = os.getpid()

    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != own:  # the watchdog was killed before the line above, so no signal will come
            os._exit(137)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.nice(settings["nice"])

    try:
        child = subprocess.Popen(sys.argv[2:], start_new_session=True, preexec_fn=in_child)
    except OSError as e:
        print(f"cannot start {sys.argv[2]}: {e.strerror}", file=sys.stderr)
        return 127
    done = os.pidfd_open(child.pid)
    tripped = False
    while child.poll() is None and not asked_to_stop and parent in (None, os.getppid()):
        if guard and guard.tripped():
            tripped = True
            signal_all(descendants(own), signal.SIGKILL)  # no grace: memory can fall by 2 GiB a second
            break
        # The pipe carries no data, so readable means that its other end is closed. A pidfd: that the process ended.
        if lifeline in select.select([lifeline, done], [], [], 0.5)[0]:
            break
    code = child.poll()
    if label and tripped:
        remove_containers(label, settled=is_ready)
    end_all()
    if label and not tripped:
        remove_containers(label, settled=is_ready)  # after SIGTERM, which `docker run` passes on
    if tripped:
        return GUARD_EXIT
    if code is None:
        return 143
    return code if code >= 0 else 128 - code


def remove_containers(label: str, settled: bool) -> None:
    """Remove all containers that have this label. Returns when there are none.

    If `docker run` ends while the daemon creates its container, the daemon finishes afterwards. So unless the launch
    has `settled` (its engine was ready), the containers must have been gone for FREE_S.
    """
    began = time.monotonic()
    gone_since = None
    while True:
        found = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={label}")
        now = time.monotonic()
        if found is None:
            gone_since = None  # the daemon may be starting again
        elif found:
            docker("rm", "--force", "--volumes", *found)
            gone_since = None
        else:
            gone_since = now if gone_since is None else gone_since
            if settled or now - gone_since >= FREE_S:
                return
        if now - began > REMOVE_WITHIN_S:
            return
        time.sleep(0.1)


def docker(*arguments: str) -> list[str] | None:
    """The words that a docker command printed; None if it failed."""
    try:
        answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if answer.returncode else answer.stdout.split()


if __name__ == "__main__":
    sys.exit(main())
