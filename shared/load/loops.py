"""Many users at once.

    run = load.closed(engine, prompts.short(model), users=16, requests=32)
    run = load.open_loop(engine, prompts.short(model), rate_per_s=2, seconds=60)

Closed loop: each of N users sends its next request when its last answer has ended. The load therefore slows down
with the engine: it finds throughput, and hides how long a request would wait if users came whether or not the
engine kept up. Open loop: requests come at moments that were drawn beforehand, as from users who don't know of each
other. There a stalled engine shows: the latency counts from the moment at which the schedule wanted the request
(to leave out the wait before it was sent is known as coordinated omission).

While a load runs, a task looks how late this process's event loop wakes up: where the client was the bottleneck, the
run says so (metrics.Summary.client_bottleneck), and also where other programs took the engine's cores
(metrics.Summary.disturbed).
"""

import asyncio
import itertools
import os
import random
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import uvloop
from tqdm import tqdm

from shared import paths
from shared.engines.http import counters
from shared.errors import LabError
from shared.files import exclusive
from shared.launch.diagnosis import failure
from shared.launch.launcher import ONCE_A_SECOND
from shared.launch.running import Engine
from shared.load.client import Exchange, Limits, Trace, exchange
from shared.load.connection import Connections
from shared.load.prompts import PromptSet
from shared.load.run import Died, Run, most_at_once, users_text
from shared.load.self_check import others_cpu_s, spread_of_lag, watch_lag
from shared.processes import port_taken

Sent = tuple[Exchange, int | None]  # and the moment that the schedule wanted
Send = Callable[[int, int | None], Awaitable[Sent]]  # (tokens, scheduled_ns)


def closed(
    engine: Engine,
    prompts: PromptSet,
    *,
    users: int,
    requests: int | None = None,
    seconds: float | None = None,
    think_s: float = 0,
    max_tokens: int = 64,
    warmup: bool = True,
    limits: Limits | None = None,
) -> Run:
    """`users` users, each answer exactly `max_tokens` long and greedy, until `requests` are sent or `seconds` over.

    A user waits `think_s` between an answer and the next request. What is under way when the time is over is
    awaited and counts: throughput is reckoned from the first request sent to the last answer's end. Before that
    each user sends one short request that isn't counted (`warmup`). Connections are used again, and answers are
    read when all have ended: neither opening nor reading delays what is measured. Raises Died if the engine dies,
    and LabError if no request succeeds; single failures stay in the traces.
    """
    one_end(requests, seconds)
    if users < 1 or (requests is not None and requests < users):
        raise LabError(f"{requests} requests can't come from {users} users.", "ask for at least one request each")

    async def drive(send: Send, line: tqdm) -> list[Sent]:
        sent: list[Sent] = []
        numbers = itertools.count()
        over = time.monotonic() + (seconds if seconds is not None else float("inf"))

        async def user() -> None:
            while engine.alive and time.monotonic() < over and (requests is None or next(numbers) < requests):
                sent.append(await send(max_tokens, None))
                line.update()
                answered, _ = sent[-1]
                if (answered.error or answered.response.lost) and not port_taken(engine.port):
                    return  # nobody listens: the engine is gone, and its watchdog says so a moment later
                if think_s:
                    await asyncio.sleep(think_s)

        await asyncio.gather(*(user() for _ in range(users)))
        return sent

    title = f"{engine.spec.title}, {users_text(users)}"
    asked = {"kind": "closed", "think_s": think_s, "seconds": seconds}
    return _measure(engine, prompts, title, requests, users, max_tokens, users if warmup else 0, limits, drive, asked)


def open_loop(
    engine: Engine,
    prompts: PromptSet,
    *,
    rate_per_s: float,
    requests: int | None = None,
    seconds: float | None = None,
    poisson: bool = True,
    seed: int = 0,
    max_tokens: int = 64,
    warmup: bool = True,
    limits: Limits | None = None,
) -> Run:
    """Requests at `rate_per_s`, whether or not the engine keeps up: at random moments (Poisson) or evenly spaced.

    `requests` or `seconds` ends the schedule; it is drawn from `seed` beforehand. Answers under way are awaited.
    Raises LabError as `closed` does.
    """
    one_end(requests, seconds)
    if rate_per_s <= 0:
        raise LabError(f"{rate_per_s} requests a second are no load.", "choose a rate above 0")
    moments = schedule_s(rate_per_s, requests, seconds, poisson, seed)
    if not moments:
        raise LabError(f"In {seconds} s at {rate_per_s} requests a second none comes.", "measure longer")

    async def drive(send: Send, line: tqdm) -> list[Sent]:
        begin_ns = time.perf_counter_ns()

        async def one(moment_s: float) -> Sent | None:
            due_ns = begin_ns + int(moment_s * 1e9)
            await asyncio.sleep((due_ns - time.perf_counter_ns()) / 1e9)
            if not engine.alive:
                return None
            sent = await send(max_tokens, due_ns)
            line.update()
            return sent

        return [sent for sent in await asyncio.gather(*map(one, moments)) if sent]

    title = f"{engine.spec.title}, {rate_per_s:g} requests/s"
    asked = {"kind": "open", "rate_per_s": rate_per_s, "poisson": poisson, "seed": seed, "seconds": seconds}
    warm = 4 if warmup else 0
    return _measure(engine, prompts, title, len(moments), None, max_tokens, warm, limits, drive, asked)


def one_end(requests: int | None, seconds: float | None) -> None:
    if (requests is None) == (seconds is None):
        raise LabError("A load ends after a number of requests or after a time.", "give requests=, or seconds=")


def schedule_s(rate_per_s: float, requests: int | None, seconds: float | None, poisson: bool, seed: int) -> list[float]:
    """The moments at which requests come, in seconds from the beginning."""
    source, now = random.Random(seed), 0.0
    moments: list[float] = []
    while requests is None or len(moments) < requests:
        now += source.expovariate(rate_per_s) if poisson else 1 / rate_per_s
        if seconds is not None and now >= seconds:
            break
        moments.append(now)
    return moments


def _measure(
    engine: Engine,
    prompts: PromptSet,
    title: str,
    requests: int | None,
    users: int | None,
    max_tokens: int,
    warmup: int,
    limits: Limits | None,
    drive: Callable[[Send, tqdm], Coroutine[Any, Any, list[Sent]]],
    asked: Mapping[str, Any],
) -> Run:
    """What every load has in common: the lock, a loop of its own, counters before and after, the self-check."""
    supply = iter(prompts)
    url = engine.url + "/v1/chat/completions"
    connections = Connections()

    async def send(tokens: int, scheduled_ns: int | None) -> Sent:
        body = {
            "model": engine.served_name, "messages": next(supply), "max_tokens": tokens, "temperature": 0,
            **engine.spec.exact_length,
        }  # fmt: skip
        return await exchange(url, body, limits, connections), scheduled_ns

    async def everything() -> Run:
        async with connections:
            await asyncio.gather(*(send(4, None) for _ in range(warmup)))
            before = counters(engine)
            begin = _clocks_s(engine)
            lag: list[float] = []
            watch = asyncio.create_task(watch_lag(lag))
            with tqdm(
                total=requests, desc=title, unit="request", leave=False, file=sys.stdout, **ONCE_A_SECOND
            ) as line:
                sent = await drive(send, line)
            watch.cancel()
            cpu_s, others_s, took_s = (now - then for now, then in zip(_clocks_s(engine), begin, strict=True))
            after = counters(engine)
        others_share = max(others_s, 0.0) / took_s / (os.cpu_count() or 1)
        exact = max_tokens if engine.spec.exact_length else None
        traces = tuple(of_length(replace(e.trace(), scheduled_ns=due), exact) for e, due in sent)
        return Run(
            traces=traces,
            users=most_at_once(traces) if users is None else users,
            max_tokens=max_tokens,
            prompts=prompts.name,
            engine=engine.provenance(),
            client_cpu_share=round(cpu_s / took_s, 4),
            counted={name: after[name] - before[name] for name in before.keys() & after.keys()},
            client_lag_ms=spread_of_lag(lag),
            # A container's processes are not below its watchdog, so they would count as others.
            others_cpu_share=None if engine.container else round(others_share, 4),
            load={"about_cache": prompts.about_cache, **asked},
        )

    with exclusive(paths.measuring(), "Another measurement is running on this machine; waiting for it ..."):
        run: Run = _in_own_loop(everything())
    if died(engine, list(run.traces)):
        raise Died(failure(engine, f"{engine.spec.title} died under the load."), run)
    if all(t.error for t in run.traces):
        raise LabError(f"No request of {title} succeeded; the first failed with: {run.traces[0].error}.",
                       "read the engine's log: print(engine.tail())")  # fmt: skip
    return run


def of_length(trace: Trace, exact: int | None) -> Trace:
    """The trace, as failed if it was broken off, or has not exactly the tokens that were asked for.

    An engine that answers 3 of 64 tokens, or none, is not fast: it did less.
    """
    if trace.error is not None:
        return trace
    if trace.finish_reason == "abort":
        return replace(trace, error="the engine broke it off (finish_reason abort)")
    if exact is not None and trace.output_tokens is not None and trace.output_tokens != exact:
        why = f" (finish_reason {trace.finish_reason})" if trace.finish_reason else ""
        return replace(trace, error=f"answered {trace.output_tokens} of {exact} tokens{why}")
    return trace


def died(engine: Engine, traces: list[Trace]) -> bool:
    """Whether the engine is gone. Its watchdog notices a moment after our connections broke."""
    began = time.monotonic()
    while engine.alive and any(t.error for t in traces):
        waited = time.monotonic() - began
        if waited > 5 or (waited > 1 and port_taken(engine.port)):  # it still listens: it refused, and lives
            break
        time.sleep(0.05)
    return not engine.alive


def _clocks_s(engine: Engine) -> tuple[float, float, float]:
    """CPU time of this process and of other programs, and time itself; each counts from a moment of its own."""
    return time.process_time(), others_cpu_s(engine.process.pid), time.perf_counter()


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
