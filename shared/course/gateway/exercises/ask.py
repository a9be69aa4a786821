"""The exercise `ask`: a request to an engine, within its limits, while the event loop goes on."""

import asyncio
import functools
import inspect
from collections.abc import Coroutine, Generator
from typing import Any

import aiohttp

from shared.course.exercise import Exercise, Function, Wrong, short
from shared.course.gateway.exercises.virtual_time import now_s, play

FILE = "gateway/relay.py"
BLOCKING = (
    "The request did not go through `session`. A client such as requests or httpx.post stops the event loop until the "
    "answer has come, and every other request waits: await session.post(...)."
)


class FakeAnswer:
    """An answer of aiohttp, whose first block comes after some seconds."""

    def __init__(self, first_after_s: float, error: Exception | None = None) -> None:
        self.status, self.headers, self.closed, self.whole = 200, {"content-type": "text/event-stream"}, False, False
        self.first_after_s, self.error, self.content, self.block = first_after_s, error, self, b"data: first\n\n"

    async def readline(self) -> bytes:
        line, end, _ = (await self.readany()).partition(b"\n")
        return line + end

    async def readany(self) -> bytes:
        await asyncio.sleep(self.first_after_s)
        if self.error:
            raise self.error
        return self.block

    async def read(self, n: int = -1) -> bytes:
        """As aiohttp's: what has come, at most n bytes; without a number, all until the end."""
        self.whole = self.whole or n < 0
        return await self.readany() if n else b""

    async def readchunk(self) -> tuple[bytes, bool]:
        return await self.readany(), True

    async def text(self) -> str:
        return (await self.read()).decode()

    async def iter_any(self) -> Any:
        if block := await self.readany():
            yield block

    iter_chunked = readuntil = lambda self, *_: self.iter_any()

    def close(self) -> None:
        self.closed = True

    release = close


class Posting(Coroutine[Any, Any, FakeAnswer]):
    """What session.post returns: a coroutine, as aiohttp's, which can be used with `async with` as well."""

    def __init__(self, session: "FakeSession") -> None:
        self.session = session

    @functools.cached_property
    def coroutine(self) -> Coroutine[Any, Any, FakeAnswer]:
        return self._answer()

    def send(self, value: Any) -> Any:
        return self.coroutine.send(value)

    def throw(self, *error: Any) -> Any:
        return self.coroutine.throw(*error)

    def close(self) -> None:
        self.coroutine.close()

    def __await__(self) -> Generator[Any, None, FakeAnswer]:
        return self.coroutine.__await__()

    async def _answer(self) -> FakeAnswer:
        await asyncio.sleep(self.session.headers_after_s)
        self.session.answered = True
        return self.session.answer

    async def __aenter__(self) -> FakeAnswer:
        return await self.coroutine

    async def __aexit__(self, *_: object) -> None:
        self.session.answer.close()


class FakeSession:
    def __init__(self, headers_after_s: float, first_after_s: float, error: Exception | None = None) -> None:
        self.headers_after_s, self.answer, self.answered = headers_after_s, FakeAnswer(first_after_s, error), False
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def post(self, url: str, **how: Any) -> Posting:
        self.calls.append((url, how))
        return Posting(self)

    def request(self, method: str, url: str, **how: Any) -> Posting:
        return self.post(url, **how)


URL, DATA, ID = "http://127.0.0.1:1/v1/chat/completions", b'{"model": "m"}', "a1b2"


def ask(f: Function) -> None:
    async def asked(session: FakeSession, first_byte_s: float = 5.0) -> tuple[str, Any, float]:
        """How it ended, with what, and after how many seconds."""
        began_s = now_s()
        try:
            made = f(session, URL, DATA, ID, 2.0, first_byte_s)
            if not inspect.isawaitable(made):
                raise Wrong("ask must stay an `async def`.")
            return "returned", await made, now_s() - began_s
        except (NotImplementedError, Wrong):
            raise
        except Exception as e:
            if not session.calls:
                raise Wrong(BLOCKING) from None
            how = "TimeoutError" if isinstance(e, TimeoutError) else type(e).__name__
            return how, e, now_s() - began_s

    async def in_time() -> None:
        session = FakeSession(1, 1)
        how, got, _ = await asked(session)
        if not session.calls:
            raise Wrong(BLOCKING)
        if how != "returned":
            raise Wrong(f"An answer that came within first_byte_s raised {how}: {got}.")
        if session.answer.whole:
            raise Wrong("content.read() waits for the whole answer. content.readany() returns what has come.")
        if not isinstance(got, tuple) or len(got) != 2 or got[0] is not session.answer:
            raise Wrong(f"Return the answer and its first block: a tuple. Yours returned {short(got)}.")
        if session.answer.closed:
            raise Wrong("The answer is closed when it is returned. (`async with` closes it at the end of its block.)")
        if got[1] != b"data: first\n\n":
            raise Wrong(f"The first block was b'data: first\\n\\n'; yours returned {short(got[1])}.")
        url, how_asked = session.calls[0]
        if url != URL or how_asked.get("data") != DATA or len(session.calls) != 1:
            raise Wrong("Post `data` to `url`, once, and unchanged: session.post(url, data=data, ...).")
        headers = {name.lower(): value for name, value in (how_asked.get("headers") or {}).items()}
        if headers.get("content-type") != "application/json":
            raise Wrong("The header content-type: application/json is missing.")
        if headers.get("x-request-id") != ID:
            raise Wrong("The request id is not passed on, so the engine's log can't be matched: header x-request-id.")
        limits = how_asked.get("timeout")
        if not isinstance(limits, aiohttp.ClientTimeout) or limits.total is not None:
            raise Wrong(
                "aiohttp's total limit (5 minutes unless you set one) includes the stream, and would cut a long "
                "answer: timeout=aiohttp.ClientTimeout(total=None, ...)."
            )
        if 2.0 not in (limits.sock_connect, limits.connect):
            raise Wrong("connect_s limits nothing yet: aiohttp.ClientTimeout(..., sock_connect=connect_s).")
        if how_asked.get("allow_redirects") is not False:
            raise Wrong("A redirect is an answer, but aiohttp follows it, to any address: allow_redirects=False.")

    async def empty() -> None:
        session = FakeSession(1, 1)
        session.answer.block = b""
        how, got, _ = await asked(session)
        if how != "returned" or not isinstance(got, tuple) or got[1] != b"":
            raise Wrong("An engine's body can be empty. The first block is b'' then: return it with the answer.")

    async def too_late() -> None:
        for headers_s, block_s in ((900, 0), (4, 4), (1, 900)):
            session = FakeSession(headers_s, block_s)
            how, _, took_s = await asked(session)
            if how != "TimeoutError" or took_s > 5.01:
                together = " The limit is for the headers and the first block together." if headers_s == 4 else ""
                raise Wrong(
                    f"With first_byte_s=5, headers after {headers_s} s and the first block {block_s} s later must "
                    f"raise TimeoutError after 5 s; yours {'returned' if how == 'returned' else f'raised {how}'} after "
                    f"{took_s:.0f} s.{together}"
                )
            if session.answered and not session.answer.closed:
                raise Wrong(
                    "After the TimeoutError the answer is still open, so the engine goes on generating: answer.close()."
                    " Inside `async with asyncio.timeout(…)` the error is still a CancelledError, which "
                    "`except Exception` doesn't catch."
                )

    async def broken() -> None:
        for error in (aiohttp.ClientPayloadError("reset"), ValueError("odd")):
            session = FakeSession(1, 1, error)
            how, got, _ = await asked(session)
            if got is not error:
                raise Wrong(f"An error of the first block must be raised as it is; yours {how}.")
            if not session.answer.closed:
                raise Wrong("After an error of the first block the answer is still open: answer.close().")

    async def cancelled() -> None:
        session = FakeSession(1, 900)
        task = asyncio.ensure_future(asked(session, 800.0))
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.wait((task,), timeout=10)
        if not task.cancelled():
            raise Wrong("ask goes on although it was cancelled. A CancelledError must be raised again.")
        if not session.answer.closed:
            raise Wrong(
                "When the client leaves, ask is cancelled. The answer is then still open, so the engine goes on. "
                "(CancelledError is a BaseException, no Exception.)"
            )

    for scene in (in_time, empty, too_late, broken, cancelled):
        play(f, scene)


EXERCISE = Exercise(
    "ask", "exercise-ask", 2, 3, 12,
    "While this function waits, the event loop serves every other request.",
    (
        "Which call waits for the engine, and does the event loop run meanwhile?",
        "`await session.post(...)` returns with the headers, `await answer.content.readany()` with the first "
        "block.",
        "`async with asyncio.timeout(first_byte_s):` around both; `except BaseException:` close the answer and "
        "raise.",
    ),
    ask, FILE,
)  # fmt: skip
