"""Ten times the load that the engine can carry: what a paying key still gets within the SLO.

    offered = overload.offer(lab, gateway, engine, requests=10)       # rates, from a measured capacity
    alone = overload.measure(lab, "alone", gateway, engine, offered)
    engine = overload.unburdened(engine)
    flooded = overload.measure(lab, "yours", gateway, engine, offered)

Two keys send requests in an open loop, at moments that are the same in every run: `paying` at 30 % of the
capacity, `others` so many that all together are ten times the capacity. A client gives up if it has no answer after a
while.
"""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from shared.course.gateway.five_failures import PATH, Raw, Values, body
from shared.course.gateway.running import Gateway
from shared.course.labs import OpenLab
from shared.engines.http import counters
from shared.errors import LabError
from shared.launch.launcher import launch
from shared.launch.running import Engine
from shared.load.client import Limits, stream
from shared.load.loads import Poisson

PAYING, OTHERS = "paying", "others"
TIMES, PAYING_SHARE = 10, 0.3  # of the capacity
TOKENS = 8  # of each answer
GIVE_UP_S = 6
AT_LEAST_PERCENT = 95
TTFT_TIMES, TPOT_TIMES = 5, 4  # the SLO, as a multiple of what the paying key gets alone (the median)
PREFIX = "overload/"


@dataclass(frozen=True)
class Offered:
    """What is sent."""

    paying_per_s: float
    others_per_s: float
    seconds: float


def offer(lab: OpenLab, gateway: Gateway, engine: Engine, requests: int) -> Offered:
    """Measure how many requests a second two users get, and derive the rates from it.

    requests: how many the paying key sends.
    """

    async def one() -> tuple[Values, Raw]:
        took_s = await asyncio.gather(*(closed(gateway, engine, 5) for _ in range(2)))
        return {"requests_per_s": sum(len(one) / sum(one) for one in took_s)}, {"took_s": took_s}

    capacity = lab.measure(f"{PREFIX}capacity", one, engine=engine)["requests_per_s"]
    paying = round(PAYING_SHARE * capacity, 2)
    return Offered(paying, round(TIMES * capacity - paying, 2), round((requests + 0.5) / paying, 2))


async def closed(gateway: Gateway, engine: Engine, requests: int) -> list[float]:
    """The seconds that each request of one user takes."""
    took = []
    for _ in range(requests):
        trace = await stream(gateway.url + PATH, body(engine, TOKENS), api_key=f"sk-{PAYING}")
        if trace.error:  # a refusal takes a millisecond: it would look like a large capacity
            raise LabError(
                f"A request of the capacity measurement failed: {trace.error}.",
                "correct the gateway until it answers the key `paying`, start it, and run the cell again",
            )
        took.append(trace.e2e_ms / 1e3)
    return took


def measure(
    lab: OpenLab, name: str, gateway: Gateway, engine: Engine, offered: Offered, *, flood: bool = True
) -> Values:
    """Send what is offered (without `flood` only the paying key's requests). Recorded under `overload/<name>`.

    Returns for each key its requests, and how many were answered and refused.
    """

    async def one() -> tuple[Values, Raw]:
        rates = {PAYING: offered.paying_per_s, **({OTHERS: offered.others_per_s} if flood else {})}
        begin_ns = time.perf_counter_ns() + 50_000_000
        tasks = {
            key: [
                asyncio.create_task(ask(gateway, engine, key, begin_ns + int(1e9 * moment)))
                for moment in Poisson(rate, seconds=offered.seconds, even=key == PAYING).moments_s()
            ]
            for key, rate in rates.items()
        }
        raw = {key: list(await asyncio.gather(*sent)) for key, sent in tasks.items()}
        return counted(raw), raw

    found: Values = lab.measure(
        f"{PREFIX}{name}", one, engine=engine, gateway=dict(gateway.made_of), offered=asdict(offered), flood=flood
    )
    return found


def unburdened(engine: Engine) -> Engine:
    """The engine; started again, on its port, if it still works on requests whose clients have left, or has ended.

    llama.cpp notices that a client has left before the first token only if it has had no result for a second, so a
    flood leaves it a backlog of answers that no client reads. Finishing them takes minutes, a start takes seconds.
    """
    found = counters(engine)
    left = found.get("running", 0) + found.get("waiting", 0)
    if found and not left:
        return engine
    why = f"still has {left:.0f} requests whose clients have left" if found else "does not report its counters"
    print(f"The engine {why}, so it is started again.")
    engine.end()
    same: Any = {"precision": engine.precision, "cores": engine.cores, "port": engine.port}
    return launch(engine.spec.name, engine.model, engine.flags, quiet=True, **same)


async def ask(gateway: Gateway, engine: Engine, key: str, due_ns: int) -> dict[str, Any]:
    """One request at its moment: what its client saw, counted from that moment."""
    await asyncio.sleep((due_ns - time.perf_counter_ns()) / 1e9)
    patience = Limits(first_byte_s=GIVE_UP_S, idle_s=GIVE_UP_S, total_s=2 * GIVE_UP_S)
    trace = await stream(gateway.url + PATH, body(engine, TOKENS), patience, api_key=f"sk-{key}")
    late_ms = (trace.sent_ns - due_ns) / 1e6
    return {
        "ttft_ms": None if trace.ttft_ms is None else trace.ttft_ms + late_ms,
        "tpot_ms": trace.tpot_ms,
        "e2e_ms": trace.e2e_ms + late_ms,
        "tokens": trace.output_tokens,
        "error": trace.error and trace.error[:40],
    }


def counted(raw: Raw) -> Values:
    return {
        key: {
            "requests": len(rows),
            "answered": sum(row["error"] is None for row in rows),
            "refused": sum(is_refusal(row) for row in rows),
        }
        for key, rows in raw.items()
    }


def is_refusal(row: dict[str, Any]) -> bool:
    """Whether the gateway refused it: at once, or (503) because no seat became free within `queue_s`."""
    return str(row["error"]).startswith(("HTTP 429", "HTTP 503"))


@dataclass(frozen=True)
class Promise:
    """The SLO: both limits in ms."""

    ttft_ms: float
    tpot_ms: float


def promise(alone: Raw) -> Promise:
    """The SLO that follows from what the paying key gets alone."""
    rows = [row for row in alone[PAYING] if row["error"] is None]
    ttft, tpot = (statistics.median(row[name] for row in rows) for name in ("ttft_ms", "tpot_ms"))
    return Promise(round(TTFT_TIMES * ttft, 1), round(TPOT_TIMES * tpot, 1))


def good_tokens(rows: Sequence[dict[str, Any]], slo: Promise) -> int:
    """Tokens of the answers that kept the SLO."""
    return sum(
        row["tokens"]
        for row in rows
        if row["error"] is None and row["ttft_ms"] <= slo.ttft_ms and row["tpot_ms"] <= slo.tpot_ms
    )


def share_percent(alone: Raw, flooded: Raw) -> float:
    """The paying key's tokens within the SLO under the flood, in percent of those that it gets alone."""
    slo = promise(alone)
    return 100 * good_tokens(flooded[PAYING], slo) / max(1, good_tokens(alone[PAYING], slo))
