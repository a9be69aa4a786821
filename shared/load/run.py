"""One load on one engine: every trace, and what was asked for."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.errors import LabError
from shared.load.client import Trace


@dataclass(frozen=True)
class Run:
    """One load on one engine: every trace, and what was asked for."""

    traces: tuple[Trace, ...]
    users: int  # of a closed loop; of an open one how many were under way at most
    max_tokens: int
    prompts: str
    engine: dict[str, Any]  # Engine.provenance() at the time
    client_cpu_share: float  # of one core, spent by this process while the load ran
    counted: dict[str, float] = field(default_factory=dict)  # by how much the engine's own counters grew
    load: Mapping[str, Any] = field(default_factory=lambda: {"kind": "closed"})  # how the requests came
    client_lag_ms: Mapping[str, float] | None = None  # p50, p99, max: how late the event loop woke up
    others_cpu_share: float | None = None  # of all cores, taken by other programs; None of an engine in a container


class Died(LabError):
    """The engine ended under the load. `run` is what was measured until then; what was under way carries its error."""

    def __init__(self, error: LabError, run: Run) -> None:
        super().__init__(str(error))
        self.fix, self.run = error.fix, run


def users_text(count: int) -> str:
    """ "1 user", "4 users"."""
    return f"{count} user{'s' if count != 1 else ''}"


def most_at_once(traces: Sequence[Trace]) -> int:
    """How many requests were under way at the same time, at most."""
    steps = sorted([(t.sent_ns, 1) for t in traces] + [(t.end_ns, -1) for t in traces])
    return max(itertools.accumulate(step for _, step in steps))
