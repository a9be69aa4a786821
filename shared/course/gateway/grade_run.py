"""The grade run: load and faults against a gateway in front of a real engine, each with what was sent and what came.

    found = grade_run.run(lab, gateway, engine, proxy)           # the student's gateway, started with CONFIG
    show(tables.grade(lab))

A check is a probe, which records raw evidence, and a judge, which computes the verdict from that evidence alone. So the
milestone can judge a result again. The same probes run against the naive gateway, which shows that they can fail.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from shared.course.gateway import five_failures
from shared.course.gateway.fault_proxy import FaultProxy, message
from shared.course.gateway.five_failures import FAILURES, PATH, Raw, body, send
from shared.course.gateway.running import Gateway
from shared.course.labs import OpenLab
from shared.engines.http import counters
from shared.launch.running import Engine
from shared.processes import descendants

LIMIT_S = 2  # how long the gateway waits for a first byte, for the next one, and for headers
PATIENCE_S = 2 * LIMIT_S  # a client that has no answer by then gives up
CONFIG = f"""
first_byte_s = {LIMIT_S}
idle_s = {LIMIT_S}
header_s = {LIMIT_S}
connect_s = 1
most_queued = 4
health_every_s = 0.3
breaker_failures = 1000  # here each fault stands for itself
"""
HEAD = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n".encode()
LARGE = b"content-length: 50000001\r\n\r\n{"
MANY, AT_ONCE = 12, 8  # requests of the burst, tokens of each
ONLY, EITHER = "only-this-engine", "either-engine"  # models that the gateway is told of; llama.cpp answers to any name


@dataclass(frozen=True)
class Target:
    """What a probe works on."""

    gateway: Gateway
    engine: Engine
    proxy: FaultProxy

    def asked(self, tokens: int = 8, **more: object) -> dict[str, Any]:
        return {**body(self.engine, tokens), "model": ONLY, **more}

    def post(
        self, content: object, headers: Mapping[str, str] | None = None, patience_s: float = PATIENCE_S
    ) -> Coroutine[Any, Any, Raw]:
        return send(self.gateway.url + PATH, content, headers, patience_s)


Probe = Callable[[Target], Awaitable[Raw]]


def engines(engine: Engine, proxy: FaultProxy) -> Mapping[str, Mapping[str, object]]:
    """The gateway's engines: one behind the proxy, and the same one without it."""
    name = engine.served_name
    return {
        "faulty": {"url": proxy.url, "models": [name, ONLY, EITHER]},
        "second": {"url": engine.url, "models": [EITHER]},
    }


def with_fault(name: str, after_events: int = 5, model: str = ONLY, **fields: object) -> Probe:
    """A request that meets this fault of the engine."""

    async def probe(on: Target) -> Raw:
        posts = on.proxy.posts
        on.proxy.plan(name, after_events)
        came = await on.post(on.asked(16, **{"stream": True, "model": model, **fields}))
        on.proxy.clear()
        return {**came, "to_engine": on.proxy.posts - posts}

    return probe


async def refused(on: Target) -> Raw:
    on.proxy.refuse()
    came = await on.post(on.asked(stream=True))
    on.proxy.accept()
    again: Raw = {"status": None}
    for _ in range(50):  # until a health check has seen that the engine is back
        if again["status"] != 200:
            await asyncio.sleep(0.1)
            again = await on.post(on.asked(stream=True))
    return {**came, "later": again["status"]}


async def leaves_before_the_answer(on: Target) -> Raw:
    """A client that wants no stream leaves while the engine generates. Does the gateway leave the engine, too?"""
    before, abandoned = await asyncio.to_thread(counters, on.engine), on.proxy.abandoned
    asked = asyncio.create_task(on.post(on.asked(five_failures.LONG)))
    while not asked.done() and not (await asyncio.to_thread(counters, on.engine)).get("running"):
        await asyncio.sleep(0.01)
    asked.cancel()  # then wait until idle; an engine at work may not answer in time, and its state is None
    while (after := await asyncio.to_thread(counters, on.engine)).get("running") != 0 and on.engine.alive:
        await asyncio.sleep(0.02)
    generated = after["generated_tokens"] - before["generated_tokens"]
    return {"left_engine": on.proxy.abandoned - abandoned, "generated_tokens": generated}


def plain(content: object, **fields: str) -> Probe:
    """A request that has nothing to do with the engine."""

    async def probe(on: Target) -> Raw:
        return await on.post(content(on) if callable(content) else content, fields)

    return probe


def piecewise(head: bytes, piece: bytes, pieces: int) -> Probe:
    """A request whose bytes come in pieces. After each, the client looks whether it has an answer already."""

    async def probe(on: Target) -> Raw:
        reader, writer = await asyncio.open_connection("127.0.0.1", on.gateway.port)
        answer, began_s = asyncio.create_task(message(reader)), time.monotonic()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                for part in (head, *[piece] * pieces):
                    writer.write(part)
                    await asyncio.wait((answer, asyncio.create_task(writer.drain())), timeout=0.05)
                    if answer.done():
                        break
                await asyncio.wait((answer,))
        took_ms = round(1e3 * (time.monotonic() - began_s), 1)
        came, text = (b"", b"") if not answer.done() or answer.exception() else answer.result()
        answer.cancel()
        writer.close()
        code = int(came.split(b" ")[1]) if came else None
        return {"status": code, "text": text.decode(), "end": "whole" if came else "no answer", "ms": took_ms}

    return probe


async def slow_headers(on: Target) -> Raw:
    """Half of the headers, and then nothing."""
    came = await piecewise(HEAD, b"", 0)(on)
    return {"closed": came["ms"] < 1e3 * PATIENCE_S}


async def burst(on: Target) -> Raw:
    one = on.asked(AT_ONCE, stream=True)
    came = await asyncio.gather(*(on.post(one, patience_s=60) for _ in range(MANY)))
    return {
        "statuses": [c["status"] for c in came],
        "whole": sum("[DONE]" in c["text"] for c in came),
        "without_retry_after": sum(c["status"] == 429 and not c["retry_after"] for c in came),
    }


async def terminated(on: Target) -> Raw:
    """SIGTERM while two answers stream."""
    sent = [await five_failures.begun(on.gateway.url + PATH, on.asked(five_failures.LONG)) for _ in range(2)]
    os.kill(descendants(on.gateway.process.pid)[-1], signal.SIGTERM)
    traces = [(await task).trace() for task, _ in sent]
    for _ in range(100):
        with socket.socket() as probe:
            refusing = probe.connect_ex(("127.0.0.1", on.gateway.port)) != 0
        if refusing:
            break
        await asyncio.sleep(0.05)
    return {"tokens": [t.output_tokens for t in traces], "errors": [t.error for t in traces], "refusing": refusing}


def error_of(text: str) -> dict[str, Any]:
    """The error of an answer, or of the last event of a stream; empty if it is none in OpenAI's form."""
    try:
        found = json.loads(text.rpartition("event: error\ndata: ")[2])["error"]
        return found if isinstance(found.get("message"), str) and "type" in found else {}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def status(*allowed: int) -> Callable[[Raw], bool]:
    """One of these statuses, with an error in OpenAI's form."""
    return lambda raw: raw["status"] in allowed and bool(error_of(raw["text"]))


def broken_off(raw: Raw) -> bool:
    """A stream that ends with an error event, is not begun twice, and has no [DONE]."""
    text = raw["text"]
    return (
        raw["status"] == 200 and raw["end"] == "whole" and "\nevent: error\n" in text and bool(error_of(text))
        and "[DONE]" not in text and text.count('"role":"assistant"') == 1
    )  # fmt: skip


@dataclass(frozen=True)
class Check:
    sent: str  # what was done to the gateway
    probe: Probe
    passed: Callable[[Raw], bool]
    came: Callable[[Raw], str] | None = None  # what came, where status and error don't tell it


def of_failure(name: str) -> Check:
    """One of the five failures, as a check."""
    one = FAILURES[name]

    async def probe(on: Target) -> Raw:
        return await one.experiment(on.gateway, on.engine, on.proxy)

    return Check(
        one.right, probe, lambda raw: one.mended(one.read(raw)),
        lambda raw: one.seen(one.read(raw)),
    )  # fmt: skip


STREAMED, NO_STREAM = {"stream": True}, {"stream": False}
CHECKS: Mapping[str, Check] = {
    **{name: of_failure(name) for name in FAILURES},
    "left-waiting": Check(
        "client without a stream leaves", leaves_before_the_answer,
        lambda raw: raw["left_engine"] == 1,
        lambda raw: f"the connection to the engine was {'' if raw['left_engine'] else 'not '}closed; the engine "
        f"generated {raw['generated_tokens']:.0f} of {five_failures.LONG} tokens",
    ),
    "refused": Check(
        "engine refuses connections, then comes back", refused,
        lambda raw: status(502, 503)(raw) and raw["later"] == 200,
    ),
    "hangs-first": Check("engine hangs before its headers", with_fault("hang before headers"), status(504)),
    "hangs": Check("engine hangs in the middle", with_fault("hang"), broken_off),
    "half-character": Check("engine dies in the middle of a character", with_fault("half a character"), broken_off),
    "status": Check("engine answers 500", with_fault("status 500"), status(500, 502, 503)),
    "busy": Check(
        "engine answers 429 with Retry-After: 7", with_fault("status 429, Retry-After"),
        lambda raw: status(429)(raw) and raw["retry_after"] == "7",
    ),
    "busy-silent": Check(
        "engine answers 429 without Retry-After", with_fault("status 429"),
        lambda raw: status(429)(raw) and bool(raw["retry_after"]),
    ),
    "error-event": Check("engine sends an error with status 200", with_fault("error event"), status(500, 502, 503)),
    "cut-short": Check(
        "engine states a wrong content length", with_fault("wrong length", stream=False), status(500, 502, 503)
    ),
    "other-engine": Check(
        "one of two engines answers 500", with_fault("status 500", model=EITHER),
        lambda raw: raw["status"] == 200 and "[DONE]" in raw["text"] and raw["to_engine"] == 1,
    ),
    "no-json": Check("body is no JSON", plain(b"{not json"), status(400)),
    "unknown-model": Check("unknown model", plain(lambda on: on.asked(model="gpt-5", stream=True)), status(404)),
    "large": Check("body of 50 MB", piecewise(HEAD + LARGE, b" " * 10**6, 50), status(413)),
    "headers": Check(
        "headers of 200 KB", piecewise(HEAD, b"x-flood: " + b"a" * 4990 + b"\r\n", 40), status(400, 431)
    ),
    "slow-headers": Check("headers that never end", slow_headers, lambda raw: raw["closed"],
        lambda raw: "the connection was closed" if raw["closed"] else f"still open after {PATIENCE_S} s"),
    "burst": Check(
        f"{MANY} requests at once, 2 seats, 4 places to wait", burst,
        lambda raw: set(raw["statuses"]) == {200, 429} and not raw["without_retry_after"]
        and raw["whole"] == raw["statuses"].count(200) >= 6,
        lambda raw: f"{raw['statuses'].count(200)} answered, {raw['statuses'].count(429)} got 429 with Retry-After",
    ),
    "terminated": Check(
        "SIGTERM while two answers stream", terminated,
        lambda raw: raw["tokens"] == [five_failures.LONG] * 2 and raw["errors"] == [None, None] and raw["refusing"],
        lambda raw: f"{sum(e is None for e in raw['errors'])} of 2 streams ended whole, then "
        + ("connections are refused" if raw["refusing"] else "the gateway still listens"),
    ),
}  # fmt: skip


async def every(on: Target) -> tuple[dict[str, Any], dict[str, Raw]]:
    """All checks, one after the other; the last one ends the gateway. Returns the values for the ledger and the raw."""
    found: dict[str, Raw] = {}
    for name, check in CHECKS.items():
        found[name] = await check.probe(on)
        await asyncio.to_thread(on.proxy.cut)  # what still hangs
        while (await asyncio.to_thread(counters, on.engine)).get("running"):
            await asyncio.sleep(0.05)
    return values(found), found


def values(found: Mapping[str, Raw]) -> dict[str, Any]:
    """The verdicts, computed from the evidence."""
    verdicts = {name: bool(CHECKS[name].passed(raw)) for name, raw in found.items()}
    return {"passed": sum(verdicts.values()), "checks": len(verdicts), "verdicts": verdicts}


def run(lab: OpenLab, gateway: Gateway, engine: Engine, proxy: FaultProxy) -> dict[str, Any]:
    """The whole run, recorded under `grade/<gateway>`. The gateway has ended afterwards, if it was measured now."""
    target = Target(gateway, engine, proxy)
    found: dict[str, Any] = lab.measure(
        f"grade/{gateway.spec.name}", lambda: every(target), engine=engine, gateway=dict(gateway.made_of)
    )
    return found
