"""uvicorn, with what it lacks: limits on headers and on slow senders, and a way to drop a client that doesn't read."""

import asyncio
import logging
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.app import make_app
from gateway.errors import ApiError
from gateway.settings import Settings


def protocol(settings: Settings) -> type[HttpToolsProtocol]:
    class Protocol(HttpToolsProtocol):
        """A connection whose headers must come in time and may not be endless."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._header_bytes, self._reading_headers = 0, True
            self._patience = asyncio.get_running_loop().call_later(settings.header_s, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self._reading_headers:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._reading_headers and self._header_bytes > settings.most_header_bytes:
                self._refuse(ApiError(431, "The headers are too large.", "headers_too_large"))

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._reading_headers = True
            self.scope["extensions"] = {"abort": self.transport.abort}

        def on_headers_complete(self) -> None:
            self._reading_headers, self._header_bytes = False, 0
            self._patience.cancel()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._patience.cancel()
            super().connection_lost(exc)

        def _too_slow(self) -> None:
            if self._reading_headers:
                self._refuse(ApiError(408, "The headers did not come in time.", "slow_headers"))

        def _refuse(self, error: ApiError) -> None:
            body = error.body()
            head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            self.transport.close()

    return Protocol


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; then accept nothing new and give streams `drain_s` to end."""
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    config = uvicorn.Config(
        make_app(settings),
        host=settings.host,
        port=settings.port,
        http=protocol(settings),
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.drain_s),
    )
    print(
        f"Gateway on http://{settings.host}:{settings.port}, engines: {', '.join(settings.engines) or 'none'}",
        flush=True,
    )
    uvicorn.Server(config).run()
