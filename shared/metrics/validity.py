"""Why a run may not have measured the engine: a cache that helped, a client or other programs in its way."""

from shared.load.loads import Run
from shared.load.prompts import OPENING_TOKENS


def cache_fault(cached: int | None, prompt: int, requests: int) -> str | None:
    """What is wrong with a run whose prompts share nothing but the template's opening: None under 1 % beyond that."""
    if cached is None:
        return "the engine did not say how many prompt tokens came from its cache"
    if cached - OPENING_TOKENS * requests < 0.01 * prompt:
        return None
    return f"a prefix cache supplied {cached} of {prompt} prompt tokens: what looks like speed is memory"


LAG_LIMIT_MS = 10.0
LAG_LIMIT_OF_TTFT = 0.1
CPU_SHARE_LIMIT = 0.8


def bottleneck(run: Run, ttft_ms: float | None) -> str | None:
    """Why the client itself may have been what was measured; None if it had time to spare.

    A loop that wakes up late stamps late, by up to as much. That is harmless where it is short against what is
    measured: more than 10 ms and a tenth of the median TTFT is not. Nor is a core that was busy for four fifths.
    """
    if run.client_cpu_share > CPU_SHARE_LIMIT:
        return f"the client kept a core {100 * run.client_cpu_share:.0f} % busy"
    lag = (run.client_lag_ms or {}).get("p99", 0.0)
    if lag > LAG_LIMIT_MS and lag > LAG_LIMIT_OF_TTFT * (ttft_ms or 0):
        return f"the client's event loop woke up late, by {lag:.0f} ms at p99"
    return None


OTHERS_SHARE_LIMIT = 0.1  # of the machine's cores; a browser that draws JupyterLab on the same two reached 0.11


def disturbance(run: Run) -> str | None:
    """Why other programs may have slowed the engine down; None if they took little, or that isn't known."""
    if run.others_cpu_share is None or run.others_cpu_share <= OTHERS_SHARE_LIMIT:
        return None
    return f"other programs took {100 * run.others_cpu_share:.0f} % of the machine's cores meanwhile"
