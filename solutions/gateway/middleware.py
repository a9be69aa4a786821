"""What happens to every request, as plain ASGI: a request id, a limit on the body, headers, one line of log.

Starlette's BaseHTTPMiddleware is not used, because it hides from the application that a client has left.
"""

import re
import sys
import time
import uuid
from typing import Any

import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import ApiError
from gateway.settings import Settings

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
SECURITY = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"content-security-policy", b"default-src 'self'"),
]


class Edge:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, sent, headers = time.perf_counter(), 0, dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        log: dict[str, Any] = {"request_id": request_id.decode(), "method": scope["method"], "path": scope["path"]}
        scope.setdefault("state", {}).update(request_id=request_id.decode(), log=log)
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.settings.most_body_bytes:
                raise too_large(self.settings)
            return message

        async def with_headers(message: Message) -> None:
            nonlocal sent
            if message["type"] == "http.response.start":
                log["status"] = message["status"]
                extra = [(b"x-request-id", request_id), *SECURITY]
                if message["status"] in (413, 431):
                    extra.append((b"connection", b"close"))  # the rest of the body is not read
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length) > self.settings.most_body_bytes:
                await refuse(too_large(self.settings), with_headers)
                return
            await self.app(scope, limited, with_headers)
        except Exception as e:  # a fault of the gateway's own
            log["error"] = f"{type(e).__name__}: {e}"
            if "status" in log:
                raise
            await refuse(ApiError(500, "The gateway failed.", "internal_error"), with_headers)
        finally:
            log |= {"bytes": sent, "ms": round(1e3 * (time.perf_counter() - began), 1)}
            sys.stderr.write(orjson.dumps({"time": time.time(), **log}).decode() + "\n")


def too_large(settings: Settings) -> ApiError:
    return ApiError(413, f"The body is larger than {settings.most_body_bytes} bytes.", "body_too_large")


async def refuse(error: ApiError, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in error.headers().items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": error.body()})
