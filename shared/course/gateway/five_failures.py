"""Five ways in which a gateway fails, each as an experiment on a real engine: what the client saw, what was counted.

    values = five_failures.measure(lab, "blocked", gateway, engine)

Every experiment runs on the naive gateway and on the student's, and records its raw data. `FAILURES` holds, for each,
the experiment, whether its values show the failure, and a sentence about them. No verdict depends on a speed.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from shared.course.gateway.fault_proxy import FaultProxy
from shared.course.gateway.running import Gateway
from shared.course.labs import OpenLab
from shared.engines.http import counters, get
from shared.launch.running import Engine
from shared.load.client import Exchange, exchange
from shared.load.connection import Response

Values = dict[str, Any]
Raw = dict[str, Any]

PATH = "/v1/chat/completions"
QUESTION = "Tell me how a sailing boat moves against the wind."
LONG = 64  # tokens of an answer that takes a second or so
ABANDONED = 128  # tokens of an answer whose client leaves
LEFT_AFTER = 5  # blocks of bytes, after which the client leaves; one may hold several events
LENGTHS = (1, 2, 4, 8)  # tokens of the answers that are counted
FREE_WITHIN_S = 60
BROKEN_AFTER = 8  # events, after which the connection to the engine is reset


def body(engine: Engine, tokens: int, question: str = QUESTION) -> dict[str, Any]:
    """A request whose greedy answer has exactly so many tokens."""
    return {
        "model": engine.served_name, "messages": [{"role": "user", "content": question}], "max_tokens": tokens,
        "temperature": 0, **engine.spec.exact_length,
    }  # fmt: skip


async def begun(url: str, asked: Mapping[str, object], pieces: int = 1) -> "tuple[asyncio.Task[Exchange], Response]":
    """Send a streaming request, and return when so many pieces of its answer have come, or it has ended."""
    sent: list[Response] = []
    task = asyncio.create_task(exchange(url, asked, on_sent=sent.append))
    while not task.done() and not (sent and len(sent[0].pieces) >= pieces):
        await asyncio.sleep(0.002)
    return task, sent[0] if sent else Response()


async def send(url: str, content: object, headers: Mapping[str, str] | None, patience_s: float) -> Raw:
    """POST this body and record what came: status, some headers, at most 4,000 characters, and how it ended."""
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    came: Raw = {"status": None, "retry_after": None, "text": "", "end": "whole"}
    began_s, got = time.monotonic(), b""
    try:
        async with asyncio.timeout(patience_s), httpx.AsyncClient(trust_env=False, timeout=None) as client:
            how = {"content-type": "application/json", **(headers or {})}
            async with client.stream("POST", url, content=data, headers=how) as answer:
                came |= {"status": answer.status_code, "retry_after": answer.headers.get("retry-after")}
                async for block in answer.aiter_raw():
                    got += block
    except TimeoutError:
        came["end"] = f"nothing for {patience_s:g} s"
    except httpx.HTTPError as e:
        came["end"] = type(e).__name__
    return {**came, "text": got.decode(errors="replace")[-4000:], "ms": round(1e3 * (time.monotonic() - began_s), 1)}


async def blocked(gateway: Gateway, engine: Engine, proxy: FaultProxy) -> Raw:
    """While one answer streams: a second request, and health checks one after the other."""
    url = gateway.url + PATH
    first, _ = await begun(url, body(engine, LONG))
    began_ns = time.perf_counter_ns()
    second = asyncio.create_task(exchange(url, body(engine, 8)))
    checks: list[list[Any]] = []
    while not first.done():
        asked_ns = time.perf_counter_ns()
        answer = await asyncio.to_thread(get, gateway.port, "/health")  # None after 5 s
        good = answer is not None and answer[0] == 200
        checks.append([ms(asked_ns, began_ns), ms(time.perf_counter_ns(), began_ns), good])
        await asyncio.sleep(0.02)
    traces = [(await one).trace() for one in (first, second)]
    stamps = [[ms(ns, began_ns) for ns in (t.sent_ns, *t.arrivals_ns, t.end_ns)] for t in traces]
    return {"streams": stamps, "checks": checks, "errors": [trace.error for trace in traces if trace.error]}


def read_blocked(raw: Raw) -> Values:
    end_ms = raw["streams"][0][-1]
    sent_ms, first_ms = raw["streams"][1][:2]
    return {
        "stream_ms": end_ms,
        "health_answers": sum(good and came <= end_ms for _, came, good in raw["checks"]),
        "longest_health_ms": max(came - asked for asked, came, _ in raw["checks"]),
        "second_ttft_ms": first_ms - sent_ms,
        "errors": len(raw["errors"]),
    }


async def buffered(gateway: Gateway, engine: Engine, proxy: FaultProxy) -> Raw:
    """When the chunks of one answer arrive, and whether the engine is still at work when the first one has come."""
    return await arriving(gateway.url, engine)


async def arriving(url: str, engine: Engine) -> Raw:
    task, _ = await begun(url + PATH, body(engine, LONG))
    then = await asyncio.to_thread(counters, engine)
    trace = (await task).trace()
    stamps = [ms(ns, trace.sent_ns) for ns in trace.arrivals_ns]
    return {"arrivals_ms": stamps, "running": then.get("running"), "error": trace.error}


def read_buffered(raw: Raw) -> Values:
    arrivals = raw["arrivals_ms"]
    return {
        "chunks": len(arrivals),
        "first_ms": arrivals[0] if arrivals else None,
        "last_ms": arrivals[-1] if arrivals else None,
        "engine_at_work": bool(raw["running"]),
        "errors": int(raw["error"] is not None),
    }


async def leaked(gateway: Gateway, engine: Engine, proxy: FaultProxy) -> Raw:
    """A client leaves in the middle of its answer. What does the engine go on to generate?"""
    before = await asyncio.to_thread(counters, engine)
    task, response = await begun(gateway.url + PATH, body(engine, ABANDONED), LEFT_AFTER)
    received = b"".join(response.pieces).count(b"data: ")
    task.cancel()
    left_s = time.monotonic()
    running = []
    while time.monotonic() - left_s < FREE_WITHIN_S:
        now = await asyncio.to_thread(counters, engine)
        running.append([1e3 * (time.monotonic() - left_s), now.get("running", 0.0)])
        if now.get("running") == 0:  # None if the engine, which is at work, did not answer in time
            break
        await asyncio.sleep(0.02)
    after = await asyncio.to_thread(counters, engine)
    return {"asked": ABANDONED, "received": received, "running": running, "counters": [before, after]}


def read_leaked(raw: Raw) -> Values:
    before, after = raw["counters"]
    return {
        "asked_tokens": raw["asked"],
        "events_received": raw["received"],
        "generated_tokens": after["generated_tokens"] - before["generated_tokens"],
        "slot_free_after_ms": raw["running"][-1][0],
    }


async def miscounted(gateway: Gateway, engine: Engine, proxy: FaultProxy) -> Raw:
    """The output tokens of a few short answers: by the gateway's counter, by the engine's, and by `usage`."""
    before = [await asyncio.to_thread(counters, one) for one in (gateway, engine)]
    traces = [(await exchange(gateway.url + PATH, body(engine, tokens))).trace() for tokens in LENGTHS]
    after = [await asyncio.to_thread(counters, one) for one in (gateway, engine)]
    return {"usage": [trace.output_tokens for trace in traces], "gateway": [before[0], after[0]],
            "engine": [before[1], after[1]]}  # fmt: skip


def read_miscounted(raw: Raw) -> Values:
    grown = {
        f"{one}_tokens": raw[one][1].get("generated_tokens", 0.0) - raw[one][0].get("generated_tokens", 0.0)
        for one in ("gateway", "engine")
    }
    return {**grown, "usage_tokens": sum(tokens or 0 for tokens in raw["usage"])}


async def retried(gateway: Gateway, engine: Engine, proxy: FaultProxy) -> Raw:
    """The connection to the engine is reset in the middle of an answer. What does the client get?"""
    posts = proxy.posts
    proxy.plan("reset", after_events=BROKEN_AFTER)
    done = await exchange(gateway.url + PATH, body(engine, LONG // 4))
    proxy.clear()
    return {"got": b"".join(done.response.pieces).decode(errors="replace"), "to_engine": proxy.posts - posts}


def read_retried(raw: Raw) -> Values:
    return {
        "beginnings": raw["got"].count('"role":"assistant"'),
        "done": "data: [DONE]" in raw["got"],
        "error_event": "event: error" in raw["got"],
        "requests_to_engine": raw["to_engine"],
    }


def ms(ns: int, origin_ns: int) -> float:
    """Milliseconds after the origin."""
    return (ns - origin_ns) / 1e6


@dataclass(frozen=True)
class Failure:
    """One way to fail."""

    title: str
    right: str  # what a good gateway does instead
    version: str  # of the naive gateway that shows it
    exercise: str  # that mends it
    experiment: Callable[[Gateway, Engine, FaultProxy], Awaitable[Raw]]
    read: Callable[[Raw], Values]  # computes the values again for the milestone
    mended: Callable[[Values], bool]
    seen: Callable[[Values], str]  # what happened, in a sentence's part


def says_blocked(v: Values) -> str:
    return (
        f"{v['health_answers']} health checks answered during a stream of {v['stream_ms']:,.0f} ms, the longest wait "
        f"{v['longest_health_ms']:,.0f} ms"
    )


def says_buffered(v: Values) -> str:
    state = "still at work" if v["engine_at_work"] else "done already"
    return f"when the first of {v['chunks']} chunks with text came, the engine was {state}"


def says_leaked(v: Values) -> str:
    return (
        f"the client left after {v['events_received']} events; the engine generated {v['generated_tokens']:.0f} of "
        f"{v['asked_tokens']} tokens"
    )


def says_miscounted(v: Values) -> str:
    return f"{v['gateway_tokens']:.0f} tokens counted, {v['engine_tokens']:.0f} by the engine"


def says_retried(v: Values) -> str:
    end = "[DONE]" if v["done"] else "an error event" if v["error_event"] else "no end"
    times = {1: "once", 2: "twice"}.get(v["beginnings"], f"{v['beginnings']} times")
    return f"the client's answer began {times}; then {end}"


FAILURES: Mapping[str, Failure] = {
    "blocked": Failure(
        "The event loop is blocked", "the event loop stays free", "blocks_the_loop", "ask", blocked, read_blocked,
        lambda v: v["health_answers"] >= 2 and not v["errors"], says_blocked,
    ),
    "buffered": Failure(
        "The answer is buffered", "each chunk is passed on as it comes", "buffers", "pass_on", buffered, read_buffered,
        lambda v: v["engine_at_work"] and not v["errors"], says_buffered,
    ),
    "leaked": Failure(
        "A client that leaves keeps the slot", "a client that leaves frees its slot", "keeps_the_slot",
        "unless_client_leaves", leaked, read_leaked,
        lambda v: v["generated_tokens"] < v["asked_tokens"], says_leaked,
    ),
    "miscounted": Failure(
        "Chunks are counted as tokens", "tokens are counted, not chunks", "counts_chunks", "feed", miscounted,
        read_miscounted,
        lambda v: v["gateway_tokens"] == v["engine_tokens"] == v["usage_tokens"], says_miscounted,
    ),
    "retried": Failure(
        "A broken stream is begun again", "a broken stream isn't begun again", "retries_too_late", "try_engines",
        retried, read_retried,
        lambda v: v["beginnings"] == 1 and not v["done"] and v["error_event"], says_retried,
    ),
}  # fmt: skip


def measure(lab: OpenLab, name: str, gateway: Gateway, engine: Engine, proxy: FaultProxy) -> Values:
    """The experiment on this gateway, recorded once for the same code under `failure/<name>/<gateway>`."""
    failure = FAILURES[name]

    async def one() -> tuple[Values, Raw]:
        raw = await failure.experiment(gateway, engine, proxy)
        return failure.read(raw), raw

    key = f"failure/{name}/{gateway.spec.name}"
    found: Values = lab.measure(key, one, engine=engine, gateway=dict(gateway.made_of))
    return found


def measure_direct(lab: OpenLab, engine: Engine) -> Raw:
    """When the chunks of an answer arrive without a gateway. Recorded under `failure/buffered/direct`."""

    async def one() -> tuple[Values, Raw]:
        raw = await arriving(engine.url, engine)
        return read_buffered(raw), raw

    lab.measure("failure/buffered/direct", one, engine=engine)
    raw: Raw = lab.raw("failure/buffered/direct")
    return raw
