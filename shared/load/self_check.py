"""What other programs take from a measurement: CPU time that neither the engine nor this process spent.

An engine that shares its cores with a browser, an update or another student's job is slower by as much, and nothing
in its own figures says so. The operating system's count of all busy time, less that of the engine and of this
process, does.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence

import psutil

from shared.processes import descendants


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


LAG_STEP_S = 0.01  # how often the event loop is asked to wake up; costs about 0.1 % of a core


async def watch_lag(seen_ms: list[float]) -> None:
    """How much later than asked for the loop wakes up, again and again."""
    while True:
        begin = time.perf_counter()
        await asyncio.sleep(LAG_STEP_S)
        seen_ms.append((time.perf_counter() - begin - LAG_STEP_S) * 1e3)


def spread_of_lag(seen_ms: Sequence[float]) -> dict[str, float] | None:
    """Nearest ranks; None of a load that was over before the first wake-up."""
    ranked = sorted(seen_ms)
    if not ranked:
        return None
    ranks = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: round(ranked[math.ceil(share * len(ranked)) - 1], 3) for name, share in ranks.items()}
