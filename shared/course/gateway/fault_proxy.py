"""A TCP proxy on 127.0.0.1 that puts faults on a real engine's answers.

    with FaultProxy(engine.url) as proxy:
        proxy.url                                  # an engine's address for a gateway
        proxy.plan("reset", after_events=5)        # the next answer's connection is reset after five events

Each connection carries one request. Health checks (GET) pass through, so a gateway takes the engine for healthy. A
fault that is planned applies to the next POST, once. Then requests pass through again.
"""

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
EVENT_END = re.compile(rb"\n\n(\r\n)?")  # of an event, and of the HTTP chunk that it fills
READ_S = 0.3  # before a reset: a gateway that finds it together with bytes drops those bytes
NOT_IDLE_S = 600  # a connection that hangs is closed at the latest then


async def message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head of an HTTP message, and the body whose length it states."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = LENGTH.search(head)
    return head, await reader.readexactly(int(length[1])) if length else b""


def http(status: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """An HTTP answer. `length` is what its Content-Length states, if that is not the truth."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


ERROR = b'{"error": {"message": "the engine is out of memory", "type": "server_error", "code": 500}}'
EVENTS = "Content-Type: text/event-stream"
JSON = "Content-Type: application/json"
CUT = b'{"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assista'
# Faults that need no engine: the bytes that the proxy answers with, before it closes the connection.
ANSWERS = {
    "status 500": http("500 Internal Server Error", ERROR, JSON),
    "status 429, Retry-After": http("429 Too Many Requests", ERROR, JSON, "Retry-After: 7"),
    "status 429": http("429 Too Many Requests", ERROR, JSON),
    "error event": http("200 OK", b"event: error\ndata: " + ERROR + b"\n\n", EVENTS),
    "wrong length": http("200 OK", CUT, JSON, length=len(CUT) + 400),
}
# Faults on the engine's own answer, after so many events of its stream (a hang before the headers: after none).
CUTS = ("hang before headers", "hang", "reset", "half a character")
FAULTS = (*ANSWERS, *CUTS)


@dataclass(frozen=True)
class Fault:
    name: str
    after_events: int


@dataclass
class FaultProxy:
    """The proxy, which runs in a thread of its own from `start` to `stop`."""

    engine_url: str
    posts: int = 0  # requests that have come, whatever was done with them
    abandoned: int = 0  # of these: the gateway closed the connection before a byte of the answer had come
    port: int = 0
    _planned: deque[Fault] = field(default_factory=deque)
    _server: asyncio.Server | None = None
    _busy: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def plan(self, name: str, after_events: int = 5, times: int = 1) -> None:
        """Put this fault on the next answers, as many as `times`. Raises ValueError for an unknown fault."""
        if name not in FAULTS:
            raise ValueError(f"{name!r} is none of the faults {', '.join(FAULTS)}")
        self._planned.extend([Fault(name, after_events)] * times)

    def clear(self) -> None:
        """Forget the planned faults that no request has met."""
        self._planned.clear()

    def start(self) -> "FaultProxy":
        """Listen on a free port. Returns itself."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.accept()
        return self

    def stop(self) -> None:
        """End every connection and the thread. A second call does nothing."""
        if not self._loop.is_closed():
            self.refuse()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> "FaultProxy":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def accept(self) -> None:
        """Listen (again, on the same port)."""
        self._run(self._accept())

    def refuse(self) -> None:
        """Listen no more: new connections are refused, and the open ones are reset."""
        self._run(self._refuse())

    def cut(self) -> None:
        """Reset every open connection, and accept new ones."""
        self.refuse()
        self.accept()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _accept(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for task in list(self._busy):
            task.cancel()
        await asyncio.gather(*self._busy, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._busy.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._carry(reader, writer)
        finally:
            self._busy.discard(task)
            writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await message(reader)
        fault = None
        if head.startswith(b"POST"):
            self.posts += 1
            fault = self._planned.popleft() if self._planned else None
        if fault and fault.name in ANSWERS:
            writer.write(ANSWERS[fault.name])
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        elif fault and fault.name == "hang before headers":
            await asyncio.wait_for(reader.read(), NOT_IDLE_S)  # until the client closes
        else:
            await self._pass_on(head, body, reader, writer, fault)

    async def _pass_on(
        self, head: bytes, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault | None
    ) -> None:
        """Send the request to the engine and its answer back. A client that leaves ends the engine's connection."""
        parts = urlsplit(self.engine_url)
        from_engine, to_engine = await asyncio.open_connection(parts.hostname, parts.port)
        left = asyncio.create_task(reader.read())
        copied: list[int] = []
        copying = asyncio.create_task(self._copy(from_engine, writer, fault, copied))
        try:
            head = re.sub(rb"\r\nconnection: [^\r]*", b"", head, flags=re.I)
            to_engine.write(head[:-2] + b"Connection: close\r\n\r\n" + body)
            await asyncio.wait({left, copying}, return_when=asyncio.FIRST_COMPLETED)
            self.abandoned += head.startswith(b"POST") and left.done() and not copied  # else the engine ended it
        finally:
            to_engine.transport.abort()
            for task in (left, copying):
                task.cancel()
            await asyncio.gather(left, copying, return_exceptions=True)

    async def _copy(
        self, source: asyncio.StreamReader, client: asyncio.StreamWriter, fault: Fault | None, copied: list[int]
    ) -> None:
        """Copy the answer, and put the length of each block into `copied`, 0 at its end. A fault follows its event."""
        left = fault.after_events if fault else 0
        while block := await source.read(65536):
            copied.append(len(block))
            ends = [match.end() for match in EVENT_END.finditer(block)] if fault else []
            broken = fault is not None and len(ends) >= left
            client.write(block[: ends[left - 1]] if broken else block)
            await client.drain()
            left -= len(ends)
            if fault and broken:
                await self._break(fault.name, client)
                return
        copied.append(0)
        client.close()
        await client.wait_closed()

    async def _break(self, name: str, client: asyncio.StreamWriter) -> None:
        if name == "hang":
            await asyncio.sleep(NOT_IDLE_S)
        if name == "half a character":  # a chunk of its own, since the stream is in HTTP's chunked coding
            piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + "é".encode()[:1]
            client.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await client.drain()
        await asyncio.sleep(READ_S)
        reset(client)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection by a reset (RST), as the death of a process with unread bytes does."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
