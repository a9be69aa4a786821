"""Why a run may not have measured the engine: a prefix cache that helped, a slow client, or other programs."""

from shared.load.loads import Run
from shared.load.prompts import OPENING_TOKENS


def cache_fault(cached: int | None, prompt: int, requests: int) -> str | None:
    """Why the cache distorted a run whose prompts share only the template's opening.

    None if the cache supplied less than 1 % of the prompt tokens beyond that opening.
    """
    if cached is None:
        return "the engine did not report how many prompt tokens came from its cache"
    if cached - OPENING_TOKENS * requests < 0.01 * prompt:
        return None
    return f"a prefix cache supplied {cached} of {prompt} prompt tokens, so the engine did not compute them"


LAG_LIMIT_MS = 10.0
LAG_LIMIT_OF_TTFT = 0.1
CPU_SHARE_LIMIT = 0.8


def bottleneck(run: Run, ttft_ms: float | None) -> str | None:
    """Why the client may have slowed the measurement down; None if it had time to spare.

    An event loop that wakes up late stamps late, by up to as much. A lag at p99 above 10 ms and above a tenth of the
    median TTFT is too much. So is a core that was busy for more than 80 % of the time.
    """
    if run.client_cpu_share > CPU_SHARE_LIMIT:
        return f"the client kept a core busy for {100 * run.client_cpu_share:.0f} % of the time"
    lag = (run.client_lag_ms or {}).get("p99", 0.0)
    if lag > LAG_LIMIT_MS and lag > LAG_LIMIT_OF_TTFT * (ttft_ms or 0):
        return f"the client's event loop woke up {lag:.0f} ms late at p99"
    return None


OTHERS_SHARE_LIMIT = 0.1  # of the machine's cores; a browser that showed JupyterLab on the same two cores took 0.11


def disturbance(run: Run) -> str | None:
    """Why other programs may have slowed the engine down; None if they took little, or if their share is unknown."""
    if run.others_cpu_share is None or run.others_cpu_share <= OTHERS_SHARE_LIMIT:
        return None
    return f"other programs took {100 * run.others_cpu_share:.0f} % of the machine's cores during the load"
