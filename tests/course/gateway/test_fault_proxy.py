"""The fault proxy: what each fault does to an answer, and that nothing else is changed."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from shared.course.gateway.fault_proxy import ANSWERS, FAULTS, FaultProxy
from shared.load.client import Limits, Trace, stream
from tests.helpers.truth import TruthEngine

LIMITS = Limits(first_byte_s=1, idle_s=1)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    engine = TruthEngine.start(tmp_path_factory.mktemp("truth") / "log")
    yield engine
    engine.end()


@pytest.fixture
def proxy(truth: TruthEngine) -> Iterator[FaultProxy]:
    with FaultProxy(truth.url) as proxy:
        yield proxy


def asked(proxy: FaultProxy, tokens: int = 12) -> Trace:
    body = {"model": "truth", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": tokens}
    return asyncio.run(stream(proxy.url + "/v1/chat/completions", body, LIMITS))


def test_without_a_fault_it_passes_everything_on(proxy: FaultProxy) -> None:
    trace = asked(proxy)
    assert (trace.error, trace.output_tokens, proxy.posts) == (None, 12, 1)


ERRORS = {
    "status 500": "HTTP 500",
    "status 429": "HTTP 429",
    "status 429, Retry-After": "HTTP 429",
    "error event": "out of memory",
    "wrong length": "ended before",
    "hang before headers": "no first byte",
    "hang": "no bytes for 1 s",
    "reset": "reset",
    "half a character": "reset",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_met_once(proxy: FaultProxy, fault: str) -> None:
    proxy.plan(fault, after_events=3)
    trace = asked(proxy)
    assert ERRORS[fault] in str(trace.error)
    assert len(trace.texts) == (2 if fault in ("hang", "reset") else len(trace.texts)), "the first event is the role's"
    assert asked(proxy).error is None, "a planned fault is for one request"
    assert proxy.posts == 2


def test_the_answers_are_what_their_names_say() -> None:
    assert b"Retry-After: 7" in ANSWERS["status 429, Retry-After"]
    assert b"Retry-After" not in ANSWERS["status 429"]
    with pytest.raises(ValueError, match="none of the faults"):
        FaultProxy("http://127.0.0.1:1").plan("flood")


def test_it_refuses_and_comes_back_on_its_port(proxy: FaultProxy) -> None:
    port = proxy.port
    proxy.refuse()
    assert "no connection" in str(asked(proxy).error)
    proxy.accept()
    assert proxy.port == port
    assert asked(proxy).error is None


def test_a_client_that_leaves_before_the_answer_is_counted() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async def leaves() -> int:
        engine = await asyncio.start_server(silent, "127.0.0.1", 0)
        with FaultProxy(f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}") as proxy:
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            for _ in range(500):
                await asyncio.sleep(0.02)
                if proxy.posts:
                    writer.close()
                if proxy.abandoned:
                    break
            engine.close()
            return proxy.abandoned

    assert asyncio.run(leaves()) == 1


def test_an_engine_that_gives_no_answer_is_not_a_client_that_has_left() -> None:
    async def broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.transport.abort()

    async def asks() -> tuple[int, int]:
        engine = await asyncio.start_server(broken, "127.0.0.1", 0)
        with FaultProxy(f"http://127.0.0.1:{engine.sockets[0].getsockname()[1]}") as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            await asyncio.sleep(0.3)  # until the proxy is done with it, too
            writer.close()
            engine.close()
            return proxy.posts, proxy.abandoned

    assert asyncio.run(asks()) == (1, 0)
