"""One streaming request, stamped as its bytes arrive.

The mental model: a response is a list of blocks of bytes, each with the moment at which the kernel handed
it to us. While the stream runs nothing is parsed, so a slow parser can't delay a stamp. Afterwards the
blocks are decoded, and each event gets the stamp of the block that completed it.

Two things that look alike and aren't: a *chunk* (one server-sent event) and a *token*. An engine may put
several tokens into one chunk, and the first chunk of a chat often carries only a role. So token counts
come from the engine's `usage`, and TTFT is the first chunk that carries text.

    trace = asyncio.run(stream(url, body))
    trace.ttft_ms, trace.output_tokens, trace.error
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds. A stream that exceeds one has failed; it is never counted as slow."""

    connect_s: float = 10
    idle_s: float = 120  # between two blocks, and before the first
    total_s: float = 600


@dataclass(frozen=True)
class Trace:
    """One request, as it happened. Times are nanoseconds of `time.perf_counter_ns`."""

    sent_ns: int  # just before the request was handed to the kernel; connecting is over
    arrivals_ns: tuple[int, ...]  # each chunk that carried text
    texts: tuple[str, ...]  # of those chunks
    end_ns: int  # the stream ended, well or not
    input_tokens: int | None  # from `usage`; None if the engine didn't say
    output_tokens: int | None
    cached_tokens: int | None  # of the input, taken from the engine's prefix cache
    finish_reason: str | None
    error: str | None  # None only for a stream that ended as the protocol says

    @classmethod
    def restore(cls, stored: Mapping[str, Any]) -> "Trace":
        """A trace from its JSON form, in which tuples are lists."""
        plain = dict(stored)
        return cls(**{**plain, "arrivals_ns": tuple(plain["arrivals_ns"]), "texts": tuple(plain["texts"])})

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: from the request sent to the first chunk with text."""
        return (self.arrivals_ns[0] - self.sent_ns) / 1e6 if self.arrivals_ns else None

    @property
    def e2e_ms(self) -> float:
        """From the request sent to the end of the stream."""
        return (self.end_ns - self.sent_ns) / 1e6

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (last − first) / (tokens − 1).

        vLLM's benchmark uses (E2E − TTFT) / (tokens − 1), which counts the closing chunks as well.
        """
        if not self.output_tokens or self.output_tokens < 2 or len(self.arrivals_ns) < 2:
            return None
        return (self.arrivals_ns[-1] - self.arrivals_ns[0]) / 1e6 / (self.output_tokens - 1)

    @property
    def itl_ms(self) -> tuple[float, ...] | None:
        """Inter-token latencies, or None unless every chunk carried exactly one token."""
        if self.output_tokens != len(self.arrivals_ns):
            return None
        pairs = zip(self.arrivals_ns[1:], self.arrivals_ns, strict=False)
        return tuple((later - earlier) / 1e6 for later, earlier in pairs)


class _Stamper(asyncio.Protocol):
    """Keeps (moment, bytes) for each block; wakes its owner when the connection ends."""

    def __init__(self) -> None:
        self.blocks: list[tuple[int, bytes]] = []
        self.end_ns = 0
        self.closed = asyncio.get_running_loop().create_future()
        self.failure: Exception | None = None

    def data_received(self, data: bytes) -> None:
        self.blocks.append((time.perf_counter_ns(), data))

    def connection_lost(self, exc: Exception | None) -> None:
        self.end_ns = time.perf_counter_ns()
        self.failure = exc
        if not self.closed.done():
            self.closed.set_result(None)


async def stream(url: str, body: Mapping[str, object], limits: Limits | None = None) -> Trace:
    """POST `body` to an OpenAI-style endpoint with `stream: true`, and return the trace.

    Never raises for what the server does: a refused connection, an HTTP error, an error event, a reset or
    a time limit is in `Trace.error`.
    """
    limits = limits or Limits()
    parts = urlsplit(url)
    full = {**body, "stream": True, "stream_options": {"include_usage": True}}
    payload = json.dumps(full).encode()
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    sent = time.perf_counter_ns()
    try:
        async with asyncio.timeout(limits.connect_s):
            transport, stamper = await loop.create_connection(_Stamper, parts.hostname or "127.0.0.1", parts.port or 80)
    except (OSError, TimeoutError) as e:
        reason = f"no connection to {parts.netloc}: {str(e) or f'not within {limits.connect_s:g} s'}"
        return Trace(sent, (), (), time.perf_counter_ns(), None, None, None, None, reason)
    try:
        sent = time.perf_counter_ns()
        transport.write(head.encode() + payload)
        error = await _until_closed(stamper, sent, limits)
    finally:
        transport.abort()
    end = stamper.end_ns or time.perf_counter_ns()
    if error is None and stamper.failure:
        error = f"the connection broke: {stamper.failure}"
    return _parse(sent, stamper.blocks, end, error)


async def _until_closed(stamper: _Stamper, sent_ns: int, limits: Limits) -> str | None:
    """Wait for the end of the stream; returns which time limit it exceeded, if any."""
    while not stamper.closed.done():
        last = stamper.blocks[-1][0] if stamper.blocks else sent_ns
        now = time.perf_counter_ns()
        idle_left = limits.idle_s - (now - last) / 1e9
        total_left = limits.total_s - (now - sent_ns) / 1e9
        if total_left <= 0:
            return f"not finished within {limits.total_s:g} s"
        if idle_left <= 0:
            return f"nothing came for {limits.idle_s:g} s"
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(stamper.closed), min(idle_left, total_left))
    return None


class _Body:
    """httptools calls this while the stored blocks are fed to it, one by one."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.pieces: list[tuple[int, bytes]] = []
        self.sized = False  # the headers say how the body ends; else closing the connection ends it
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.sized = self.sized or name.lower() in (b"content-length", b"transfer-encoding")

    def on_body(self, data: bytes) -> None:
        self.pieces.append((self.now_ns, data))

    def on_message_complete(self) -> None:
        self.complete = True


def _parse(sent_ns: int, blocks: Sequence[tuple[int, bytes]], end_ns: int, error: str | None) -> Trace:
    """From stamped blocks to a trace: HTTP, then events, then what they say."""
    body = _Body()
    http_parser = httptools.HttpResponseParser(body)
    try:
        for body.now_ns, data in blocks:
            http_parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        pass  # its status, 101, is judged below
    except httptools.HttpParserError as e:
        error = error or f"not a valid HTTP response: {e}"
    status = http_parser.get_status_code() if blocks else 0
    arrivals: list[int] = []
    texts: list[str] = []
    usage: dict[str, Any] = {}
    finish: str | None = None
    finished = False
    if status not in (0, 200):
        said = b"".join(piece for _, piece in body.pieces)[:300].decode(errors="replace")
        error = error or f"HTTP {status}: {said}"
    else:
        for stamp, kind, data in _events(body.pieces):
            if data == b"[DONE]":
                finished = True
                continue
            try:
                event = json.loads(data)
                if kind == b"error" or event.get("error"):
                    error = error or f"the engine reported: {str(event.get('error') or event)[:300]}"
                    break
                usage = {**usage, **(event.get("usage") or {})}
                for choice in event.get("choices") or ():
                    text = choice.get("text") or (choice.get("delta") or {}).get("content")
                    finish = choice.get("finish_reason") or finish
                    if text:
                        arrivals.append(stamp)
                        texts.append(text)
            except ValueError:
                error = error or f"an event is not JSON: {data[:80]!r}"
                break
            except (AttributeError, TypeError):  # JSON, and of another shape
                error = error or f"an event is no chunk: {data[:80]!r}"
                break
    if not error and not finished:
        error = "the stream ended before its [DONE]"
    if not error and body.sized and not body.complete:
        error = "the connection ended before its body was complete"
    details = usage.get("prompt_tokens_details") or {}
    return Trace(
        sent_ns=sent_ns,
        arrivals_ns=tuple(arrivals),
        texts=tuple(texts),
        end_ns=end_ns,
        input_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        cached_tokens=details.get("cached_tokens"),
        finish_reason=finish,
        error=error,
    )


def _events(pieces: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes, bytes]]:
    """Server-sent events as (moment of the block that completed it, event name, data)."""
    events: list[tuple[int, bytes, bytes]] = []
    rest, kind, data = b"", b"", b""
    for stamp, piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for raw in lines:
            line = raw.rstrip(b"\r")
            if line.startswith(b"data:"):
                data += line[5:].strip()
            elif line.startswith(b"event:"):
                kind = line[6:].strip()
            elif not line:
                if data:
                    events.append((stamp, kind, data))
                kind, data = b"", b""
    return events
