"""Disturbances of a measurement: CPU time of other programs, and how late this process's event loop wakes up.

An engine that shares its cores with a browser, an update or another student's job gets slower, and its own figures
don't show why. The operating system's count of all busy time, less that of the engine and of this process, shows it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

import psutil

from shared.processes import descendants


def others_cpu_s(engine_pid: int | None) -> float:
    """CPU seconds of all other programs on all cores, and those that a virtual machine's host took away.

    They count from the machine's start, less the time of this process and of the engine, so only the difference between
    two moments has a meaning. `engine_pid`: the ancestor of the engine's processes; None if the engine runs in this
    process.
    """
    spent = psutil.cpu_times()
    ours_s = time.process_time()
    for pid in (engine_pid, *descendants(engine_pid)) if engine_pid else ():
        with contextlib.suppress(psutil.NoSuchProcess):
            ours_s += sum(psutil.Process(pid).cpu_times()[:4])  # its children that have ended are included
    return spent.user + spent.nice + spent.system + spent.steal - ours_s


LAG_STEP_S = 0.01  # the time between two wake-ups of the event loop; they cost about 0.1 % of a core


async def watch_lag(seen_ms: list[float]) -> None:
    """Append to `seen_ms`, again and again, how much later than scheduled the event loop wakes up."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(LAG_STEP_S)
        seen_ms.append((time.perf_counter() - begin - LAG_STEP_S) * 1e3)


def spread_of_lag(seen_ms: Sequence[float]) -> dict[str, float] | None:
    """p50, p99 and max by nearest rank; None for a load that was over before the first wake-up."""
    ranked = sorted(seen_ms)
    if not ranked:
        return None
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ranked[math.ceil(share * len(ranked)) - 1], 3) for name, share in ranks.items()}
