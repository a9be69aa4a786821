"""Whether a measurement had the machine to itself: what share of its cores other programs took while it ran.

An engine that shares its cores with a browser, an update or another student's job is slower by as much, and nothing
in its own figures says so. The operating system's count of all busy time, less that of the engine and of this
process, does.
"""

import time

import psutil

SHARE_LIMIT = 0.1  # of the machine's cores: what an open JupyterLab and a machine's own chores stay under


class Contention:
    """Begins to count when it is made."""

    def __init__(self, engine_pid: int) -> None:
        """`engine_pid`: the process that all of the engine's are below."""
        self._pid = engine_pid
        self._began_s, self._all_s, self._ours_s = time.monotonic(), busy_s(), self._ours()

    def others_share(self) -> float:
        """The share of the machine's cores that neither the engine nor this process kept busy since then, 0 to 1."""
        wall_s = time.monotonic() - self._began_s
        others_s = busy_s() - self._all_s - (self._ours() - self._ours_s)
        return round(max(others_s, 0.0) / wall_s / (psutil.cpu_count() or 1), 4)

    def _ours(self) -> float:
        """CPU seconds of this process, of the engine's, and of those of its children that have ended."""
        times: list[float] = [sum(psutil.Process().cpu_times()[:2])]
        try:
            root = psutil.Process(self._pid)
            below = root.children(recursive=True)
        except psutil.NoSuchProcess:  # it died: the load itself says so
            return times[0]
        for process in (root, *below):
            try:
                times.append(sum(process.cpu_times()[:4]))
            except psutil.NoSuchProcess:
                continue
        return sum(times)


def busy_s() -> float:
    """CPU seconds of all programs on all cores since the machine started, and those that its host took away."""
    spent = psutil.cpu_times()
    return float(spent.user + spent.nice + spent.system + getattr(spent, "steal", 0.0))


def disturbance(others_share: float | None) -> str | None:
    """What is wrong with a run during which others took this share; None if that is little, or isn't known."""
    if others_share is None or others_share <= SHARE_LIMIT:
        return None
    return f"other programs took {100 * others_share:.0f} % of the machine's cores meanwhile"
