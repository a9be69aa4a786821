"""uvicorn and what surrounds the routes: limits on headers, bodies and slow senders; request ids, the log, workers.

The middleware is plain ASGI: Starlette's BaseHTTPMiddleware would hide that a client has left.
"""

import asyncio
import gc
import logging
import os
import re
import resource
import sys
import tempfile
import time
import uuid
from contextlib import suppress
from functools import partial
from typing import Any

import orjson
import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.supervisors import Multiprocess

from gateway.app import make_app
from gateway.errors import ApiError
from gateway.settings import Settings

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
TOO_LONG = ApiError(431, "The headers are too large.", "headers_too_large", retry=False)
LINGER_S = 2.0  # a refused client may send for so long; then it reads the refusal
LOCAL_HOST = re.compile(rb"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?")
SECURITY = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}


class Edge:
    """The outermost layer: every request has its id, its limits and its line of log."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began_s, sent, received, whole, headers = time.perf_counter(), 0, 0, False, dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        log: dict[str, Any] = {"request_id": request_id.decode(), "method": scope["method"], "path": scope["path"]}
        scope.setdefault("state", {})["log"] = log

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            self._check_size(received)
            return message

        async def watched(message: Message) -> None:
            nonlocal sent, whole
            if message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                if log["status"] == 413:  # the client sends first and reads later: don't close at once
                    await send({**message, "more_body": True})
                    await read_rest(receive)
                    message = {"type": "http.response.body"}
            elif message["type"] == "http.response.start":
                log["status"] = message["status"]
                own = {**SECURITY, **dict(message.get("headers", ())), b"x-request-id": request_id}
                if message["status"] in (408, 413):  # the body has no end
                    own[b"connection"] = b"close"
                message["headers"] = list(own.items())
            await send(message)
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            self._check_head(scope["headers"], headers.get(b"host", b""))
            length = headers.get(b"content-length", b"")
            self._check_size(int(length) if length.isdigit() else 0)
            await self.app(scope, limited, watched)
        except ApiError as e:
            await e.response()(scope, receive, watched)
        except ClientDisconnect:
            log["client_left"] = "sending"
        except Exception as e:  # a fault of the gateway's own
            log["error"] = f"{type(e).__name__}: {e}"
            if not whole and "status" in log:
                raise  # uvicorn cuts the connection, so the client sees that its answer isn't whole
            logging.getLogger(__name__).error("A fault of the gateway's own", exc_info=e)
            if not whole:
                await ApiError(500, "The gateway failed.", "internal_error").response()(scope, receive, watched)
        finally:
            line = {"time": time.time(), **log, "bytes": sent, "ms": round(1e3 * (time.perf_counter() - began_s), 1)}
            with suppress(OSError):  # on a full disk, for one: uvicorn would close the connection after a whole answer
                sys.stderr.write(orjson.dumps(line).decode() + "\n")

    def _check_size(self, received: int) -> None:
        if received > self.settings.most_body_bytes:
            text = f"The body is larger than {self.settings.most_body_bytes} bytes."
            raise ApiError(413, text, "body_too_large", retry=False)

    def _check_head(self, headers: list[tuple[bytes, bytes]], host: bytes) -> None:
        """Without keys, a page whose name points to 127.0.0.1 (DNS rebinding) must not get through."""
        if sum(len(name) + len(value) + 4 for name, value in headers) > self.settings.most_header_bytes:
            raise TOO_LONG
        if self.settings.keys_file is None and not LOCAL_HOST.fullmatch(host):
            raise ApiError(400, "The Host header must be 127.0.0.1 or localhost.", "bad_host", retry=False)


async def read_rest(receive: Receive) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass


class Connection(HttpToolsProtocol):
    """A client's connection, whose headers must come in time and may not be endless."""

    def __init__(self, settings: Settings, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.settings, self._header_bytes, self._refused = settings, 0, False
        self._timer: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None  # the request whose answer is being sent

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_headers()
        self.scope["state"]["abort"] = self.transport.abort

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._header_bytes += len(data)
        super().data_received(data)
        if self._timer and self._header_bytes > self.settings.most_header_bytes:
            self._refuse(TOO_LONG)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._header_bytes = 0  # those of the body were counted, too, and belong to no header of the next request

    def on_headers_complete(self) -> None:
        self._header_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        # uvicorn reports a lost connection only to its newest request, which may still wait for its turn.
        if self._answered and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._stop_timer()
        late = ApiError(408, "The headers did not come in time.", "slow_headers")
        self._timer = self.loop.call_later(self.settings.header_s, self._refuse, late)

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = None

    def _refuse(self, error: ApiError) -> None:
        body = error.body()
        head = f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self._refused = True
        self.loop.call_later(LINGER_S, self.transport.close)


class Workers(Multiprocess):
    """Several processes that accept from one socket. One that dies is replaced."""

    known: frozenset[int | None] = frozenset()  # the workers as they were left last

    def init_processes(self) -> None:
        super().init_processes()
        self.known = self._ids()

    def keep_subprocess_alive(self) -> None:
        before = self.known | self._ids()
        super().keep_subprocess_alive()
        self.known = self._ids()
        for pid in before - self.known:  # it died, or a signal has ended it since: SIGHUP replaces all of them
            mark_process_dead(pid)  # type: ignore[no-untyped-call]  # what it held is held no more

    def _ids(self) -> frozenset[int | None]:
        for process in self.processes:
            process.child_conn.close()  # its own end of the pipe is then the only one, so its death ends a wait for it
        return frozenset(process.pid for process in self.processes)

    def terminate_all(self) -> None:
        for sock in self.sockets:
            sock.close()  # a client that connects now would get no answer
        super().terminate_all()


def application() -> ASGIApp:
    """The gateway as each process makes it."""
    settings = Settings()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    app = Edge(make_app(settings), settings)
    gc.collect()
    gc.freeze()  # what lives until the end need not be looked at by each collection, which would hold up the streams
    return app


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; then accept nothing new and give streams `drain_s` to end."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # two sockets a stream: the usual 1,024 are 500 streams
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    config = uvicorn.Config(
        "gateway.server:application",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        http=partial(Connection, settings),  # type: ignore[arg-type]
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.drain_s,
        timeout_worker_healthcheck=30,
    )
    print(f"Gateway on http://{settings.host}:{settings.port}, engines: {', '.join(settings.engines)}", flush=True)
    if settings.workers == 1:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run()
        return
    with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="gateway-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers' counters
        Workers(config, [config.bind_socket()]).run()
