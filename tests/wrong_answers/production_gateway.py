"""Lab 3.3.5."""

import asyncio
import contextlib
import hmac
import json
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from time import perf_counter
from typing import Any

import aiohttp
import httpx

from shared.course import registry, starter

REFERENCE = starter.reference_package(registry.find_lab("3.3.5"))
EngineFailed, ApiError = REFERENCE["relay"].EngineFailed, REFERENCE["errors"].ApiError
hash_of, EVENT = REFERENCE["keys"].hash_of, REFERENCE["metrics"].EVENT
data_of, parsed = REFERENCE["metrics"].data_of, REFERENCE["metrics"].parsed
Asked = tuple[Any, bytes]


def headers(request_id: str) -> dict[str, str]:
    return {"Content-Type": "application/json", "X-Request-Id": request_id}


def limits(connect_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=connect_s)


def how(request_id: str, connect_s: float) -> dict[str, Any]:
    return {"headers": headers(request_id), "timeout": limits(connect_s), "allow_redirects": False}


async def blocking(session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float) -> Any:
    answer = httpx.post(url, content=data, headers=headers(request_id), timeout=0.01)
    return answer, answer.content


async def closed_by_with(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    async with asyncio.timeout(first_byte_s):
        async with session.post(url, data=data, **how(request_id, connect_s)) as answer:
            return answer, await answer.content.readany()


async def whole_answer(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, **how(request_id, connect_s))
        return answer, await answer.content.read()


async def without_limit(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    answer = await session.post(url, data=data, **how(request_id, connect_s))
    return answer, await answer.content.readany()


async def total_limit(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    timeout = aiohttp.ClientTimeout(total=first_byte_s, connect=connect_s)
    answer = await session.post(url, data=data, headers=headers(request_id), timeout=timeout)
    return answer, await answer.content.readany()


async def two_limits(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, **how(request_id, connect_s))
    try:
        async with asyncio.timeout(first_byte_s):
            return answer, await answer.content.readany()
    except BaseException:
        answer.close()
        raise


async def left_open(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, **how(request_id, connect_s))
        return answer, await answer.content.readany()


async def open_when_cancelled(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    answer = None
    try:
        async with asyncio.timeout(first_byte_s):
            answer = await session.post(url, data=data, **how(request_id, connect_s))
            return answer, await answer.content.readany()
    except Exception:
        if answer:
            answer.close()
        raise


async def without_id(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    answer = await session.post(url, data=data, headers={"content-type": "application/json"}, timeout=limits(connect_s))
    return answer, await answer.content.readany()


async def redirected(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, headers=headers(request_id), timeout=limits(connect_s))
        try:
            return answer, await answer.content.readany()
        except BaseException:
            answer.close()
            raise


async def nothing_for_an_empty_body(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Any:
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, **how(request_id, connect_s))
        try:
            async for block in answer.content.iter_any():
                return answer, block
        except BaseException:
            answer.close()
            raise


async def first_line(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Any:
    answer = None
    try:
        async with asyncio.timeout(first_byte_s):
            answer = await session.post(url, data=data, **how(request_id, connect_s))
            return answer, await answer.content.readline()
    except BaseException:
        if answer is not None:
            answer.close()
        raise


async def closes_inside_the_limit(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Any:
    async with asyncio.timeout(first_byte_s):
        answer = await session.post(url, data=data, **how(request_id, connect_s))
        try:
            return answer, await answer.content.readany()
        except Exception:
            answer.close()
            raise


async def ask_in_a_task(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    async with asyncio.timeout(first_byte_s):
        answer = await asyncio.create_task(session.post(url, data=data, **how(request_id, connect_s)))
        try:
            return answer, await answer.content.readany()
        except BaseException:
            answer.close()
            raise


async def ask_otherwise(
    session: Any, url: str, data: bytes, request_id: str, connect_s: float, first_byte_s: float
) -> Asked:
    answer: Any = None

    async def both() -> Asked:
        nonlocal answer
        answer = await session.post(url, data=data, **how(request_id, connect_s))
        return answer, await answer.content.read(65_536)

    try:
        return await asyncio.wait_for(both(), first_byte_s)
    except BaseException:
        if answer is not None:
            answer.close()
        raise


Read = Callable[[], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]


async def swallows_errors(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    with contextlib.suppress(Exception):
        await pass_on_otherwise(block, read, send, events, arrived_s, first_token, between)


async def swallows_its_end(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await pass_on_otherwise(block, read, send, events, arrived_s, first_token, between)


async def all_at_the_end(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    out = b""
    while block:
        events.feed(block)
        out += events.for_client(block)
        block = await read()
    await send(out)


async def one_behind(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    while block:
        events.feed(block)
        following = await read()
        if out := events.for_client(block):
            await send(out)
        block = following


async def not_awaited(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    tasks = []
    while block:
        events.feed(block)
        if out := events.for_client(block):
            tasks.append(asyncio.ensure_future(send(out)))
        block = await read()
    await asyncio.gather(*tasks)


async def raw_blocks(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    while block:
        events.feed(block)
        await send(block)
        block = await read()


async def empty_sends(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    while block:
        events.feed(block)
        await send(events.for_client(block))
        block = await read()


async def first_lost(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    while block := await read():
        events.feed(block)
        if out := events.for_client(block):
            await send(out)


async def role_is_first(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    first_token.observe(time.perf_counter() - arrived_s)
    while block:
        events.feed(block)
        if out := events.for_client(block):
            await send(out)
        block = await read()


async def after_sending(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    before_s = 0.0
    while block:
        had_text = events.text_seen
        events.feed(block)
        if out := events.for_client(block):
            await send(out)
        now_s = time.perf_counter()
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        before_s = now_s
        block = await read()


async def gaps_after_sending(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    before_s = 0.0
    while block:
        now_s, had_text = time.perf_counter(), events.text_seen
        events.feed(block)
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        if out := events.for_client(block):
            await send(out)
        before_s = time.perf_counter()
        block = await read()


async def by_the_clock_of_the_day(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    before_s = 0.0
    while block:
        now_s, had_text = time.time(), events.text_seen
        events.feed(block)
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        before_s = now_s
        if out := events.for_client(block):
            await send(out)
        block = await read()


async def every_gap(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    before_s, first = time.perf_counter(), True
    while block:
        now_s = time.perf_counter()
        events.feed(block)
        between.observe(now_s - before_s)
        if events.text_seen and first:
            first_token.observe(now_s - arrived_s)
            first = False
        before_s = now_s
        if out := events.for_client(block):
            await send(out)
        block = await read()


async def only_a_role_expected(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    """Takes for granted that the first block has no text."""
    events.feed(block)
    if out := events.for_client(block):
        await send(out)
    before_s = 0.0
    while block := await read():
        now_s, had_text = time.perf_counter(), events.text_seen
        events.feed(block)
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        before_s = now_s
        if out := events.for_client(block):
            await send(out)


async def asked_before_fed(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    before_s = 0.0
    while block:
        now_s, had_text = time.perf_counter(), events.text_seen
        out = events.for_client(block)
        events.feed(block)
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        before_s = now_s
        if out:
            await send(out)
        block = await read()


async def gap_at_the_end(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    last_s = 0.0
    while True:
        now_s, had = time.perf_counter(), events.text_seen
        if block:
            events.feed(block)
        if had:
            between.observe(now_s - last_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        last_s = now_s
        if not block:
            return
        if out := events.for_client(block):
            await send(out)
        block = await read()


async def pass_on_otherwise(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    stamps: list[float] = []
    while block:
        came_s = time.perf_counter()
        events.feed(block)
        if events.text_seen:
            if stamps:
                between.observe(came_s - stamps[-1])
            else:
                first_token.observe(came_s - arrived_s)
            stamps.append(came_s)
        out = events.for_client(block)
        if len(out) > 0:
            await send(out)
        block = await read()


Receive = Callable[[], Awaitable[Any]]


async def pass_on_by_an_imported_clock(
    block: bytes, read: Read, send: Send, events: Any, arrived_s: float, first_token: Any, between: Any
) -> None:
    before_s = 0.0
    while block:
        now_s, had_text = perf_counter(), events.text_seen
        events.feed(block)
        if had_text:
            between.observe(now_s - before_s)
        elif events.text_seen:
            first_token.observe(now_s - arrived_s)
        before_s = now_s
        if out := events.for_client(block):
            await send(out)
        block = await read()


async def not_listening(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    await work
    return True


async def any_message(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(receive())
    await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    ended = working.done()
    for task in (working, listening):
        task.cancel()
    await asyncio.gather(working, listening, return_exceptions=True)
    return ended


async def until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancelled_only(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    ended = working.done()
    working.cancel()
    listening.cancel()
    await asyncio.sleep(0)
    if ended:
        working.result()
    return ended


async def still_listening(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
        return True
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    return False


async def swallowed(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    ended = working.done()
    working.cancel()
    listening.cancel()
    await asyncio.gather(working, listening, return_exceptions=True)
    return ended


async def not_for_itself(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    ended = working.done()
    working.cancel()
    listening.cancel()
    await asyncio.gather(working, listening, return_exceptions=True)
    if ended:
        working.result()
    return ended


async def listening_first(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    try:
        done, _ = await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        listening.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)
    if listening in done:
        return False
    working.result()
    return True


async def returns_nothing(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    working = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(until_left(receive))
    await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    working.cancel()
    listening.cancel()
    await asyncio.gather(working, listening, return_exceptions=True)


async def listens_after_its_own_end(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working, listening = asyncio.ensure_future(work), asyncio.ensure_future(until_left(receive))
    try:
        await asyncio.wait((working, listening), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        raise
    done = working.done()
    for task in (working, listening):
        task.cancel()
    await asyncio.gather(working, listening, return_exceptions=True)
    if done:
        working.result()
    return done


async def in_a_group(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    left = False

    async def listen() -> None:
        nonlocal left
        await until_left(receive)
        if not working.done():
            left = True
            working.cancel()

    async with asyncio.TaskGroup() as group:
        working = group.create_task(work)
        listening = group.create_task(listen())
        working.add_done_callback(lambda _: listening.cancel())
    return not left


async def gathers(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    working = asyncio.ensure_future(work)

    async def left() -> None:
        await until_left(receive)
        working.cancel()

    await asyncio.gather(working, left())
    return not working.cancelled()


async def unless_otherwise(work: Coroutine[Any, Any, None], receive: Receive) -> bool:
    left = False

    async def listen() -> None:
        nonlocal left
        await until_left(receive)
        if not working.done():
            left = True
            working.cancel()

    working: asyncio.Task[None] = asyncio.ensure_future(work)
    listening = asyncio.ensure_future(listen())
    try:
        await working
        return True
    except asyncio.CancelledError:
        if not left:
            raise
        return False
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


def no_rest(self: Any, block: bytes) -> bytes:
    self.whole = block
    for event in EVENT.findall(block):
        self.note(data_of(event))
    self.done = self.done or block.strip() == b"data: [DONE]"
    return block


def by_text(self: Any, block: bytes) -> bytes:
    data = self.rest + block.decode().encode()
    end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4, 0)
    end = 0 if end < 4 else end
    self.whole, self.rest = data[:end], data[end:]
    look_into(self)
    return bytes(self.whole)


def half_characters_lost(self: Any, block: bytes) -> bytes:
    return feed_otherwise(self, block.decode(errors="ignore").encode())


def done_again(self: Any, block: bytes) -> bytes:
    whole = feed_otherwise(self, block)
    for event in EVENT.findall(whole):
        self.done = data_of(event) == b"[DONE]"
    return whole


def look_into(self: Any) -> None:
    for event in EVENT.findall(self.whole):
        if data_of(event) == b"[DONE]":
            self.done = True
        else:
            self.note(data_of(event))


def take_in(self: Any, block: bytes, *ends: bytes) -> None:
    data = self.rest + block
    end = max(data.rfind(one) + len(one) if one in data else 0 for one in ends)
    self.whole, self.rest = data[:end], data[end:]


def only_newlines(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n")
    look_into(self)
    return bytes(self.whole)


def done_in_text(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n", b"\n\r\n")
    look_into(self)
    self.done = self.done or b"[DONE]" in self.whole
    return bytes(self.whole)


def done_with_a_space(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n", b"\n\r\n")
    for event in EVENT.findall(self.whole):
        if event.strip() == b"data: [DONE]":
            self.done = True
        else:
            self.note(data_of(event))
    return bytes(self.whole)


def role_is_text(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n", b"\n\r\n")
    look_into(self)
    self.text_seen = self.text_seen or b'"delta"' in self.whole
    return bytes(self.whole)


def counts_chunks(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n", b"\n\r\n")
    look_into(self)
    self.usage = (self.usage if isinstance(self.usage, int) else 0) + self.whole.count(b"data: ")
    return bytes(self.whole)


def null_wins(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n", b"\n\r\n")
    for event in EVENT.findall(self.whole):
        found = parsed(data_of(event))
        self.note(data_of(event))
        self.usage = found.get("usage")
        self.done = self.done or event.strip() == b"data: [DONE]"
    return bytes(self.whole)


def raises(self: Any, block: bytes) -> bytes:
    take_in(self, block, b"\n\n", b"\n\r\n")
    for event in EVENT.findall(self.whole):
        if event.startswith(b"data:") and event.strip() != b"data: [DONE]":
            self.note(json.dumps(json.loads(event[5:])).encode())
    return bytes(self.whole)


def feed_nothing(self: Any, block: bytes) -> None:
    take_in(self, block, b"\n\n", b"\n\r\n")
    look_into(self)


def feed_whole_stays(self: Any, block: bytes) -> bytes:
    """self.whole keeps the events of the block before, where none becomes whole."""
    data = self.rest + block
    end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
    if end <= 2:
        self.rest = data
        return b""
    self.whole, self.rest = data[:end], data[end:]
    look_into(self)
    return bytes(self.whole)


def feed_splits(self: Any, block: bytes) -> bytes:
    data = (self.rest + block).replace(b"\r\n", b"\n")
    head, self.rest = data.rsplit(b"\n\n", 1)
    self.whole = head + b"\n\n"
    look_into(self)
    return bytes(self.whole)


def feed_otherwise(self: Any, block: bytes) -> bytes:
    data, found = self.rest + block, []
    while match := EVENT.match(data):
        found.append(match[0])
        data = data[match.end() :]
    self.whole, self.rest = b"".join(found), data
    look_into(self)
    return bytes(self.whole)


Attempt = Callable[[frozenset[Any]], Awaitable[None]]


async def hides_a_later_error(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            failure, tried = e, tried | {e.engine}
            if has_begun() or time.monotonic() >= deadline_s:
                raise
        except Exception as e:
            raise failure or e from None


async def one_attempt(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    await attempt(frozenset())


async def after_the_first_byte(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while time.monotonic() < deadline_s:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None
    raise failure or RuntimeError


async def beyond_the_deadline(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun():
                raise
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None


async def another_clock(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or time.time() >= deadline_s:
                raise
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None


async def same_engine(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    while True:
        try:
            return await attempt(frozenset())
        except EngineFailed:
            if has_begun() or time.monotonic() >= deadline_s:
                raise


async def only_the_last(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            failure, tried = e, frozenset({e.engine})
        except ApiError as e:
            raise failure or e from None


async def no_second_one(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            tried |= {e.engine}


async def any_error(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None
        except ValueError:
            continue


async def a_set_that_grows(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    """The queue keeps `tried` in a set, so it must have a hash."""
    tried: Any = set()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            failure = e
            tried.add(e.engine)
        except ApiError as e:
            raise failure or e from None


async def only_once_more(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    try:
        return await attempt(frozenset())
    except EngineFailed as e:
        if has_begun() or time.monotonic() >= deadline_s:
            raise
        failure = e
    try:
        await attempt(frozenset({failure.engine}))
    except EngineFailed:
        raise
    except ApiError:
        raise failure from None


async def the_first_failure(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            failure, tried = failure or e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None


async def three_times(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    for _ in range(3):
        try:
            await attempt(tried)
            break
        except EngineFailed as e:
            if has_begun() or time.monotonic() >= deadline_s:
                raise
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None


async def not_if_busy(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    tried: frozenset[Any] = frozenset()
    failure = None
    while True:
        try:
            return await attempt(tried)
        except EngineFailed as e:
            if has_begun() or e.status < 500 or time.monotonic() >= deadline_s:
                raise
            failure, tried = e, tried | {e.engine}
        except ApiError as e:
            raise failure or e from None


async def try_otherwise(attempt: Attempt, has_begun: Callable[[], bool], deadline_s: float) -> None:
    failures: list[Any] = []
    while not failures or (not has_begun() and time.monotonic() < deadline_s):
        try:
            await attempt(frozenset(one.engine for one in failures))
        except EngineFailed as e:
            failures.append(e)
        except ApiError:
            if not failures:
                raise
            break
        else:
            return
    raise failures[-1]


def own_clock(self: Any) -> float:
    self.clock = time.perf_counter
    return take_otherwise(self)


def nothing_for_the_refused(self: Any) -> float | None:
    wait_s = take_otherwise(self)
    return None if wait_s else wait_s


def half_a_token(self: Any) -> float:
    now = self.clock()
    self.level = min(self.burst, self.level + (now - self.at_s) * self.rate_per_s)
    self.at_s = now
    if self.level > 0:
        self.level -= 1
        return 0.0
    return float((1 - self.level) / self.rate_per_s)


def whole_wait(self: Any) -> float:
    now = self.clock()
    self.level = min(self.burst, self.level + (now - self.at_s) * self.rate_per_s)
    self.at_s = now
    if self.level < 1:
        return float(1 / self.rate_per_s)
    self.level -= 1
    return 0.0


def no_ceiling(self: Any) -> float:
    now = self.clock()
    self.level += (now - self.at_s) * self.rate_per_s
    self.at_s = now
    if self.level < 1:
        return float((1 - self.level) / self.rate_per_s)
    self.level -= 1
    return 0.0


def takes_anyway(self: Any) -> float:
    now = self.clock()
    self.level = min(self.burst, self.level + (now - self.at_s) * self.rate_per_s)
    self.at_s = now
    self.level -= 1
    return 0.0 if self.level >= 0 else float(-self.level / self.rate_per_s)


def never_refused(self: Any) -> float:
    self.level -= 1
    return 0.0


def whole_tokens(self: Any) -> float:
    now = self.clock()
    self.level = min(self.burst, self.level + int((now - self.at_s) * self.rate_per_s))
    self.at_s = now
    if self.level < 1:
        return float((1 - self.level) / self.rate_per_s)
    self.level -= 1
    return 0.0


def counted_twice(self: Any) -> float:
    now = self.clock()
    level = min(self.burst, self.level + (now - self.at_s) * self.rate_per_s)
    if level < 1:
        return float((1 - level) / self.rate_per_s)
    self.level = level - 1
    return 0.0


def per_minute(self: Any) -> float:
    now = self.clock()
    self.level = min(self.burst, self.level + (now - self.at_s) * self.rate_per_s)
    self.at_s = now
    if self.level < 1:
        return float(1 / self.rate_per_s * 60)
    self.level -= 1
    return 0.0


def true_or_false(self: Any) -> bool:
    if self.level >= 1:
        self.level -= 1
        return True
    return False


def take_otherwise(self: Any) -> float:
    passed_s = self.clock() - self.at_s
    self.at_s += passed_s
    self.level = self.level + passed_s * self.rate_per_s
    if self.level > self.burst:
        self.level = float(self.burst)
    lacking = 1 - self.level
    if lacking > 0:
        return float(lacking / self.rate_per_s)
    self.level = -lacking
    return 0


def by_equality(token: str, keys: Iterable[Any], secret: bytes) -> Any:
    wanted = hash_of(token, secret)
    found = None
    for key in keys:
        if key.hash == wanted:
            found = key
    return found


def early_end(token: str, keys: Iterable[Any], secret: bytes) -> Any:
    wanted = hash_of(token, secret)
    for key in keys:
        if hmac.compare_digest(key.hash, wanted):
            return key
    return None


def unhashed(token: str, keys: Iterable[Any], secret: bytes) -> Any:
    found = None
    for key in keys:
        if hmac.compare_digest(key.hash, token):
            found = key
    return found


def yes_or_no(token: str, keys: Iterable[Any], secret: bytes) -> bool:
    wanted = hash_of(token, secret)
    matches = [hmac.compare_digest(key.hash, wanted) for key in keys]
    return any(matches)


def overwrites(token: str, keys: Iterable[Any], secret: bytes) -> Any:
    wanted, found = hash_of(token, secret), None
    for key in keys:
        found = key if hmac.compare_digest(wanted, key.hash) else None
    return found


def find_otherwise(token: str, keys: Iterable[Any], secret: bytes) -> Any:
    matching = [key for key in keys if hmac.compare_digest(hash_of(token, secret), key.hash)]
    return matching[0] if matching else None


def find_by_secrets(token: str, keys: Iterable[Any], secret: bytes) -> Any:
    """The module `secrets`, which the file has imported already, has the same function."""
    wanted, found = hash_of(token, secret), None
    for key in keys:
        if secrets.compare_digest(wanted, key.hash):
            found = key
    return found


ANSWERS = {
    "ask": [
        ("did not go through `session`", blocking),
        ("closed when it is returned", closed_by_with),
        ("waits for the whole answer", whole_answer),
        ("must raise TimeoutError after 5 s", without_limit),
        ("would cut a long answer", total_limit),
        ("headers and the first block together", two_limits),
        ("still open, so the engine goes on generating", left_open),
        ("which `except Exception` doesn't catch", closes_inside_the_limit),
        ("yours returned b'data: first\\n'", first_line),
        ("CancelledError is a BaseException", open_when_cancelled),
        ("request id is not passed on", without_id),
        ("A redirect is an answer", redirected),
        ("An engine's body can be empty", nothing_for_an_empty_body),
    ],
    "pass_on": [
        ("in one piece", all_at_the_end),
        ("Send it first, and await that", one_behind),
        ("Send it first, and await that", not_awaited),
        ("not the block itself", raw_blocks),
        ("and yours sent that", empty_sends),
        ("Yours skipped it", first_lost),
        ("had only a role", role_is_first),
        ("contains the time of sending", after_sending),
        ("not after sending", gaps_after_sending),
        ("behind the block with the first text", every_gap),
        ("broke the connection, and yours swallowed it", swallows_errors),
        ("swallowed the CancelledError", swallows_its_end),
        ("at the stream's end", gap_at_the_end),
        ("the clock of the day", by_the_clock_of_the_day),
        ("The first block may have text already", only_a_role_expected),
        ("Call events.feed(block) first", asked_before_fed),
    ],
    "unless_client_leaves": [
        ("keeps the engine's slot", not_listening),
        ("go on listening", any_message),
        ("not cleaned up yet", cancelled_only),
        ("still listens to the connection", still_listening),
        ("swallowed it", swallowed),
        ("the gateway shuts down", not_for_itself),
        ("also comes once the answer is complete", listening_first),
        ("return True. Yours returned None", returns_nothing),
        ("Cancel both", listens_after_its_own_end),
        ("wraps it in a group", in_a_group),
        ("still waits for the client", gathers),
    ],
    "feed": [
        ("arrives in pieces", no_rest),
        ("keep bytes", by_text),
        ("no longer the stream's bytes", half_characters_lost),
        ("has reset `done`", done_again),
        ("(Lines end with '\\r\\n' here.)", only_newlines),
        ("too early", done_in_text),
        ("data:[DONE] has no space", done_with_a_space),
        ("only a role", role_is_text),
        ("Chunks are no tokens", counts_chunks),
        ("`usage` may be null", null_wins),
        ("must never raise", raises),
        ("returned nothing", feed_nothing),
        ("older ones would go out twice", feed_whole_stays),
        ("A block may hold no end of an event", feed_splits),
    ],
    "try_engines": [
        ("another engine must be tried", one_attempt),
        ("began it again from the start", after_the_first_byte),
        ("deadline had passed", beyond_the_deadline),
        ("time.monotonic() is before deadline_s", another_clock),
        ("first none, then the failed one", same_engine),
        ("forgot one", only_the_last),
        ("gets a frozenset", a_set_that_grows),
        ("a third would have answered", only_once_more),
        ("a seventh would have answered", three_times),
        ("whatever its status", not_if_busy),
        ("the failure of the last one", the_first_failure),
        ("why the engine failed", no_second_one),
        ("Any other error must be raised at once", any_error),
        ("Any other error must be raised at once", hides_a_later_error),
    ],
    "take": [
        ("never exceeds it", no_ceiling),
        ("refused request took a token", takes_anyway),
        ("the request got in", never_refused),
        ("keep fractions", whole_tokens),
        ("yours returned None", nothing_for_the_refused),
        ("another clock", own_clock),
        ("needs a whole one", half_a_token),
        ("does the wait count them", whole_wait),
        ("counted twice", counted_twice),
        ("after 0.5 s", per_minute),
        ("three tokens at once", true_or_false),
    ],
    "find_key": [
        ("hmac.compare_digest", by_equality),
        ("go on after a match", early_end),
        ("hash_of(token, secret)", unhashed),
        ("a later comparison overwrote it", overwrites),
        ("Return the key itself", yes_or_no),
    ],
}
RIGHT = {
    "ask": ask_otherwise,
    "pass_on": pass_on_otherwise,
    "unless_client_leaves": unless_otherwise,
    "feed": feed_otherwise,
    "try_engines": try_otherwise,
    "take": take_otherwise,
    "find_key": find_otherwise,
}
ALSO_RIGHT = {"ask": [ask_in_a_task], "pass_on": [pass_on_by_an_imported_clock], "find_key": [find_by_secrets]}
