"""Blocks of bytes as they arrive on a connection: when each arrived, and which of its bytes belong to the body.

HTTP's framing is removed while the stream runs, because only the framing shows where the answer ends and when the
connection may carry the next one. httptools does it in C, in 0.2 µs a block.
"""

import asyncio
import contextlib
import os
import time
from types import TracebackType
from typing import cast

import httptools

Address = tuple[str, int]  # host and port


class Response:
    """The blocks of one answer. httptools calls its `on_` methods.

    Its lists are flat and hold numbers and bytes. These never trigger Python's garbage collector, which would halt the
    loop to search for cycles.
    """

    def __init__(self) -> None:
        self.blocks_ns: list[int] = []
        self.blocks_bytes: list[int] = []
        self.pieces_ns: list[int] = []
        self.pieces: list[bytes] = []  # the body, in pieces that end anywhere
        self.end_ns = 0  # when its last byte arrived, or its connection ended
        self.sized = False  # the headers define where the body ends; else the end of the connection ends it
        self.complete = False
        self.reusable = False  # the connection may carry another answer after this one
        self.lost = False  # the connection ended before the answer did
        self.error: str | None = None
        self.http = httptools.HttpResponseParser(self)

    def take(self, now_ns: int, block: bytes) -> None:
        """Take in a block that has arrived."""
        self.blocks_ns.append(now_ns)
        self.blocks_bytes.append(len(block))
        try:
            self.http.feed_data(block)
        except httptools.HttpParserUpgrade:
            self.complete = True  # Exchange.trace judges its status, 101
        except httptools.HttpParserError as e:
            self.reusable = False
            self.error = f"not a valid HTTP response: {e}"

    def on_header(self, name: bytes, value: bytes) -> None:
        self.sized = self.sized or name.lower() in (b"content-length", b"transfer-encoding")

    def on_body(self, data: bytes) -> None:
        self.pieces_ns.append(self.blocks_ns[-1])
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        self.complete = True
        self.reusable = self.http.should_keep_alive()  # the parser forgets it after this call

    @property
    def status(self) -> int | None:
        """The HTTP status; None before it arrived."""
        return self.http.get_status_code() or None


class Connection(asyncio.Protocol):
    """A connection that carries one answer at a time."""

    transport: asyncio.Transport
    ended: "asyncio.Future[None]"  # of the answer that it carries
    response: Response | None = None

    @classmethod
    async def open(cls, address: Address) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, *address)
        return connection

    def send(self, request: bytes) -> tuple[int, Response]:
        """Send a request. Returns the moment just before, and the response, which is still empty.

        The kernel gets the bytes immediately. uvloop's own write() would wait for the end of the loop's turn, in which
        a hundred other requests may come first.
        """
        self.response = response = Response()
        self.ended = asyncio.get_running_loop().create_future()
        socket = self.transport.get_extra_info("socket").fileno()
        sent = 0
        sent_ns = time.perf_counter_ns()
        if self.transport.is_closing():  # the server has closed it meanwhile, and asyncio calls connection_lost no more
            self.connection_lost(None)
            return sent_ns, response
        with contextlib.suppress(OSError):  # bytes that the kernel doesn't take now go through the transport
            sent = os.write(socket, request)
        if sent < len(request):
            self.transport.write(request[sent:])
        return sent_ns, response

    def drop(self) -> None:
        """Close the connection at once, even in the middle of an answer."""
        self.response = None
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        now_ns = time.perf_counter_ns()  # before anything else
        if self.response is None:  # bytes without a request
            self.transport.abort()
            return
        self.response.take(now_ns, data)
        if self.response.complete or self.response.error:
            self._end(now_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.response is not None:
            self.response.lost = True
            self.response.error = f"the connection broke: {exc}" if exc else None
            self._end(time.perf_counter_ns())

    def _end(self, now_ns: int) -> None:
        if self.response is not None:
            self.response.end_ns = now_ns
            self.response = None
            self.ended.set_result(None)


class Connections:
    """Open connections, kept for later requests to the same address. They belong to one event loop.

    async with Connections() as connections:
        await stream(url, body, connections=connections)
    """

    def __init__(self) -> None:
        self._idle: dict[Address, list[Connection]] = {}
        self._closed = False

    def take(self, address: Address) -> Connection | None:
        """The connection used last, since the server is least likely to have closed it; None if none is open."""
        idle = self._idle.get(address, [])
        while idle:
            connection = idle.pop()
            if not connection.transport.is_closing():
                return connection
        return None

    def keep(self, address: Address, connection: Connection) -> None:
        if self._closed:
            connection.drop()
        else:
            self._idle.setdefault(address, []).append(connection)

    async def __aenter__(self) -> "Connections":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for connection in (c for idle in self._idle.values() for c in idle):
            connection.drop()
        self._idle.clear()
        await asyncio.sleep(0)  # the loop closes their sockets in its next turn
