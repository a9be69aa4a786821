"""A load as an object: what is sent to which engine, and the traces that result.

    Load(engine, prompts.short(model), Closed(users=16, requests=32), max_tokens=32)
    Load(engine, prompts.short(model), Poisson(rate_per_s=2, seconds=60))

Closed loop: each of N users sends its next request when its last answer has ended. The load slows down with the engine.
It measures throughput, but hides how long requests would wait if they arrived whether or not the engine kept up.

Open loop: requests arrive at moments that were drawn beforehand, as from independent users. A stalled engine shows,
because latency counts from the scheduled moment. Leaving out the wait before sending is called coordinated omission.
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
    """Users who wait for their answers, until `requests` requests are sent or `seconds` have passed."""

    users: int
    requests: int | None = None
    seconds: float | None = None
    think_s: float = 0  # between an answer and the user's next request

    def __post_init__(self) -> None:
        one_end(self.requests, self.seconds)
        if self.users < 1:
            raise LabError(f"users is {self.users}, but must be at least 1.", "choose users=1 or more")
        if self.requests is not None and self.requests < self.users:
            raise LabError(
                f"{self.requests} requests are too few for {self.users} users.",
                "give at least one request for each user",
            )


@dataclass(frozen=True)
class Poisson:
    """Requests at random moments, whether or not the engine keeps up, until `requests` are sent or `seconds` passed.

    The moments are drawn from `seed` beforehand. With `even`, a request is sent every 1 / rate seconds instead.
    """

    rate_per_s: float
    requests: int | None = None
    seconds: float | None = None
    seed: int = 0
    even: bool = False

    def __post_init__(self) -> None:
        one_end(self.requests, self.seconds)
        if self.rate_per_s <= 0:
            raise LabError(f"rate_per_s is {self.rate_per_s}, but must be above 0.", "choose a rate above 0")
        if not self.moments_s():
            raise LabError(
                f"No request falls into {self.seconds} s at {self.rate_per_s} requests a second.",
                "choose more seconds, or a higher rate",
            )

    def moments_s(self) -> list[float]:
        """When requests are sent, in seconds from the beginning."""
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
        given = "neither was given" if requests is None else f"requests={requests} and seconds={seconds} were given"
        raise LabError(
            f"A load ends after a number of requests or of seconds, but {given}.", "give either requests= or seconds="
        )


@dataclass(frozen=True)
class Load:
    """Prompts for one engine, in one rhythm. Run it with `shared.load.run`."""

    engine: Engine
    prompts: PromptSet
    rhythm: Closed | Poisson
    max_tokens: int = 64  # of each answer; an exact length where the engine can be held to one
    warmup: bool = True  # a few short requests beforehand, which don't count
    settle: bool = False  # one more just before the load, on which falls what the engine has put off
    limits: Limits | None = None
    temperature: float = 0  # 0: greedy

    @property
    def title(self) -> str:
        closed = isinstance(self.rhythm, Closed)
        how = users_text(self.rhythm.users) if closed else f"{self.rhythm.rate_per_s:g} requests/s"  # type: ignore[union-attr]
        return f"{self.engine.spec.title}, {how}"

    def settings(self) -> dict[str, Any]:
        """The settings that a result records. An earlier result is reused only if they are equal."""
        kind = "closed" if isinstance(self.rhythm, Closed) else "open"
        rhythm = {"about_cache": self.prompts.about_cache, "kind": kind, **asdict(self.rhythm)}
        if self.temperature:
            rhythm["temperature"] = self.temperature
        return {"prompts": self.prompts.name, "max_tokens": self.max_tokens, "load": rhythm}


@dataclass(frozen=True)
class Run:
    """The outcome of one load: every trace, and the settings."""

    traces: tuple[Trace, ...]
    users: int  # of a closed loop; for an open loop, the most requests that were under way at once
    max_tokens: int
    prompts: str
    engine: dict[str, Any]  # Engine.provenance() at the time
    client_cpu_share: float  # of one core, spent by this process while the load ran
    counted: dict[str, float] = field(default_factory=dict)  # by how much the engine's own counters grew
    load: Mapping[str, Any] = field(default_factory=lambda: {"kind": "closed"})  # the rhythm, as in Load.settings
    client_lag_ms: Mapping[str, float] | None = None  # p50, p99, max: how late the event loop woke up
    others_cpu_share: float | None = None  # of all cores, taken by other programs; None for an engine in a container


class Died(LabError):
    """The engine ended during the load. `run` holds all traces; those of unfinished requests have an error."""

    def __init__(self, error: LabError, run: Run) -> None:
        super().__init__(str(error))
        self.fix, self.run = error.fix, run


def users_text(count: int) -> str:
    """ "1 user", "4 users"."""
    return f"{count} user{'s' if count != 1 else ''}"


def most_at_once(traces: Sequence[Trace]) -> int:
    """The largest number of requests that were under way at the same time."""
    steps = sorted([(t.sent_ns, 1) for t in traces] + [(t.end_ns, -1) for t in traces])
    return max(itertools.accumulate(step for _, step in steps))
