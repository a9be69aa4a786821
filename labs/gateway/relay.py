"""Sends one request to an engine and passes its answer back, byte for byte, as it comes.

The rules, each of which the naive gateway breaks:

- While one answer is awaited, everything else goes on.  (ask)
- The bytes are passed on as they arrive, and are looked at only to count.  (pass_on)
- A client that leaves, at whatever moment, cancels the request to the engine: the seat is free.  (unless_client_leaves)
- Another engine is tried only as long as the client has not had a byte: a stream can't be undone.  (try_engines)

While a client doesn't read, the gateway doesn't read from the engine, so nothing piles up. After `idle_s` such a client
loses its seat. A stream that breaks ends with `event: error` and without [DONE], so no client can take half an answer
for a whole one.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from prometheus_client import Histogram
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.keys import Key, Keys
from gateway.metrics import Events, Metrics, data_of, parsed
from gateway.pool import Engine, Pool
from gateway.settings import Settings

STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would keep the stream back until 4 KB have come
]
# An engine that answers with an error is not broken. The request may be the reason: llama.cpp answers 500 to roles
# that don't alternate. Such failures are counted, but one client's mistake must not take the engine out for all others.
TOLD = {"status 500", "error event", "too large"}
NO_FAILURE = {"busy", "total time"}  # nor are these counted: the engine is full, or the answer was too long
EARLY_S = 0.1  # timers may fire a little early, so a request's time counts as over this long before its end
PIECE_BYTES = 64 * 1024  # of an answer that is not streamed
ERROR_EVENT = re.compile(rb'^(?:event: ?error\b|data: ?\{"error": ?[{"])', re.M)
DONE_EVENT = re.compile(rb"^data: ?\[DONE\]\r?\n\r?\n", re.M)


class EngineFailed(ApiError):
    """An engine gave no answer, or not the whole of it.

    The client gets the engine's own message (`said`). The log doesn't, because that message may quote the prompt.
    """

    def __init__(
        self, engine: Engine, reason: str, text: str, status: int = 502, after_s: float | None = None, said: str = ""
    ) -> None:
        code = {429: "engine_busy", 504: "engine_timeout"}.get(status, "engine_failed")
        brief = f"The engine {engine.name} {text}"
        super().__init__(status, f"{brief}: {said}." if said else f"{brief}.", code, after_s)
        self.engine, self.reason, self.brief = engine, reason, f"{brief}."


async def ask(
    session: aiohttp.ClientSession, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> tuple[aiohttp.ClientResponse, bytes]:
    """Post `data` to an engine. Returns its answer, and the first block of the answer's body (b"" if that is empty).

    The engine may take a minute until its first block, and hundreds of other requests go on meanwhile. The request
    carries `content-type: application/json` and the `x-request-id`. A redirect is an answer, and is not followed.

    Raises TimeoutError if there was no connection within `connect_s`, or no first block within `first_byte_s`; other
    errors as aiohttp raises them. An answer that can't be returned, for whatever reason, is closed, because an open one
    keeps the engine at work.
    """
    # TODO: ask: await the answer, then its first block, both within first_byte_s
    raise NotImplementedError("relay: ask: await the answer, then its first block, both within first_byte_s")


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
    `first_token` observes the time since `arrived_s` once: when the first text has come, which need not be in the first
    block. For each block after the one with the first text, `between` observes the time since the block before it.
    Take these times with time.perf_counter() when a block comes, before the client gets it. What `read` or `send`
    raises is raised here, too.
    """
    # TODO: pass_on: for each block take the time, feed, observe, send; then read the next
    raise NotImplementedError("relay: pass_on: for each block take the time, feed, observe, send; then read the next")


async def unless_client_leaves(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    """Run `work` to its end, unless the client leaves first. Returns whether it ended; what it raises is raised here.

    `await receive()` returns the next message of the connection; its type is "http.disconnect" once the client has
    left. Then `work` is cancelled, and has cleaned up when this function returns. The same message also comes once the
    answer is complete, in the moment in which `work` ends: that client did not leave. If this function is cancelled
    itself, as when the gateway shuts down, so is `work`. Nothing that was started here goes on afterwards.
    """
    # TODO: unless_client_leaves: two tasks; when one is done, cancel and await both
    raise NotImplementedError("relay: unless_client_leaves: two tasks; when one is done, cancel and await both")


async def try_engines(
    attempt: Callable[[frozenset[Engine]], Awaitable[None]], has_begun: Callable[[], bool], deadline_s: float
) -> None:
    """Ask one engine after the other, until one has answered.

    `attempt(tried)` asks an engine that is not in `tried`, and passes its answer on to the client. It raises
    EngineFailed (whose `.engine` failed), or another ApiError if there is no engine to ask (any more).

    What has reached the client can't be taken back: `has_begun()` returns whether anything has. There is no new attempt
    after `deadline_s` (by time.monotonic()). If no other engine is left, the client gets the failure of the last one.
    """
    # TODO: try_engines: note the failed engine, and try again only if nothing is lost by it
    raise NotImplementedError("relay: try_engines: note the failed engine, and try again only if nothing is lost by it")


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

    def __init__(self, path: str, asked: dict[str, Any], key: Key, log: dict[str, Any], tools: Tools) -> None:
        super().__init__()
        self.path, self.asked, self.key, self.log, self.tools = path, asked, key, log, tools
        self.model, self.streams = str(asked["model"]), bool(asked.get("stream"))
        self.options = options if isinstance(options := asked.get("stream_options"), dict) else {}
        self.arrived_s, self.deadline_s = time.perf_counter(), time.monotonic() + tools.settings.total_s
        self.moment = "queued"  # where the client was when it left: then "before the first byte", "streaming", ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        self.send, self.connection = send, (scope, receive, send)
        if not await unless_client_leaves(self._answer(), receive):
            self._client_left(self.moment)

    async def _answer(self) -> None:
        try:
            with self.tools.keys.one_request(self.key):
                await try_engines(self._attempt, self._has_begun, self.deadline_s - EARLY_S)
        except ApiError as e:
            self.log["error"] = e.brief if isinstance(e, EngineFailed) else e.message
            self._count_answer("broken" if self._has_begun() else str(e.status))
            if self._has_begun():
                await self.send({"type": "http.response.body", "body": e.event()})
            else:
                await e.response()(*self.connection)

    def _has_begun(self) -> bool:
        return self.moment == "streaming"

    async def _attempt(self, tried: frozenset[Engine]) -> None:
        """Ask an engine that was not tried, and pass its answer on. Raises EngineFailed."""
        settings, answer, whole = self.tools.settings, None, None
        async with self.tools.pool.seat(self.model, self.key, tried) as engine:
            if tried:
                self.tools.metrics.retried.labels(self.log["engine"]).inc()
            self.moment, self.log["engine"] = "before the first byte", engine.name
            left_s = self.deadline_s - time.monotonic()
            limits = settings.connect_s, min(settings.first_byte_s, left_s) if self.streams else left_s
            try:
                url, request_id = engine.url + self.path, self.log["request_id"]
                answer, block = await ask(self.tools.session, url, self._data(), request_id, *limits)
                check(engine, answer, block)
                engine.began()
                if answer.headers.get("content-type", "").startswith("text/event-stream"):
                    await self._stream(engine, answer, block)
                else:
                    whole = await self._whole(engine, answer, block)
                engine.succeeded()
            except (aiohttp.ClientError, OSError, EngineFailed) as e:  # TimeoutError is an OSError
                failure = failed(engine, e, self.deadline_s)
                if failure.reason not in NO_FAILURE:
                    engine.failed(failure.reason, is_broken=failure.reason not in TOLD)
                raise failure from None
            finally:
                if answer:
                    answer.close()
        if whole:  # the engine's seat is free already
            await self._send_whole(*whole)

    def _data(self) -> bytes:
        """The body for the engine. A stream is always asked for its usage, for the counters."""
        more = {"stream_options": {**self.options, "include_usage": True}} if self.streams else {}
        return orjson.dumps({**self.asked, **more})

    async def _whole(self, engine: Engine, answer: aiohttp.ClientResponse, block: bytes) -> tuple[int, str, bytes]:
        """Status, type and body of an answer that is not streamed. It is kept until it is whole.

        So a broken one becomes a plain error.
        """
        body, usage = bytearray(), None
        async with asyncio.timeout(self.deadline_s - time.monotonic()):
            while block:
                body += block
                if len(body) > self.tools.settings.most_answer_bytes:
                    raise EngineFailed(engine, "too large", "sent too large an answer")
                block = await answer.content.readany()
        if answer.status == 200:
            with suppress(orjson.JSONDecodeError, LookupError, TypeError):
                usage = orjson.loads(body)["usage"]
            self._count_tokens(engine, usage, 0)
        self._count_answer(str(answer.status))
        return answer.status, answer.headers.get("content-type", "application/json"), bytes(body)

    async def _send_whole(self, status: int, kind: str, body: bytes) -> None:
        """Send an answer in pieces. An answer that its client doesn't read is kept for `idle_s` at most."""
        headers = [(b"content-type", kind.encode("latin-1")), (b"content-length", str(len(body)).encode())]
        self.moment = "in a whole answer"
        try:
            await self._send_soon({"type": "http.response.start", "status": status, "headers": headers})
            for begin in range(0, len(body), PIECE_BYTES):
                piece = {"body": body[begin : begin + PIECE_BYTES], "more_body": begin + PIECE_BYTES < len(body)}
                if begin:  # else all would be sent in one turn of the loop to a client that has left meanwhile
                    await asyncio.sleep(0)
                await self._send_soon({"type": "http.response.body", **piece})
        except TimeoutError:
            self._does_not_read()

    async def _send_soon(self, message: Message) -> None:
        """Send a message. Raises TimeoutError if the client does not read the messages before it within `idle_s`."""
        async with asyncio.timeout(self.tools.settings.idle_s):
            await self.send(message)

    async def _stream(self, engine: Engine, answer: aiohttp.ClientResponse, block: bytes) -> None:
        """Pass a stream on. Raises TimeoutError after `idle_s` without a block, and after `total_s`."""
        settings, metrics, clock = self.tools.settings, self.tools.metrics, asyncio.get_running_loop().time
        events, send_wait = Events(bool(self.options.get("include_usage"))), metrics.send_wait.labels(self.key.name)
        over_s = clock() + self.deadline_s - time.monotonic()
        sending, text_at_s = False, 0.0

        def wait_at_most(seconds: float) -> None:
            ends_s, set_s = min(clock() + seconds, over_s), limit.when()
            # A timer costs microseconds, so it is not set for each token. The end of the whole time is exact.
            if abs(ends_s - (set_s or 0)) > settings.idle_s / 10 or ends_s == over_s != set_s:
                limit.reschedule(ends_s)

        async def read() -> bytes:
            wait_at_most(1 if events.done else settings.idle_s)
            return await answer.content.readany()

        async def pass_block(out: bytes) -> None:
            nonlocal sending, text_at_s
            has_error = b"error" in events.whole and ERROR_EVENT.search(events.whole) is not None
            if has_error:
                out = DONE_EVENT.sub(b"", out)  # vLLM and SGLang send [DONE] also after an error
            began_s, sending = clock(), True
            text_at_s = text_at_s or (time.perf_counter() if events.text_seen else 0.0)
            wait_at_most(settings.idle_s)
            try:
                await self.send({"type": "http.response.body", "body": out, "more_body": True})
                sending = False
            finally:
                if (waited_s := clock() - began_s) > 0.001:
                    send_wait.inc(waited_s)
            if has_error:
                raise EngineFailed(engine, "error event", "sent an error in the middle of its answer")

        try:
            async with asyncio.timeout(settings.idle_s) as limit:
                self.moment, sending = "streaming", True  # may wait until the client has read its earlier answer
                await self.send({"type": "http.response.start", "status": 200, "headers": STREAM})
                sending = False
                first_token, between = metrics.first_token.labels(self.model), metrics.between.labels(self.model)
                await pass_on(block, read, pass_block, events, self.arrived_s, first_token, between)
        except (aiohttp.ClientError, OSError):
            if sending:
                self._does_not_read()
                return
            if not events.done:  # after [DONE], an error of the engine changes nothing
                raise
        finally:
            self._count_tokens(engine, events.usage, text_at_s)
        if not events.done:
            raise EngineFailed(engine, "no [DONE]", "ended the stream too early")
        self._count_answer("200")
        try:
            await self._send_soon({"type": "http.response.body", "body": b"" if events.pass_usage else events.rest})
        except TimeoutError:  # the seat is held until here
            self._does_not_read()

    def _count_tokens(self, engine: Engine, usage: object, text_at_s: float) -> None:
        """Count tokens by the engine's usage. A stream that broke, or whose client left, has none.

        Tokens are within the SLO if the answer's first text, and on average each further token, came in time.
        """
        if not isinstance(usage, dict):
            self.tools.metrics.uncounted.labels(engine.name).inc()
            return
        settings, whole_s = self.tools.settings, time.perf_counter() - self.arrived_s
        first_s = text_at_s - self.arrived_s if text_at_s else min(whole_s, settings.slo_first_token_s)
        tokens = usage.get("completion_tokens") or 0
        in_time = whole_s - first_s <= settings.slo_between_tokens_s * max(0, tokens - 1)
        self.tools.metrics.tokens(self.key.name, usage, first_s <= settings.slo_first_token_s and in_time)
        self.log |= {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}

    def _count_answer(self, status: str) -> None:
        self.tools.metrics.answers.labels(self.model, status).inc()
        if status == "200":  # refusals take no time, and would make the engines look fast
            self.tools.metrics.whole.labels(self.model).observe(time.perf_counter() - self.arrived_s)

    def _does_not_read(self) -> None:
        self._client_left("not reading")
        self.connection[0]["state"]["abort"]()

    def _client_left(self, moment: str) -> None:
        self.tools.metrics.left.labels(moment).inc()
        self.log["client_left"] = moment


def check(engine: Engine, answer: aiohttp.ClientResponse, block: bytes) -> None:
    """Raises EngineFailed if the engine's answer is no answer to the question."""
    status, after = answer.status, answer.headers.get("retry-after", "")
    if status == 429:
        raise EngineFailed(engine, "busy", "is busy", 429, float(after) if after.isdigit() else 1)
    if status >= 500 or 300 <= status < 400:
        raise EngineFailed(engine, f"status {status}", f"answered with status {status}", said=said_in(block))
    if not block:
        raise EngineFailed(engine, "no answer", "ended the connection without an answer")
    if ERROR_EVENT.match(block.lstrip()):
        said = said_in(block.lstrip())
        raise EngineFailed(engine, "error event", "sent an error in place of an answer", said=said)


def said_in(block: bytes) -> str:
    """The engine's own words in an error of OpenAI's form, as an event or a whole body; else ""."""
    found = parsed(data_of(block.partition(b"\n\n")[0]) or block)
    error = found.get("error", found)
    said = error.get("message") if isinstance(error, dict) else error
    return said[:500].rstrip(". ") if isinstance(said, str) else ""


def failed(engine: Engine, error: Exception, deadline_s: float) -> EngineFailed:
    """The failure that this error of the connection means, for a request whose time is over at `deadline_s`."""
    if isinstance(error, EngineFailed):
        return error
    if isinstance(error, TimeoutError) and time.monotonic() >= deadline_s - EARLY_S:
        text = "had not ended its answer when the time of this request (total_s) was over"
        return EngineFailed(engine, "total time", text, 504)
    if isinstance(error, TimeoutError):
        return EngineFailed(engine, "timeout", "sent nothing for too long", 504)
    return EngineFailed(engine, type(error).__name__, f"broke the connection ({type(error).__name__})")
