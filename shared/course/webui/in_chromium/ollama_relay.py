"""A relay between a chat page and Ollama, which notes each request, and can play an answer that no model computed.

    with OllamaRelay(ollama.url) as relay:
        relay.url                               # the address that a chat page gets as Ollama's
        relay.asked[-1].body["messages"]        # what the page has sent
        relay.asked[-1].left                    # whether it closed the connection before the answer's end
        relay.script = lambda: pieces("# Made up")      # from now on: a simulated answer

So a check can tell what reached the engine, and in which order, without a look into the page's own code.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

ANSWERS = ("/api/chat", "/api/generate", "/v1/chat/completions", "/v1/completions")  # the paths that are noted
ENDS = (b'"done":true', b'"done": true', b"[DONE]")
HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "content-encoding"}
NDJSON = "application/x-ndjson"
SIMULATED = {
    "name": "simulated", "model": "simulated", "size": 10**8, "size_vram": 0, "details": {}, "context_length": 4096,
    "expires_at": "2126-01-01T00:00:00Z",
}  # fmt: skip
LAST = {
    "model": "simulated", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop",
    "prompt_eval_count": 7, "eval_count": 3, "eval_duration": 10**8,
}  # fmt: skip

Script = Callable[[], AsyncIterator[bytes]]


@dataclass
class Asked:
    """A request for an answer. Times are those of time.monotonic, in seconds."""

    path: str
    body: dict[str, Any]
    began_s: float
    first_s: float | None = None  # when the first byte of the answer was passed on
    ended_s: float | None = None
    done: bool = False  # the answer's last line was passed on
    left: bool = False  # the client closed the connection before


def said(text: str) -> bytes:
    """One line of Ollama's /api/chat, with this piece of an answer."""
    return line({"model": "simulated", "message": {"role": "assistant", "content": text}, "done": False})


def line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"


async def pieces(text: str, size: int = 4, gap_s: float = 0.0) -> AsyncIterator[bytes]:
    """A whole answer in pieces of so many characters."""
    for at in range(0, len(text), size):
        yield said(text[at : at + size])
        await asyncio.sleep(gap_s)
    yield line(LAST)


def many_words() -> AsyncIterator[bytes]:
    return pieces("One word, and then another one. " * 200, 4, 0.02)


@dataclass
class OllamaRelay:
    """The relay, which runs in a thread of its own from `start` to `stop`.

    `ollama` is the engine's address. Without one there is only a model called "simulated", which answers by the script;
    by default with many words, slowly.
    """

    ollama: str = ""
    script: Script | None = None  # what POST /api/chat answers instead of the engine
    status: int = 200  # of a simulated answer
    asked: list[Asked] = field(default_factory=list)
    port: int = 0
    _tasks: set[asyncio.Task[Any]] = field(default_factory=set)  # those that answer now

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """How many requests for an answer are under way."""
        return sum(one.ended_s is None for one in self.asked)

    def start(self) -> "OllamaRelay":
        """Listen on a free port. Returns itself."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._serve()).result(10)
        return self

    def stop(self) -> None:
        """End every connection and the thread."""
        self._call(self._close()).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> "OllamaRelay":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def cut(self) -> None:
        """End every answer that is under way, so that the engine is free. Returns when all have ended."""

        async def cancel() -> None:
            tasks = set(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

        self._call(cancel()).result(10)

    def _call(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _serve(self) -> None:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False)
        app = web.Application(client_max_size=2**40)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        self.port = self._runner.addresses[0][1]

    async def _close(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.method != "POST" or request.path not in ANSWERS:
            return await self._pass_on(request, None)
        asked = Asked(request.path, await request.json(), time.monotonic())
        self.asked.append(asked)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            script = self.script or (None if self.ollama else many_words)
            if script and request.path == "/api/chat":
                return await self._play(request, asked, script)
            return await self._pass_on(request, asked)
        except (asyncio.CancelledError, ConnectionResetError):
            asked.left = not asked.done
            raise
        finally:
            asked.ended_s = time.monotonic()
            self._tasks.discard(task)

    async def _play(self, request: web.Request, asked: Asked, script: Script) -> web.StreamResponse:
        response = web.StreamResponse(status=self.status, headers={"content-type": NDJSON})
        await response.prepare(request)
        async for block in script():
            await self._write(response, block, asked)
        return response

    async def _pass_on(self, request: web.Request, asked: Asked | None) -> web.StreamResponse:
        """The engine's own answer. If the client leaves, the engine is left, too."""
        if not self.ollama:
            return web.json_response({"models": [SIMULATED]})
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        data = await request.read() if asked else request.content if request.can_read_body else None
        url = self.ollama + request.path_qs
        try:
            answer = await self._session.request(request.method, url, data=data, headers=headers)
        except aiohttp.ClientError as e:
            return web.json_response({"error": f"Ollama does not answer at {self.ollama}: {e}"}, status=502)
        try:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            if encoding := answer.headers.get("content-encoding"):
                headers["content-encoding"] = encoding
            response = web.StreamResponse(status=answer.status, headers=headers)
            await response.prepare(request)
            async for block in answer.content.iter_any():
                await self._write(response, block, asked)
            return response
        finally:
            answer.close()  # not release: an unread answer must not be read to its end

    async def _write(self, response: web.StreamResponse, block: bytes, asked: Asked | None) -> None:
        await response.write(block)
        if asked:
            asked.first_s = asked.first_s or time.monotonic()
            asked.done = asked.done or any(end in block for end in ENDS)
