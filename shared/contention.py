"""What other programs take from a measurement: CPU time that neither the engine nor this process spent.

An engine that shares its cores with a browser, an update or another student's job is slower by as much, and nothing
in its own figures says so. The operating system's count of all busy time, less that of the engine and of this
process, does.
"""

import contextlib
import time

import psutil

from shared.watchdog import descendants


def others_cpu_s(engine_pid: int | None) -> float:
    """CPU seconds of all other programs on all cores, and those that the machine's own host took away.

    They count from the machine's start, less what is ours: only the difference between two moments means something.
    `engine_pid`: the process that all of the engine's are below; None of an engine that is this process.
    """
    spent = psutil.cpu_times()
    ours_s = time.process_time()
    for pid in (engine_pid, *descendants(engine_pid)) if engine_pid else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            ours_s += sum(psutil.Process(pid).cpu_times()[:4])  # and of those of its children that have ended
    return spent.user + spent.nice + spent.system + spent.steal - ours_s
