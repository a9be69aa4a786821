"""One streaming request, stamped as its bytes arrive.

The mental model: a response is a list of blocks of bytes, each with the moment at which the kernel handed it over
(shared.load.connection). While the stream runs, only HTTP's framing is parsed, so a slow parser can't delay a
timestamp. The events are read afterwards (shared.load.streams). Each gets the timestamp of the block that completed it.

A *chunk* (one event) is not a *token*. An engine may put several tokens into one chunk, and the first chunk of a chat
often carries only a role. So token counts come from the engine, and TTFT ends at the first chunk that carries text,
reasoning or answer.

    trace = asyncio.run(stream(url, body))
    trace.ttft_ms, trace.output_tokens, trace.error

For many requests at once, call `exchange()` for each, and `Exchange.trace()` when all have ended, as shared.load.loops
does. Reading one answer takes milliseconds, in which no other block could be timestamped.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

from shared.load import streams
from shared.load.connection import Connection, Connections, Response


@dataclass(frozen=True)
class Limits:
    """How long to wait, in seconds. A stream that exceeds a limit counts as failed, never as slow."""

    connect_s: float = 10
    first_byte_s: float = 120  # of the answer, headers included
    idle_s: float = 120  # between two blocks
    total_s: float = 600


@dataclass(frozen=True)
class Trace:
    """One request and its answer. Times are nanoseconds of `time.perf_counter_ns`."""

    sent_ns: int  # just before the request was handed to the kernel; connecting is over
    arrivals_ns: tuple[int, ...]  # each chunk that carried text of the answer
    texts: tuple[str, ...]  # of those chunks
    end_ns: int  # when the stream ended, even with an error
    input_tokens: int | None  # None if the engine didn't report it
    output_tokens: int | None  # reasoning included
    cached_tokens: int | None  # part of the input, taken from the engine's prefix cache
    finish_reason: str | None
    error: str | None  # None only for a stream that ended as the protocol demands
    tokens_from: str | None = None  # "usage" (OpenAI), "engine" (Ollama's own counts), "tokenizer", None: unknown
    reasoning_ns: tuple[int, ...] = ()  # each chunk that carried reasoning, which precedes the answer
    reasoning_texts: tuple[str, ...] = ()
    blocks_ns: tuple[int, ...] = ()  # every block of bytes, headers and framing included
    blocks_bytes: tuple[int, ...] = ()
    timings: Mapping[str, Any] | None = None  # the engine's own, under its names: Ollama's in ns, llama.cpp's in ms
    new_connection: bool = True
    first_choice_ns: int | None = None  # the first chunk of the answer, even if empty or only a role
    last_choice_ns: int | None = None  # the last one, which may carry only the finish reason
    scheduled_ns: int | None = None  # when the schedule of an open loop wanted it sent

    @classmethod
    def restore(cls, stored: Mapping[str, Any]) -> "Trace":
        """The trace of a JSON form, in which tuples are lists. Older forms lack fields that were added later."""
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
        }
        plain.setdefault("tokens_from", None if plain["output_tokens"] is None else "usage")
        return cls(**plain)

    def counted(self, count: Callable[[str], int]) -> "Trace":
        """The trace with its output tokens counted from its text, if the engine reported no count.

        A last resort, marked by `tokens_from`: the tokens of a text aren't always those that were generated.
        """
        if self.output_tokens is not None:
            return self
        return replace(self, output_tokens=count(self.reasoning + self.text), tokens_from="tokenizer")

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasoning_texts)

    @property
    def chunks_ns(self) -> tuple[int, ...]:
        """When each chunk with text arrived, reasoning and answer, in order."""
        return tuple(sorted(self.reasoning_ns + self.arrivals_ns)) if self.reasoning_ns else self.arrivals_ns

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: from sending the request to the first chunk with text, reasoning or answer."""
        chunks = self.chunks_ns
        return (chunks[0] - self.sent_ns) / 1e6 if chunks else None

    @property
    def first_answer_ms(self) -> float | None:
        """From sending the request to the first chunk of the answer: a user's wait if the reasoning is hidden."""
        return (self.arrivals_ns[0] - self.sent_ns) / 1e6 if self.arrivals_ns else None

    @property
    def e2e_ms(self) -> float:
        """From sending the request to the end of the stream."""
        return (self.end_ns - self.sent_ns) / 1e6

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first: (last − first) / (tokens − 1).

        vLLM's benchmark uses (E2E − TTFT) / (tokens − 1), which includes the closing chunks.
        """
        chunks = self.chunks_ns
        if not self.output_tokens or self.output_tokens < 2 or len(chunks) < 2:
            return None
        return (chunks[-1] - chunks[0]) / 1e6 / (self.output_tokens - 1)

    @property
    def itl_ms(self) -> tuple[float, ...] | None:
        """Inter-token latencies, or None unless every chunk carried exactly one token."""
        chunks = self.chunks_ns
        if self.output_tokens != len(chunks):
            return None
        pairs = zip(chunks[1:], chunks, strict=False)
        return tuple((later - earlier) / 1e6 for later, earlier in pairs)


@dataclass(frozen=True)
class Exchange:
    """One request and its answer, whose bytes are not read yet."""

    path: str
    sent_ns: int
    end_ns: int
    response: Response
    error: str | None  # why the client gave up
    new_connection: bool

    @property
    def dropped(self) -> bool:
        """Whether the connection ended without a byte, as happens when the server closes an idle connection."""
        return self.response.lost and not self.response.blocks_ns

    def trace(self) -> Trace:
        """Read the answer's bytes into a trace."""
        response = self.response
        error = (
            self.error
            or response.error
            or ("the server closed the connection without an answer" if self.dropped else None)
        )
        if response.status in (None, 200):
            found = streams.parse(self.path, response.pieces_ns, response.pieces)
            error = error or found.error
            if not error and response.sized and not response.complete:
                error = "the connection ended before its body was complete"
        else:
            found = streams.StreamContent()
            body_text = b"".join(response.pieces)[:300].decode(errors="replace")
            error = error or f"HTTP {response.status}: {body_text}"
        return Trace(
            sent_ns=self.sent_ns,
            arrivals_ns=tuple(found.arrivals_ns),
            texts=tuple(found.texts),
            end_ns=self.end_ns,
            input_tokens=found.input_tokens,
            output_tokens=found.output_tokens,
            cached_tokens=found.cached_tokens,
            finish_reason=found.finish_reason,
            error=error,
            tokens_from=found.tokens_from,
            reasoning_ns=tuple(found.reasoning_ns),
            reasoning_texts=tuple(found.reasoning_texts),
            blocks_ns=tuple(response.blocks_ns),
            blocks_bytes=tuple(response.blocks_bytes),
            timings=found.timings,
            new_connection=self.new_connection,
            first_choice_ns=found.first_choice_ns,
            last_choice_ns=found.last_choice_ns,
        )


async def stream(
    url: str,
    body: Mapping[str, object],
    limits: Limits | None = None,
    connections: Connections | None = None,
    api_key: str = "",
) -> Trace:
    """POST `body` with `stream: true` to an endpoint of OpenAI's API or Ollama's, and return the trace.

    The path decides the dialect (`streams.is_ollama`). `connections` keeps connections open for the next request;
    without it, each request opens its own. `api_key` goes into the Authorization header. A fault of the server never
    raises: a refused connection, an HTTP error, an error event, a reset or a time limit is in `Trace.error`. Cancelling
    closes the connection at once.
    """
    return (await exchange(url, body, limits, connections, api_key=api_key)).trace()


async def exchange(
    url: str,
    body: Mapping[str, object],
    limits: Limits | None = None,
    connections: Connections | None = None,
    on_sent: Callable[[Response], None] | None = None,
    api_key: str = "",
) -> Exchange:
    """Like `stream`, but the answer's bytes are kept and not read.

    on_sent: called with the response, still empty, when the request has been sent. Its blocks show how far the answer
    has come.
    """
    limits = limits or Limits()
    parts = urlsplit(url)
    full = {**body, "stream": True}
    if not streams.is_ollama(parts.path):
        full["stream_options"] = {"include_usage": True}
    payload = json.dumps(full).encode()
    key = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream, application/x-ndjson\r\nConnection: {'keep-alive' if connections else 'close'}\r\n"
        f"{key}Content-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload
    address = parts.hostname or "127.0.0.1", parts.port or 80

    async def ask(connection: Connection, new: bool) -> Exchange:
        """Send the request and await the answer. Then keep the connection if it is reusable, else close it.

        Cancelling closes it at once.
        """
        reusable = False
        try:
            sent_ns, response = connection.send(request)
            if on_sent:
                on_sent(response)
            error = await _until_ended(connection, response, sent_ns, limits)
            reusable = response.reusable
        finally:
            if connections and reusable:
                connections.keep(address, connection)
            else:
                connection.drop()
        return Exchange(parts.path, sent_ns, response.end_ns or time.perf_counter_ns(), response, error, new)

    if connections and (kept := connections.take(address)):
        exchanged = await ask(kept, new=False)
        if not exchanged.dropped:
            return exchanged  # else the server closed the connection before it read the request: send it again
    began_ns = time.perf_counter_ns()
    try:
        async with asyncio.timeout(limits.connect_s):
            connection = await Connection.open(address)
    except (OSError, TimeoutError) as e:
        reason = f"no connection to {parts.netloc}: {str(e) or f'not within {limits.connect_s:g} s'}"
        return Exchange(parts.path, began_ns, time.perf_counter_ns(), Response(), reason, True)
    return await ask(connection, new=True)


async def _until_ended(connection: Connection, response: Response, sent_ns: int, limits: Limits) -> str | None:
    """Wait for the end of the answer. Returns the error if it exceeded a time limit, else None."""
    while not connection.ended.done():
        now = time.perf_counter_ns()
        if response.blocks_ns:
            patience_s, since, missed = limits.idle_s, response.blocks_ns[-1], f"no bytes for {limits.idle_s:g} s"
        else:
            patience_s, since, missed = limits.first_byte_s, sent_ns, f"no first byte within {limits.first_byte_s:g} s"
        left = patience_s - (now - since) / 1e9
        total_left = limits.total_s - (now - sent_ns) / 1e9
        if total_left <= 0:
            return f"not finished within {limits.total_s:g} s"
        if left <= 0:
            return missed
        await asyncio.wait((connection.ended,), timeout=min(left, total_left, limits.idle_s))
    return None
