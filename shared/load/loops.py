"""Send a load: many users at once, or requests at the moments of a schedule.

    run = load.run(Load(engine, prompts.short(model), Closed(users=16, requests=32)))

While a load runs, a task measures how late this process's event loop wakes up. The summary reports whether the client
was the bottleneck (metrics.Summary.client_bottleneck), and whether other programs took the engine's cores
(metrics.Summary.disturbed).
"""

import asyncio
import concurrent.futures
import ctypes
import errno
import itertools
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import uvloop
from tqdm import tqdm

from shared.engines.http import counters
from shared.errors import LabError
from shared.files import measuring
from shared.launch.diagnosis import exit_text, failure
from shared.launch.launcher import ONCE_A_SECOND
from shared.launch.running import Engine
from shared.load.client import Exchange, Trace, exchange
from shared.load.connection import Connections
from shared.load.loads import Closed, Died, Load, Poisson, Run, most_at_once
from shared.load.self_check import others_cpu_s, spread_of_lag, watch_lag
from shared.processes import open_files_for, port_taken

Sent = tuple[Exchange, int | None]  # with the scheduled moment in an open loop
Send = Callable[[int, int | None], Awaitable[Sent]]  # (tokens, scheduled_ns)
Drive = Callable[[Load, Send, tqdm], Coroutine[Any, Any, list[Sent]]]
# llama.cpp stores the prompts of idle slots when the next request arrives. After a load with many slots, that request
# would wait for it: 105 ms to its first token in place of 60, measured after 32 users on two cores of an AMD EPYC.
SETTLING = [{"role": "user", "content": "Hello"}]


def run(load: Load) -> Run:
    """Run the load to its end, and return every trace.

    Requests that are under way when the time is over are awaited and count, because throughput is computed from the
    first request sent to the end of the last answer. Connections are reused, and answers are read after all have
    ended, so neither opening nor reading delays the measurement. Raises Died if the engine dies, and LabError if no
    request succeeds, or if this process may not open as many files as the users need connections. Single failures stay
    in the traces.
    """
    engine, rhythm = load.engine, load.rhythm
    closed = rhythm if isinstance(rhythm, Closed) else None
    drive: Drive = _users if closed else _schedule
    warmup = (closed.users if closed else 4) if load.warmup else 0
    open_files_for(closed.users if closed else 0, f"A load of {load.title}")  # an open loop's isn't known
    total = rhythm.requests if isinstance(rhythm, Closed) else len(rhythm.moments_s())
    exact = load.max_tokens if engine.spec.exact_length else None
    supply = iter(load.prompts)
    url = engine.url + "/v1/chat/completions"
    connections = Connections()

    async def send(tokens: int, scheduled_ns: int | None, asked: list[dict[str, str]] | None = None) -> Sent:
        body = {
            "model": engine.served_name, "messages": asked or next(supply), "max_tokens": tokens,
            "temperature": load.temperature, **engine.spec.exact_length,
        }  # fmt: skip
        return await exchange(url, body, load.limits, connections), scheduled_ns

    async def everything() -> Run:
        async with connections:
            await asyncio.gather(*(send(4, None) for _ in range(warmup)))
            if load.settle:
                await send(1, None, SETTLING)
            before = counters(engine)
            begin = _clocks_s(engine)
            lag: list[float] = []
            watch = asyncio.create_task(watch_lag(lag))
            with tqdm(
                total=total, desc=load.title, unit="request", leave=False, file=sys.stdout, **ONCE_A_SECOND
            ) as line:
                sent = await drive(load, send, line)
            watch.cancel()
            cpu_s, others_s, took_s = (now - then for now, then in zip(_clocks_s(engine), begin, strict=True))
            after = counters(engine)
        others_share = max(others_s, 0.0) / took_s / (os.cpu_count() or 1)
        traces = tuple(of_length(replace(e.trace(), scheduled_ns=due), exact) for e, due in sent)
        return Run(
            traces=traces,
            users=closed.users if closed else most_at_once(traces),
            engine=engine.provenance(),
            client_cpu_share=round(cpu_s / took_s, 4),
            # A counter that an engine shows only after its first event began at 0.
            counted={name: after[name] - before.get(name, 0.0) for name in after} if before else {},
            client_lag_ms=spread_of_lag(lag),
            # A container's processes are not below its watchdog, so they would count as others.
            others_cpu_share=None if engine.container else round(others_share, 4),
            **load.settings(),
        )

    with measuring():
        try:
            found: Run = in_own_loop(everything())
        except OSError as e:
            if e.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise LabError(f"{load.title}: {e.strerror}.", "choose a lower rate: fewer requests at once") from None
    if died(engine, list(found.traces)):
        raise Died(failure(engine, f"{engine.spec.title} ended during the load. {exit_text(engine)}"), found)
    if all(t.error for t in found.traces):
        raise LabError(
            f"No request of {load.title} succeeded; the first failed with: {found.traces[0].error}.",
            "read the engine's log: print(engine.tail())",
        )
    return found


async def _users(load: Load, send: Send, line: tqdm) -> list[Sent]:
    """Closed loop: each user sends its next request when its last answer has ended."""
    rhythm, engine = load.rhythm, load.engine
    assert isinstance(rhythm, Closed)
    sent: list[Sent] = []
    numbers = itertools.count()
    over = time.monotonic() + (rhythm.seconds if rhythm.seconds is not None else float("inf"))

    async def user() -> None:
        while engine.alive and time.monotonic() < over and (rhythm.requests is None or next(numbers) < rhythm.requests):
            sent.append(await send(load.max_tokens, None))
            line.update()
            answered, _ = sent[-1]
            if (answered.error or answered.response.lost) and not port_taken(engine.port):
                return  # nothing listens: the engine has ended, and its watchdog notices a moment later
            if rhythm.think_s:
                await asyncio.sleep(rhythm.think_s)

    await asyncio.gather(*(user() for _ in range(rhythm.users)))
    return sent


async def _schedule(load: Load, send: Send, line: tqdm) -> list[Sent]:
    """Open loop: each request is sent at its scheduled moment."""
    assert isinstance(load.rhythm, Poisson)
    begin_ns = time.perf_counter_ns()

    async def one(moment_s: float) -> Sent | None:
        due_ns = begin_ns + int(moment_s * 1e9)
        while (left_ns := due_ns - time.perf_counter_ns()) > 0:  # uvloop rounds to milliseconds and may wake up early
            await asyncio.sleep(left_ns / 1e9)
        if not load.engine.alive:
            return None
        sent = await send(load.max_tokens, due_ns)
        line.update()
        return sent

    return [sent for sent in await asyncio.gather(*map(one, load.rhythm.moments_s())) if sent]


def of_length(trace: Trace, exact: int | None) -> Trace:
    """The trace, marked as failed if the engine aborted it or if it doesn't have exactly `exact` tokens.

    An engine that answers 3 of 64 tokens, or none, did less work; it isn't faster.
    """
    if trace.error is not None:
        return trace
    if trace.finish_reason == "abort":
        return replace(trace, error="the engine aborted it (finish_reason abort)")
    if exact is not None and trace.output_tokens is not None and trace.output_tokens != exact:
        why = f" (finish_reason {trace.finish_reason})" if trace.finish_reason else ""
        return replace(trace, error=f"answered {trace.output_tokens} of {exact} tokens{why}")
    return trace


def died(engine: Engine, traces: list[Trace]) -> bool:
    """Whether the engine has ended. Waits up to 5 s, since its watchdog notices a moment after connections broke."""
    began = time.monotonic()
    while engine.alive and any(t.error for t in traces):
        waited = time.monotonic() - began
        if waited > 5 or (waited > 1 and port_taken(engine.port)):  # it still listens, so it lives and only refused
            break
        time.sleep(0.05)
    return not engine.alive


def _clocks_s(engine: Engine) -> tuple[float, float, float]:
    """CPU time of this process, CPU time of other programs, and wall time; only differences have a meaning."""
    return time.process_time(), others_cpu_s(engine.process.pid), time.perf_counter()


def in_own_loop(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop of its own, because a notebook's thread already runs one, which is slower.

    Ctrl-C (or the notebook's stop button) cancels the coroutine and its requests. One that never awaits can't be
    cancelled, and is interrupted after 5 s, or at the next signal.
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
        rest = asyncio.run_coroutine_threadsafe(_cancel_rest(), loop)
        try:
            rest.result(5)
        except TimeoutError:
            _interrupt(thread, rest)
        except BaseException:  # Ctrl-C once more, or the time limit of a check (shared.course.exercise)
            _interrupt(thread, rest)
            raise
        finally:
            if rest.done():  # else the thread can't be ended, and it ends with this program
                loop.call_soon_threadsafe(loop.stop)
                thread.join()
                loop.close()


def _interrupt(thread: threading.Thread, rest: "concurrent.futures.Future[None]") -> None:
    """Raise CancelledError where the thread computes, again and again until `rest` has ended, but for at most 2 s."""
    error = ctypes.py_object(asyncio.CancelledError)
    for _ in range(20):
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), error)
        if concurrent.futures.wait([rest], 0.1).done:
            return


async def _cancel_rest() -> None:
    rest = asyncio.all_tasks() - {asyncio.current_task()}
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
