"""Many users at once.

    run = load.closed(engine, prompts.short(model), users=16, requests=32)

Closed loop: each of N users sends its next request when its last answer has ended. The load therefore
slows down with the engine: it finds throughput, and hides how long a request would wait if users came
whether or not the engine kept up (that needs an open loop).
"""

import asyncio
import resource
import sys
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import uvloop
from tqdm import tqdm

from shared import paths
from shared.api import counters
from shared.client import Exchange, Limits, Trace, exchange
from shared.engine import Engine
from shared.errors import LabError
from shared.failures import failure
from shared.launch import ONCE_A_SECOND
from shared.process import exclusive, taken
from shared.prompts import PromptSet
from shared.wire import Connections


@dataclass(frozen=True)
class Run:
    """One load on one engine: every trace, and what was asked for."""

    traces: tuple[Trace, ...]
    users: int
    max_tokens: int
    prompts: str
    engine: dict[str, Any]  # Engine.provenance() at the time
    client_cpu_share: float  # of one core, spent by this process while the load ran
    counted: dict[str, float] = field(default_factory=dict)  # by how much the engine's own counters grew


def closed(
    engine: Engine,
    prompts: PromptSet,
    *,
    users: int,
    requests: int,
    max_tokens: int = 64,
    warmup: bool = True,
    limits: Limits | None = None,
) -> Run:
    """`requests` requests of `users` users, each answer exactly `max_tokens` long and greedy.

    Before them each user sends one short request that isn't counted (`warmup`). Connections are used again, and
    answers are read when all have ended: neither opening nor reading delays what is measured. Raises LabError
    if the engine dies, or if no request succeeds; single failures stay in the traces.
    """
    if users < 1 or requests < users:
        raise LabError(f"{requests} requests can't come from {users} users.", "ask for at least one request each")
    supply = iter(prompts)
    url = engine.url + "/v1/chat/completions"
    title = f"{engine.spec.title}, {users} user{'s' if users > 1 else ''}"
    connections = Connections()

    async def one(tokens: int) -> Exchange:
        body = {
            "model": engine.served_name, "messages": next(supply), "max_tokens": tokens, "temperature": 0,
            **engine.spec.exact_length,
        }  # fmt: skip
        return await exchange(url, body, limits, connections)

    async def everything() -> tuple[list[Trace], float, dict[str, float]]:
        async with connections:
            exchanges, share, counted = await measured()
        return [e.trace() for e in exchanges], share, counted

    async def measured() -> tuple[list[Exchange], float, dict[str, float]]:
        if warmup:
            await asyncio.gather(*(one(4) for _ in range(users)))
        exchanges: list[Exchange] = []
        started = 0
        before = counters(engine)
        cpu, wall = _cpu_s(), time.perf_counter()
        with tqdm(total=requests, desc=title, unit="request", leave=False, file=sys.stdout, **ONCE_A_SECOND) as line:

            async def user() -> None:
                nonlocal started
                while started < requests and engine.alive:
                    started += 1
                    exchanges.append(await one(max_tokens))
                    line.update()

            await asyncio.gather(*(user() for _ in range(users)))
        share = (_cpu_s() - cpu) / (time.perf_counter() - wall)
        after = counters(engine)
        return exchanges, share, {name: after[name] - before[name] for name in before.keys() & after.keys()}

    with exclusive(paths.measuring(), "Another measurement is running on this machine; waiting for it ..."):
        traces, share, counted = _in_own_loop(everything())
    if died(engine, traces):
        raise failure(engine, f"{engine.spec.title} died under the load.")
    if all(t.error for t in traces):
        raise LabError(f"No request of {title} succeeded; the first failed with: {traces[0].error}.",
                       "read the engine's log: print(engine.tail())")  # fmt: skip
    return Run(tuple(traces), users, max_tokens, prompts.name, engine.provenance(), round(share, 4), counted)


def died(engine: Engine, traces: list[Trace]) -> bool:
    """Whether the engine is gone. Its watchdog notices a moment after our connections broke."""
    began = time.monotonic()
    while engine.alive and traces[-1].error:
        waited = time.monotonic() - began
        if waited > 5 or (waited > 1 and taken(engine.port)):  # it still listens: it refused, and lives
            break
        time.sleep(0.05)
    return not engine.alive


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _in_own_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop of its own: a notebook's thread has one already, and a slower one.

    Ctrl-C (or the notebook's stop button) cancels it, so that no request is left behind.
    """
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_rest(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _cancel_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
