"""Sends one request to an engine and passes its answer back, byte for byte, as it comes.

The rules, each of which the naive gateway breaks:

- The bytes are passed on as they arrive. They are looked at only to find the first text and the engine's `usage`.
- Another engine is tried only as long as the client has not had a byte, because a stream can't be taken back.
- A client that leaves, at whatever moment, cancels the request to the engine. The engine ends its work, the seat is free.
- A client that doesn't read stops the reading from the engine, so nothing piles up, and loses its seat after `idle_s`.
- A stream that breaks ends with `event: error` and without [DONE], so no client can take a half for a whole.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.admission import Admission
from gateway.errors import ApiError
from gateway.events import Events
from gateway.keys import Key
from gateway.metrics import Metrics
from gateway.pool import Engine
from gateway.settings import Settings

RETRYABLE = {429, 500, 502, 503, 504}
EVENT_STREAM = b"text/event-stream; charset=utf-8"


@dataclass(frozen=True)
class Asked:
    """One request, as it goes to an engine."""

    path: str
    body: dict[str, Any]
    key: Key
    request_id: str

    @property
    def model(self) -> str:
        return str(self.body["model"])

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def wants_usage(self) -> bool:
        options = self.body.get("stream_options")
        return isinstance(options, dict) and bool(options.get("include_usage"))

    def data(self) -> bytes:
        """The body for the engine. A stream is always asked for its usage, for the counters."""
        if not self.streams:
            return orjson.dumps(self.body)
        options = self.body.get("stream_options")
        options = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return orjson.dumps({**self.body, "stream_options": options})


@dataclass(frozen=True)
class Tools:
    """What every request needs."""

    settings: Settings
    admission: Admission
    metrics: Metrics
    session: aiohttp.ClientSession


class EngineFailed(Exception):
    """An engine failed before the client had a byte: another may be tried."""

    def __init__(self, reason: str, error: ApiError, at_fault: bool = True) -> None:
        self.reason, self.error, self.at_fault = reason, error, at_fault


class Relay(Response):
    """One answer of the gateway, as an ASGI application."""

    def __init__(self, asked: Asked, tools: Tools, log: dict[str, Any]) -> None:
        super().__init__()
        self.asked, self.tools, self.log = asked, tools, log
        self._arrived = time.perf_counter()
        self._moment = "queued"  # "before the first byte", "streaming": where the client was when it left
        self._sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves first."""
        work = asyncio.create_task(self._answer(scope, send))
        gone = asyncio.create_task(disconnected(receive))
        try:
            await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.tools.metrics.left.labels(self._moment).inc()
                self.log["client_left"] = self._moment
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
        if not work.cancelled() and (error := work.exception()):
            raise error

    async def _answer(self, scope: Scope, send: Send) -> None:
        asked, metrics = self.asked, self.tools.metrics
        try:
            with self.tools.admission.of_key(asked.key):
                await self._on_some_engine(scope, send)
        except ApiError as e:
            metrics.answers.labels(asked.model, str(e.status)).inc()
            headers = [(name.encode(), value.encode()) for name, value in e.headers().items()]
            await send({"type": "http.response.start", "status": e.status, "headers": headers})
            await send({"type": "http.response.body", "body": e.body()})
        finally:
            metrics.whole.labels(asked.model).observe(time.perf_counter() - self._arrived)

    async def _on_some_engine(self, scope: Scope, send: Send) -> None:
        tried: frozenset[Engine] = frozenset()
        failed: EngineFailed | None = None
        over = self._arrived + self.tools.settings.total_s
        while True:
            try:
                async with self.tools.admission.seat(self.asked.model, self.asked.key, tried) as engine:
                    self._moment, self.log["engine"] = "before the first byte", engine.name
                    await self._through(engine, scope, send)
                    return
            except EngineFailed as e:
                failed, tried = e, tried | {engine}
                if e.at_fault:
                    engine.failed(e.reason)
                if time.perf_counter() > over:
                    raise e.error from None
                self.tools.metrics.retried.labels(engine.name).inc()
            except ApiError as e:
                raise failed.error if failed and e.code == "no_engine" else e from None

    async def _through(self, engine: Engine, scope: Scope, send: Send) -> None:
        """Ask this engine. Raises EngineFailed as long as the client has had nothing."""
        settings, started = self.tools.settings, False
        try:
            async with asyncio.timeout(settings.first_byte_s) as limit, self._ask(engine) as answer:
                await self._refuse_failures(engine, answer)
                if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    await self._whole(engine, answer, send)
                    return
                block = await answer.content.readany()
                if not block or block.lstrip().startswith((b"event: error", b'data: {"error"')):
                    raise EngineFailed(
                        "error event", ApiError(502, f"The engine {engine.name} failed.", "engine_failed")
                    )
                started = True
                await self._stream(engine, answer, block, limit, send)
        except TimeoutError:
            if self._sending:  # the client doesn't read
                self.tools.metrics.left.labels("not reading").inc()
                scope["extensions"]["abort"]()
                return
            text = f"The engine {engine.name} sent nothing for {settings.idle_s if started else settings.first_byte_s:g} s."
            await self._broken(engine, "timeout", ApiError(504, text, "engine_timeout"), started, send)
        except (aiohttp.ClientError, OSError) as e:
            text = f"The connection to the engine {engine.name} broke ({type(e).__name__})."
            await self._broken(engine, type(e).__name__, ApiError(502, text, "engine_failed"), started, send)

    def _ask(self, engine: Engine) -> "aiohttp.client._RequestContextManager":
        headers = {"content-type": "application/json", "x-request-id": self.asked.request_id}
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self.tools.settings.connect_s)
        url = engine.url + self.asked.path
        return self.tools.session.post(url, data=self.asked.data(), headers=headers, timeout=limits)

    async def _refuse_failures(self, engine: Engine, answer: aiohttp.ClientResponse) -> None:
        if answer.status not in RETRYABLE:
            return
        wait_s = answer.headers.get("retry-after", "")
        busy = answer.status == 429
        status, code = (429, "engine_busy") if busy else (502, "engine_failed")
        error = ApiError(
            status,
            f"The engine {engine.name} answered with status {answer.status}.",
            code,
            float(wait_s) if wait_s.isdigit() else 1.0 if busy else None,
        )
        raise EngineFailed(f"status {answer.status}", error, at_fault=not busy)

    async def _whole(self, engine: Engine, answer: aiohttp.ClientResponse, send: Send) -> None:
        """An answer that is not streamed: kept until it is whole, so that a broken one becomes a plain error."""
        body = bytearray()
        async for block in answer.content.iter_any():
            body += block
            if len(body) > self.tools.settings.most_answer_bytes:
                raise EngineFailed(
                    "too large", ApiError(502, f"The answer of {engine.name} is too large.", "engine_failed")
                )
        engine.succeeded()
        with contextlib.suppress(orjson.JSONDecodeError, LookupError, TypeError):
            self._count(engine, orjson.loads(body)["usage"] if answer.status == 200 else None)
        self.tools.metrics.answers.labels(self.asked.model, str(answer.status)).inc()
        kind = answer.headers.get("content-type", "application/json").encode()
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await self._send(send, {"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send(send, {"type": "http.response.body", "body": bytes(body)})

    async def _stream(
        self, engine: Engine, answer: aiohttp.ClientResponse, block: bytes, limit: asyncio.Timeout, send: Send
    ) -> None:
        settings, metrics, model = self.tools.settings, self.tools.metrics, self.asked.model
        loop, events = asyncio.get_running_loop(), Events(self.asked.wants_usage)
        over = loop.time() + settings.total_s - (time.perf_counter() - self._arrived)
        between = metrics.between.labels(model)
        engine.succeeded()
        self._moment = "streaming"
        headers = [(b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await self._send(send, {"type": "http.response.start", "status": 200, "headers": headers})
        last = 0.0
        while block:
            now = loop.time()
            limit.reschedule(min(now + settings.idle_s, over))
            had_text = events.text_seen
            out = events.feed(block)
            if had_text:
                between.observe(now - last)
            elif events.text_seen:
                metrics.first_token.labels(model).observe(time.perf_counter() - self._arrived)
            last = now
            if out:
                await self._send(send, {"type": "http.response.body", "body": out, "more_body": True})
            block = await answer.content.readany()
        if not events.done:
            raise aiohttp.ClientPayloadError("the stream ended without [DONE]")
        self._count(engine, events.usage)
        metrics.answers.labels(model, "200").inc()
        await self._send(send, {"type": "http.response.body", "body": events.rest()})

    async def _send(self, send: Send, message: Any) -> None:
        self._sending = True
        await send(message)
        self._sending = False

    async def _broken(self, engine: Engine, reason: str, error: ApiError, started: bool, send: Send) -> None:
        """Before the first byte another engine may be tried; after it the stream ends with an error."""
        if not started:
            raise EngineFailed(reason, error) from None
        engine.failed(reason)
        self.log["broken"] = reason
        self.tools.metrics.answers.labels(self.asked.model, "broken").inc()
        await send({"type": "http.response.body", "body": b"\n\n" + error.event()})

    def _count(self, engine: Engine, usage: dict[str, Any] | None) -> None:
        """Count tokens as the engine counted them; an answer without its count is counted as such."""
        if not isinstance(usage, dict):
            self.tools.metrics.uncounted.labels(engine.name).inc()
            return
        name = self.asked.key.name
        self.tools.metrics.prompt_tokens.labels(name).inc(usage.get("prompt_tokens") or 0)
        self.tools.metrics.generation_tokens.labels(name).inc(usage.get("completion_tokens") or 0)
        self.log |= {name: usage.get(name) for name in ("prompt_tokens", "completion_tokens")}


async def disconnected(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
