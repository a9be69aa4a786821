"""Sends one request to an engine and passes its answer back, byte for byte, as it comes.

The rules, each of which the naive gateway breaks:

- While one answer is awaited, everything else goes on.  (ask)
- The bytes are passed on as they arrive, and are looked at only to count.  (pass_on)
- A client that leaves, at whatever moment, cancels the request to the engine: the seat is free.  (unless_client_leaves)
- Another engine is tried only as long as the client has not had a byte: a stream can't be undone.  (try_engines)

A client that doesn't read stops the reading from the engine, so nothing piles up, and loses its seat after `idle_s`.
A stream that breaks ends with `event: error` and without [DONE], so no client can take a half for a whole.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.errors import ApiError
from gateway.keys import Key, Keys
from gateway.metrics import Events, Metrics
from gateway.pool import Engine, Pool
from gateway.settings import Settings

BROKEN = {429, 500, 502, 503, 504}  # an engine's answers that are no answer to the question
STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the stream back until 4 KB have come
]


class EngineFailed(ApiError):
    """An engine gave no answer, or not the whole of it."""

    def __init__(self, engine: Engine, reason: str, status: int, text: str, code: str, after_s: float | None = None):
        super().__init__(status, f"The engine {engine.name} {text}.", code, after_s)
        self.engine, self.reason = engine, reason


class Histogram(Protocol):
    def observe(self, seconds: float) -> None: ...


async def ask(
    session: aiohttp.ClientSession, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Send `data` to an engine. Returns its answer, and the first block of the answer's body.

    The engine may take a minute until then, and hundreds of other requests go on meanwhile. The request carries
    `content-type: application/json` and the `x-request-id`.

    Raises TimeoutError if there was no connection within `connect_s`, or no first block within `first_byte_s`; other
    errors as aiohttp raises them. An answer that can't be returned, for whatever reason, is closed, because an open one
    keeps the engine at work.
    """
    # BEGIN SOLUTION: ask: await session.post(url, …), then answer.content.readany(), both within first_byte_s
    headers = {"content-type": "application/json", "x-request-id": request_id}
    limits = aiohttp.ClientTimeout(total=None, sock_connect=connect_s)
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, headers=headers, timeout=limits)
        try:
            return answer, await answer.content.readany()
        except BaseException:
            answer.close()
            raise
    # END SOLUTION


async def pass_on(
    block: bytes,
    read: Callable[[], Awaitable[bytes]],
    send: Callable[[bytes], Awaitable[None]],
    events: Events,
    arrived_s: float,
    first_token: Histogram,
    between: Histogram,
) -> None:
    """Pass a stream on to the client, each block as it comes. `block` is the first; `read()` returns b"" at the end.

    Each block goes through `events.feed(block)`; what `events.for_client(block)` returns is sent, unless it is empty.
    The client's time to first token, counted from `arrived_s`, is observed once: when the first text has come, which
    need not be in the first block. The time between tokens is observed with each later block, as the time since the
    block before came in. Both clocks are time.perf_counter(), and no time in which the client was slow is in a block's
    own stamp.
    """
    # BEGIN SOLUTION: pass_on: for each block take the time, feed, observe, send; then read the next
    before_s = 0.0
    while block:
        now_s, had_text = time.perf_counter(), events.text_seen
        events.feed(block)
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        before_s = now_s
        if out := events.for_client(block):
            await send(out)
        block = await read()
    # END SOLUTION


async def unless_client_leaves(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Run `work` to its end, unless the client leaves first. Returns whether it ended; what it raises is raised here.

    `await receive()` returns the next message of the connection. Its type is "http.disconnect" once the client has
    left. Then `work` is cancelled, and has cleaned up when this function returns. If this function is cancelled
    itself, as when the gateway shuts down, so is `work`. Nothing that it started goes on after its return.
    """
    # BEGIN SOLUTION: unless_client_leaves: two tasks, work and a listener; when one is done, cancel and await both

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
        ended = working.done()
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)
    if ended:
        working.result()
    return ended
    # END SOLUTION


async def try_engines(
    attempt: Callable[[frozenset[Engine]], Awaitable[None]], has_begun: Callable[[], bool], deadline_s: float
) -> None:
    """Ask one engine after the other, until one has answered.

    `attempt(tried)` asks an engine that is not in `tried`, and passes its answer on to the client. It raises
    EngineFailed (whose `.engine` failed), or another ApiError if there is no engine to ask (any more).

    What has reached the client can't be taken back: `has_begun()` returns whether anything has. There is no new attempt
    after `deadline_s` (by time.monotonic()). A client learns why an engine failed, not that there was no second one.
    """
    # BEGIN SOLUTION: try_engines: count the failed engine as tried, and try again only if that can do no harm
    tried: frozenset[Engine] = frozenset()
    failure: EngineFailed | None = None
    while True:
        try:
            await attempt(tried)
            return
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None
    # END SOLUTION


@dataclass(frozen=True)
class Tools:
    """What every request needs."""

    settings: Settings
    keys: Keys
    pool: Pool
    metrics: Metrics
    session: aiohttp.ClientSession


class Relay(Response):
    """One answer of the gateway, as an ASGI application."""

    def __init__(self, path: str, body: dict[str, Any], key: Key, log: dict[str, Any], tools: Tools) -> None:
        self.path, self.asked, self.key, self.log, self.tools = path, body, key, log, tools
        self.model, self.streams, self.background = (str(body["model"]), bool(body.get("stream")), None)
        self.arrived_s, self.deadline_s = (time.perf_counter(), time.monotonic() + tools.settings.total_s)
        self.moment = "queued"  # then "before the first byte", "streaming": where the client was when it left
        options = body.get("stream_options")
        self.options = options if isinstance(options, dict) else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        if not await unless_client_leaves(self._answer(scope, send), receive):
            self._left(self.moment)

    async def _answer(self, scope: Scope, send: Send) -> None:
        metrics, model = self.tools.metrics, self.model
        try:
            with self.tools.keys.one_request(self.key):
                await try_engines(lambda tried: self._attempt(tried, scope, send), self._has_begun, self.deadline_s)
        except ApiError as e:
            metrics.answers.labels(model, "broken" if self._has_begun() else str(e.status)).inc()
            self.log["error"] = e.message
            if self._has_begun():
                await send({"type": "http.response.body", "body": e.event()})
            else:
                await e.send(send)
        finally:
            metrics.whole.labels(model).observe(time.perf_counter() - self.arrived_s)

    def _has_begun(self) -> bool:
        return self.moment == "streaming"

    async def _attempt(self, tried: frozenset[Engine], scope: Scope, send: Send) -> None:
        """Ask an engine and pass its answer on. Raises EngineFailed."""
        settings, answer = self.tools.settings, None
        async with self.tools.pool.seat(self.model, self.key, tried) as engine:
            if tried:
                self.tools.metrics.retried.labels(self.log["engine"]).inc()
            self.moment, self.log["engine"] = "before the first byte", engine.name
            limit_s = self.deadline_s - time.monotonic()
            limit_s = min(settings.first_byte_s, limit_s) if self.streams else limit_s
            try:
                answer, block = await ask(
                    self.tools.session, engine.url + self.path, self._data(), self.log["request_id"],
                    settings.connect_s, limit_s,
                )  # fmt: skip
                check(engine, answer, block)
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    await self._stream(engine, answer, block, scope, send)
                else:
                    await self._whole(engine, answer, block, send)
                engine.succeeded()
            except TimeoutError:
                engine.failed("timeout")
                text = "sent nothing for too long"
                raise EngineFailed(engine, "timeout", 504, text, "engine_timeout") from None
            except (aiohttp.ClientError, OSError) as e:
                engine.failed(type(e).__name__)
                text = f"broke the connection ({type(e).__name__})"
                raise EngineFailed(engine, type(e).__name__, 502, text, "engine_failed") from None
            except EngineFailed as e:
                if e.status != 429:  # a full engine is not a broken one
                    engine.failed(e.reason)
                raise
            finally:
                if answer:
                    answer.close()

    def _data(self) -> bytes:
        """The body for the engine. A stream is always asked for its usage, for the counters."""
        if not self.streams:
            return orjson.dumps(self.asked)
        return orjson.dumps({**self.asked, "stream_options": {**self.options, "include_usage": True}})

    async def _whole(self, engine: Engine, answer: aiohttp.ClientResponse, block: bytes, send: Send) -> None:
        """An answer that is not streamed: kept until it is whole, so that a broken one becomes a plain error."""
        body = bytearray()
        async with asyncio.timeout(self.deadline_s - time.monotonic()):
            while block:
                body += block
                if len(body) > self.tools.settings.most_answer_bytes:
                    raise EngineFailed(engine, "too large", 502, "sent too large an answer", "engine_failed")
                block = await answer.content.readany()
        if answer.status == 200:
            usage = None
            with suppress(orjson.JSONDecodeError, LookupError, TypeError):
                usage = orjson.loads(body)["usage"]
            self._count(engine, usage, 0.0)
        self.tools.metrics.answers.labels(self.model, str(answer.status)).inc()
        kind = answer.headers.get("content-type", "application/json").encode()
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": bytes(body)})

    async def _stream(
        self, engine: Engine, answer: aiohttp.ClientResponse, block: bytes, scope: Scope, send: Send
    ) -> None:
        """An answer that is streamed. Raises TimeoutError after `idle_s` without a block, and after `total_s`."""
        settings, metrics, loop = (self.tools.settings, self.tools.metrics, asyncio.get_running_loop())
        events = Events(bool(self.options.get("include_usage")))
        sending, text_at_s = False, 0.0
        over = loop.time() + self.deadline_s - time.monotonic()
        send_wait = metrics.send_wait.labels(self.key.name)

        async def read() -> bytes:
            limit.reschedule(min(loop.time() + settings.idle_s, over))
            return await answer.content.readany()

        async def pass_block(out: bytes) -> None:
            nonlocal sending, text_at_s
            began_s = loop.time()
            text_at_s = text_at_s or (began_s if events.text_seen else 0.0)
            sending = True
            limit.reschedule(min(began_s + settings.idle_s, over))
            await send({"type": "http.response.body", "body": out, "more_body": True})
            sending = False
            if (waited_s := loop.time() - began_s) > 0.001:
                send_wait.inc(waited_s)

        try:
            async with asyncio.timeout(settings.idle_s) as limit:
                self.moment = "streaming"
                await send({"type": "http.response.start", "status": 200, "headers": STREAM})
                first_token, between = (metrics.first_token.labels(self.model), metrics.between.labels(self.model))
                await pass_on(block, read, pass_block, events, self.arrived_s, first_token, between)
                if not events.done:
                    raise aiohttp.ClientPayloadError("the stream ended without [DONE]")
        except TimeoutError:
            if not sending:
                raise
            self._left("not reading")
            scope["state"]["abort"]()
            return
        finally:
            self._count(engine, events.usage, loop.time() - text_at_s)
        metrics.answers.labels(self.model, "200").inc()
        await send({"type": "http.response.body", "body": b"" if events.pass_usage else events.rest})

    def _count(self, engine: Engine, usage: object, decode_s: float) -> None:
        """Count an answer's tokens. One that broke, or whose client left, has no count of its engine."""
        if not isinstance(usage, dict):
            self.tools.metrics.uncounted.labels(engine.name).inc()
            return
        settings, tokens = self.tools.settings, usage.get("completion_tokens") or 0
        first_s = time.perf_counter() - self.arrived_s - decode_s
        in_time = decode_s / max(1, tokens - 1) <= settings.slo_between_tokens_s
        self.tools.metrics.tokens(self.key.name, usage, first_s <= settings.slo_first_token_s and in_time)
        self.log |= {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}

    def _left(self, moment: str) -> None:
        self.tools.metrics.left.labels(moment).inc()
        self.log["client_left"] = moment


def check(engine: Engine, answer: aiohttp.ClientResponse, block: bytes) -> None:
    """Raises EngineFailed if the engine answered that it failed."""
    if answer.status in BROKEN:
        after, text = answer.headers.get("retry-after", ""), f"answered with status {answer.status}"
        if answer.status == 429:
            raise EngineFailed(engine, "busy", 429, text, "engine_busy", float(after) if after.isdigit() else 1.0)
        raise EngineFailed(engine, f"status {answer.status}", 502, text, "engine_failed")
    if not block or block.lstrip().startswith((b"event: error", b'data: {"error"')):
        raise EngineFailed(engine, "error event", 502, "sent an error in place of an answer", "engine_failed")
