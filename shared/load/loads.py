"""A load as an object: what is sent to which engine, and what came of it.

    Load(engine, prompts.short(model), Closed(users=16, requests=32), max_tokens=32)
    Load(engine, prompts.short(model), Poisson(rate_per_s=2, seconds=60))

Closed loop: each of N users sends its next request when its last answer has ended. The load therefore slows down
with the engine: it finds throughput, and hides how long a request would wait if users came whether or not the
engine kept up. Open loop: requests come at moments that were drawn beforehand, as from users who don't know of each
other. There a stalled engine shows: the latency counts from the moment at which the schedule wanted the request
(to leave out the wait before it was sent is known as coordinated omission).
"""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.client import Limits, Trace
from shared.load.prompts import PromptSet


@dataclass(frozen=True)
class Closed:
    """Users who wait for their answers, until `requests` are sent or `seconds` are over."""

    users: int
    requests: int | None = None
    seconds: float | None = None
    think_s: float = 0  # between an answer and the user's next request

    def __post_init__(self) -> None:
        one_end(self.requests, self.seconds)
        if self.users < 1 or (self.requests is not None and self.requests < self.users):
            raise LabError(
                f"{self.requests} requests can't come from {self.users} users.", "ask for at least one request each"
            )


@dataclass(frozen=True)
class Poisson:
    """Requests at random moments, whether or not the engine keeps up, until `requests` or `seconds`.

    The moments are drawn from `seed` beforehand. `even`: a request every 1 / rate seconds instead.
    """

    rate_per_s: float
    requests: int | None = None
    seconds: float | None = None
    seed: int = 0
    even: bool = False

    def __post_init__(self) -> None:
        one_end(self.requests, self.seconds)
        if self.rate_per_s <= 0:
            raise LabError(f"{self.rate_per_s} requests a second are no load.", "choose a rate above 0")
        if not self.moments_s():
            raise LabError(f"In {self.seconds} s at {self.rate_per_s} requests a second none comes.", "measure longer")

    def moments_s(self) -> list[float]:
        """When requests come, in seconds from the beginning."""
        source, now = random.Random(self.seed), 0.0
        moments: list[float] = []
        while self.requests is None or len(moments) < self.requests:
            now += 1 / self.rate_per_s if self.even else source.expovariate(self.rate_per_s)
            if self.seconds is not None and now >= self.seconds:
                break
            moments.append(now)
        return moments


def one_end(requests: int | None, seconds: float | None) -> None:
    """Raise LabError unless exactly one of the two is given."""
    if (requests is None) == (seconds is None):
        raise LabError("A load ends after a number of requests or after a time.", "give requests=, or seconds=")


@dataclass(frozen=True)
class Load:
    """Prompts for one engine, in one rhythm. `shared.load.run` runs it."""

    engine: Engine
    prompts: PromptSet
    rhythm: Closed | Poisson
    max_tokens: int = 64  # of each answer: exactly so many, where the engine can be held to a length
    warmup: bool = True  # a few short requests beforehand, which don't count
    limits: Limits | None = None

    @property
    def title(self) -> str:
        closed = isinstance(self.rhythm, Closed)
        how = users_text(self.rhythm.users) if closed else f"{self.rhythm.rate_per_s:g} requests/s"  # type: ignore[union-attr]
        return f"{self.engine.spec.title}, {how}"

    def settings(self) -> dict[str, Any]:
        """What of it a result records, and what another must agree in to stand for it."""
        kind = "closed" if isinstance(self.rhythm, Closed) else "open"
        rhythm = {"about_cache": self.prompts.about_cache, "kind": kind, **asdict(self.rhythm)}
        return {"prompts": self.prompts.name, "max_tokens": self.max_tokens, "load": rhythm}


@dataclass(frozen=True)
class Run:
    """What came of one load: every trace, and what was asked for."""

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
