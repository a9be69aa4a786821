"""Exercises on one request and its answer: ask, pass_on, unless_client_leaves, try_engines."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import aiohttp

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong, short
from shared.course.gateway.exercises.virtual_time import now_s, play

FILE = "gateway/relay.py"
LAB = registry.find_lab("3.3.5")
BLOCKING = (
    "The request did not go through `session`. A client such as requests or httpx.post stops the event loop until the "
    "answer has come, and every other request waits: await session.post(...)."
)


class FakeAnswer:
    """An answer of aiohttp, whose first block comes after some seconds."""

    def __init__(self, first_after_s: float, error: Exception | None = None) -> None:
        self.status, self.headers, self.closed, self.whole = 200, {"content-type": "text/event-stream"}, False, False
        self.first_after_s, self.error, self.content = first_after_s, error, self

    async def readany(self) -> bytes:
        await asyncio.sleep(self.first_after_s)
        if self.error:
            raise self.error
        return b"data: first\n\n"

    async def read(self, n: int = -1) -> bytes:
        self.whole = True
        return await self.readany()

    async def text(self) -> str:
        return (await self.read()).decode()

    async def iter_any(self) -> Any:
        yield await self.readany()

    iter_chunked = readuntil = lambda self, *_: self.iter_any()

    def close(self) -> None:
        self.closed = True

    release = close


class Posting:
    """What session.post returns: it can be awaited, or used with `async with`."""

    def __init__(self, session: "FakeSession") -> None:
        self.session = session

    def __await__(self) -> Generator[Any, None, FakeAnswer]:
        return self._answer().__await__()

    async def _answer(self) -> FakeAnswer:
        await asyncio.sleep(self.session.headers_after_s)
        self.session.answered = True
        return self.session.answer

    async def __aenter__(self) -> FakeAnswer:
        return await self._answer()

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
            return type(e).__name__, e, now_s() - began_s

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
            raise Wrong("It goes on although it was cancelled. A CancelledError must be raised again.")
        if not session.answer.closed:
            raise Wrong(
                "When the client leaves, ask is cancelled. The answer is then still open, so the engine goes on. "
                "(CancelledError is a BaseException, no Exception.)"
            )

    for scene in (in_time, too_late, broken, cancelled):
        play(f, scene)


Script = list[
    tuple[float, bytes, bool, bytes]
]  # seconds until a block comes, the block, whether it has text, what is sent
STREAM: Script = [
    (0, b"role", False, b"role"), (2, b"Hel", True, b"Hel"), (1, b"lo", True, b""), (4, b" you", True, b"lo you"),
    (0.5, b"!", True, b"!"),
]  # fmt: skip
SEND_S = 3.0  # the client is slow


def pass_on(f: Function) -> None:
    async def scene() -> None:
        log: list[tuple[str, bytes]] = []
        came_s: list[float] = [now_s()]
        firsts: list[float] = []
        gaps: list[float] = []
        rest = STREAM[1:]
        events = SimpleNamespace(text_seen=False)

        def feed(block: bytes) -> bytes:
            log.append(("feed", block))
            events.text_seen = events.text_seen or any(text for _, one, text, _ in STREAM if one == block)
            return block

        def for_client(block: bytes) -> bytes:
            return next(out for _, one, _, out in STREAM if one == block)

        async def read() -> bytes:
            log.append(("read", b""))
            if not rest:
                return b""
            wait_s, block, _, _ = rest.pop(0)
            await asyncio.sleep(wait_s)
            came_s.append(now_s())
            return block

        async def send(out: bytes) -> None:
            log.append(("send", bytes(out)))
            await asyncio.sleep(SEND_S)
            log.append(("sent", bytes(out)))

        events.feed, events.for_client = feed, for_client
        arrived_s = now_s() - 10
        await f(
            STREAM[0][1], read, send, events, arrived_s,
            SimpleNamespace(observe=firsts.append), SimpleNamespace(observe=gaps.append),
        )  # fmt: skip
        judge_order(log)
        judge_times(came_s, firsts, gaps, arrived_s)

    play(f, scene)


def judge_order(log: list[tuple[str, bytes]]) -> None:
    sent = [out for what, out in log if what == "send"]
    blocks, outs = [block for _, block, _, _ in STREAM], [out for _, _, _, out in STREAM]
    fed = [block for what, block in log if what == "feed"]
    if fed == blocks[1:]:
        raise Wrong("The first block is not read: it is the argument `block`. Yours skipped it.")
    if fed != blocks:
        raise Wrong("Each block must go through events.feed(block), once, as it comes.")
    if b"" in sent:
        raise Wrong("events.for_client returned b'' (nothing can be sent yet), and yours sent that.")
    if sent == blocks:
        raise Wrong("Send what events.for_client(block) returns, not the block itself.")
    if b"".join(sent) != b"".join(outs):
        raise Wrong(f"The client should get {b''.join(outs)!r}; yours sent {b''.join(sent)!r}.")
    if len(sent) == 1:
        raise Wrong("All is sent at the end, in one piece. Send each block before the next is read.")
    # Between one read and the next, everything that came before has been sent.
    reads = [place for place, (what, _) in enumerate(log) if what == "read"]
    for number, place in enumerate(reads):
        before = [out for what, out in log[:place] if what == "sent"]
        if b"".join(before) != b"".join(outs[: number + 1]):
            raise Wrong(
                "A block was not on its way to the client when the next one was read. Send it first, and await that: a "
                "client that does not read must stop the reading from the engine."
            )


def judge_times(came_s: list[float], firsts: list[float], gaps: list[float], arrived_s: float) -> None:
    right, role = came_s[1] - arrived_s, came_s[0] - arrived_s
    if not firsts:
        raise Wrong("first_token.observe was not called.")
    if near(firsts[0], role):
        raise Wrong("The first block had only a role. The first token has come once events.text_seen is true.")
    if len(firsts) > 1:
        raise Wrong("first_token.observe must be called once per stream.")
    if near(firsts[0], right + SEND_S):
        raise Wrong("The time to first token contains the time of sending. Take the time when the block has come.")
    if not near(firsts[0], right):
        raise Wrong(f"Time to first token: {right:.1f} s from arrived_s to the first text; yours {firsts[0]:.1f} s.")
    wanted = [later - earlier for earlier, later in pairwise(came_s[1:])]
    if same(gaps, wanted):
        return
    if not gaps:
        raise Wrong("between.observe was not called.")
    if len(gaps) > len(wanted):
        raise Wrong("between.observe was called for a block before or with the first text: there is no gap yet.")
    if same(gaps, [wanted[0], *(gap - SEND_S for gap in wanted[1:])]) or len(gaps) == len(wanted):
        raise Wrong(
            f"The times between blocks should be {listed(wanted)} s, from one block's coming to the next one's; yours "
            f"are {listed(gaps)} s. Take the time once per block, when it has come, and not after sending."
        )
    raise Wrong("Each block after the first text has a time since the block before, also one of which nothing is sent.")


def near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6


def same(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(map(near, a, b))


def listed(seconds: list[float]) -> str:
    return ", ".join(f"{one:g}" for one in seconds)


def unless_client_leaves(f: Function) -> None:
    def connection(*messages: str) -> Callable[[], Awaitable[dict[str, Any]]]:
        """`receive`, which waits a second before each message, and for ever after the last."""
        rest = list(messages)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(1 if rest else 10_000)
            return {"type": rest.pop(0)}

        return receive

    async def work(state: dict[str, Any], seconds: float, error: Exception | None = None) -> None:
        try:
            await asyncio.sleep(seconds)
            if error:
                raise error
            state["ended"] = "to its end"
        except asyncio.CancelledError:
            state["ended"] = "cancelled"
            raise
        finally:
            await asyncio.sleep(0.5)  # closes its connection to the engine
            state["clean"] = True

    def left_over() -> bool:
        return len(asyncio.all_tasks()) > 1

    async def stays() -> None:
        state: dict[str, Any] = {}
        got = await f(work(state, 5), connection("http.request"))
        if state.get("ended") == "cancelled":
            raise Wrong("A message of another type than http.disconnect is no leaving client: go on listening.")
        if now_s() > 1100:
            raise Wrong("The work has ended, but the function still waits for the client. Stop listening then.")
        if got is not True:
            raise Wrong(f"The work ended while the client was there: return True. Yours returned {got!r}.")
        if left_over():
            raise Wrong("A task still listens to the connection after the return. Cancel it, and await its end.")

    async def leaves() -> None:
        state: dict[str, Any] = {}
        got = await f(work(state, 5000), connection("http.request", "http.disconnect"))
        if state.get("ended") == "to its end" or now_s() > 1500:
            raise Wrong("The client left after 2 s, and the work went on to its end: it keeps the engine's slot.")
        if not state.get("clean"):
            raise Wrong("When the function returns, the work has not cleaned up yet. After cancel(), await its end.")
        if got is not False:
            raise Wrong(f"The client left: return False. Yours returned {got!r}.")
        if left_over():
            raise Wrong("A task goes on after the return.")

    async def fails() -> None:
        error = ValueError("broken")
        try:
            await f(work({}, 1, error), connection())
        except ValueError as e:
            if e is error:
                if left_over():
                    raise Wrong("After an error of the work, a task still listens to the connection.") from None
                return
        raise Wrong("The work raised an error, which must be raised here, too. Yours swallowed it.")

    async def ends_itself() -> None:
        state: dict[str, Any] = {}
        task = asyncio.ensure_future(f(work(state, 5000), connection()))
        await asyncio.sleep(2)
        task.cancel()
        await asyncio.wait((task,), timeout=10)
        if not state.get("clean"):
            raise Wrong(
                "The function itself was cancelled (the gateway shuts down), and the work goes on. "
                "Cancel both tasks in a `finally`, and await them."
            )
        if not task.cancelled():
            raise Wrong("When the function itself is cancelled, it must end with CancelledError.")

    for scene in (stays, leaves, fails, ends_itself):
        play(f, scene)


class Named:
    """An engine of which only the name is needed."""

    def __init__(self, name: str) -> None:
        self.name = name


class Again(BaseException):
    """The function doesn't stop asking. No Exception, so that no `except Exception` catches it."""


def try_engines(f: Function) -> None:
    package = starter.package_of(LAB, f)
    failed_type, api_error = package["relay"].EngineFailed, package["errors"].ApiError
    first, second = Named("first"), Named("second")

    def failure(engine: Any) -> Any:
        return failed_type(engine, "reset", 502, "broke the connection", "engine_failed")

    nobody = api_error(503, "No engine is available.", "no_engine", 1)

    async def played(outcomes: list[Any], begun_after: int = 99, deadline_in_s: float = 100) -> tuple[Any, list[Any]]:
        """What it raised (None: it returned), and the sets with which `attempt` was called."""
        asked: list[Any] = []

        async def attempt(tried: Any) -> None:
            asked.append(tried)
            if len(asked) > 4:
                raise Again
            await asyncio.sleep(10)
            outcome = outcomes[len(asked) - 1] if len(asked) <= len(outcomes) else nobody
            if outcome is not None:
                raise outcome

        try:
            await f(attempt, lambda: len(asked) >= begun_after, now_s() + deadline_in_s)
        except (NotImplementedError, Wrong):
            raise
        except Again:
            raise Wrong(
                "It asks for ever. A failed engine must be in `tried`, and an end without engines ends it."
            ) from None
        except Exception as e:
            return e, asked
        return None, asked

    async def scene() -> None:
        raised, asked = await played([None])
        if raised or len(asked) != 1:
            raise Wrong("The first attempt succeeded: one attempt, and nothing is raised.")
        one = failure(first)
        raised, asked = await played([one, None])
        if raised is one:
            raise Wrong("The engine failed before the client had a byte: another engine must be tried.")
        if raised or len(asked) != 2:
            raise Wrong(f"One engine failed and the next answered: two attempts, nothing raised. Yours: {raised!r}.")
        if set(asked[0]) or set(asked[1]) != {first}:
            raise Wrong("`attempt` gets the engines that failed already: first none, then the failed one (`e.engine`).")
        raised, asked = await played([one, failure(second), None])
        if len(asked) == 3 and set(asked[2]) != {first, second}:
            raise Wrong("After two failures both engines are in `tried`. Yours forgot one.")
        raised, asked = await played([one, None], begun_after=1)
        if len(asked) > 1:
            raise Wrong(
                "The client had a part of the answer already, and the next engine began it again from the start. "
                "After the first byte there is no second attempt: has_begun()."
            )
        if raised is not one:
            raise Wrong("A failure after the first byte must be raised, so that the stream ends with an error.")
        raised, asked = await played([one, None], deadline_in_s=5)
        if len(asked) > 1:
            raise Wrong("The deadline had passed, and there was another attempt: compare time.monotonic().")
        if raised is not one:
            raise Wrong("After the deadline the engine's failure must be raised.")
        raised, asked = await played([one, nobody])
        if raised is nobody:
            raise Wrong("The client learns that there is no engine (left). It should learn why the engine failed.")
        if raised is not one:
            raise Wrong(f"With no engine left, the failure of the engine must be raised; yours: {raised!r}.")
        raised, asked = await played([nobody])
        if raised is not nobody:
            raise Wrong(f"There was no engine from the start: that ApiError must be raised; yours: {raised!r}.")
        odd = ValueError("a bug")
        raised, asked = await played([odd, None])
        if raised is not odd or len(asked) != 1:
            raise Wrong("Only EngineFailed is a reason to try again. Any other error must be raised at once.")

    play(f, scene)


EXERCISES = (
    Exercise(
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
    ),
    Exercise(
        "pass_on", "exercise-pass-on", 2, 3, 12,
        "The client sees each block when the engine has sent it, and a slow client slows only its own stream.",
        (
            "When may the next block be read: before or after this one was sent?",
            "Take the time at the top of the loop, when the block has just come.",
            "`had_text = events.text_seen` before feeding tells the first text from later blocks.",
        ),
        pass_on, FILE,
    ),
    Exercise(
        "unless_client_leaves", "exercise-unless-client-leaves", 3, 3, 15,
        "The slot of a client that has left is free for the next request at once.",
        (
            "Two things can happen first: the work ends, or a message says that the client has left.",
            "Make a task of each, and asyncio.wait with return_when=asyncio.FIRST_COMPLETED.",
            "In a `finally`: cancel both, then `await asyncio.gather(working, listening, return_exceptions=True)`.",
        ),
        unless_client_leaves, FILE,
    ),
    Exercise(
        "try_engines", "exercise-try-engines", 2, 3, 12,
        "A failure that the client can't see is repaired, and one that it has seen is reported.",
        (
            "What can be taken back, once the client has a part of the answer?",
            "Catch EngineFailed before ApiError, since it is one, and remember the failure.",
            "`tried = tried | {e.engine}`; raise instead if has_begun(), or time.monotonic() >= deadline_s.",
        ),
        try_engines, FILE,
    ),
)  # fmt: skip
