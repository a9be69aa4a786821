"""Run a command that cannot outlive the program that asked for it.

    python watchdog.py LIFELINE_FD PARENT_PID NICE command...

The parent holds the write end of a pipe; this process waits on the read end. However the parent ends,
kill -9 included, the kernel closes its end, and everything started here is ended: SIGTERM first, SIGKILL
after `GRACE_S`. Being a "subreaper", this process inherits orphaned grandchildren, so an engine's worker
that moved into a session of its own is found as well. If the watchdog itself is killed, the kernel kills
the command (PR_SET_PDEATHSIG).

Only the standard library, so that it starts in milliseconds under any Python.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_S = 3.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def descendants(root: int) -> list[int]:
    """All living processes below `root`, nearest first, from /proc."""
    parent_of = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat") as f:
                # "pid (comm) state ppid ...": comm may hold spaces and brackets, so cut at the last one
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
    """End every descendant of this process: politely, then not. Returns when none is left."""
    own = os.getpid()
    signal_all(descendants(own), signal.SIGTERM)
    signal_all(descendants(own), signal.SIGCONT)  # a paused process acts on no SIGTERM
    deadline = time.monotonic() + grace_s
    while has_children():
        if time.monotonic() > deadline:
            signal_all(descendants(own), signal.SIGKILL)
        time.sleep(0.02)


def has_children() -> bool:
    """Reap the dead ones; whether any is left. The kernel knows, where a walk over /proc can miss a fork.

    As a subreaper this process becomes the parent of every orphan below it: no child means no descendant.
    """
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def main() -> int:
    lifeline, parent, nice = (int(a) for a in sys.argv[1:4])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    asked_to_stop = False

    def stop(*_: object) -> None:
        nonlocal asked_to_stop
        asked_to_stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle

    own = os.getpid()

    def in_child() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != own:  # killed before the line above: no signal will come
            os._exit(137)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.nice(nice)

    try:
        child = subprocess.Popen(sys.argv[4:], start_new_session=True, preexec_fn=in_child)
    except OSError as e:
        print(f"cannot start {sys.argv[4]}: {e.strerror}", file=sys.stderr)
        return 127
    done = os.pidfd_open(child.pid)
    while child.poll() is None and not asked_to_stop and os.getppid() == parent:
        # The pipe never carries data: readable means that its other end is closed.
        if lifeline in select.select([lifeline, done], [], [], 0.5)[0]:
            break
    code = child.poll()
    end_all()
    if code is None:
        return 143
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
