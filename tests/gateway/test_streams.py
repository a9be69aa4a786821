"""What an engine sent is what a client gets, and memory stays bounded whoever reads how slowly."""

import asyncio
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from tests.helpers.gateway import HELLO, Gateway, running
from tests.helpers.truth import TruthEngine

STREAMS = 500
NO_REUSE = httpx.Limits(max_keepalive_connections=0)  # the truth server closes some connections


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


@pytest.fixture(scope="module")
def gateway(truth: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    limits = {"limits": {"requests_per_minute": 10**6, "burst": 10**6, "concurrent": 1000}}
    with running(tmp_path_factory.mktemp("gateway"), {"truth": truth.url}, seats=64, idle_s=1.5, **limits) as gateway:
        yield gateway


def drawn(source: random.Random) -> dict[str, Any]:
    """A stream of any form that engines have."""
    return {
        "tokens": source.randint(1, 40),
        "ttft_s": 0.001,
        "gap_s": source.choice((0, 0.0005)),
        "per_chunk": source.choice((1, 1, 2, 5)),
        "first": source.choice(("role", "empty", "none")),
        "reasoning": source.choice((0, 0, 3)),
        "usage": source.choice((True, True, False)),
        "timings": source.choice((True, False)),
        "framing": source.choice(("chunked", "close", "exact")),
        "fault": source.choice(("", "split", "merge", "dribble", "nulls", "odd_choices", "odd_usage", "not_json")),
    }


def without_number(stream: bytes) -> bytes:
    return re.sub(rb"#\d{6}", b"#", stream)


async def compare(url: str, truth: str, plans: list[dict[str, Any]]) -> list[tuple[dict[str, Any], bytes, bytes]]:
    """Each plan's bytes, straight from the engine and through the gateway, where they differ."""
    few = asyncio.Semaphore(16)
    async with httpx.AsyncClient(trust_env=False, timeout=60, limits=NO_REUSE) as client:

        async def get(base: str, plan: dict[str, Any], path: str) -> bytes:
            options = {"stream": True, "stream_options": {"include_usage": True}, "truth": plan}
            body = {**HELLO, "prompt": "x", **options}
            answer = await client.post(base + path, json=body)
            return without_number(answer.content)

        async def one(plan: dict[str, Any], path: str) -> tuple[dict[str, Any], bytes, bytes]:
            async with few:
                return plan, await get(truth, plan, path), await get(url, plan, path)

        chat, plain = "/v1/chat/completions", "/v1/completions"  # a plain completion has no reasoning
        found = await asyncio.gather(*(one(p, chat if i % 2 or p["reasoning"] else plain) for i, p in enumerate(plans)))
    return [(plan, direct, through) for plan, direct, through in found if direct != through]


def test_streams_are_equal_byte_for_byte(gateway: Gateway, truth: TruthEngine) -> None:
    source = random.Random(7)
    assert asyncio.run(compare(gateway.url, truth.url, [drawn(source) for _ in range(STREAMS)])) == []


def test_tokens_of_a_key_are_exactly_what_the_engines_counted(gateway: Gateway) -> None:
    before = gateway.count("generation_tokens_total")
    source = random.Random(8)
    counts = [source.randint(1, 30) for _ in range(40)]
    for tokens in counts:
        plan = {"ttft_s": 0.001, "gap_s": 0}
        assert gateway.chat(stream=source.choice((True, False)), max_tokens=tokens, truth=plan).status_code == 200
    assert gateway.count("generation_tokens_total") - before == sum(counts)


def test_a_client_that_does_not_read_costs_no_memory_and_loses_its_seat(gateway: Gateway) -> None:
    process = psutil.Process(gateway.pid)
    port = int(gateway.url.rsplit(":", 1)[1])
    plan = '{"tokens": 60000, "gap_s": 0, "per_chunk": 50}'
    body = f'{{"model":"truth","messages":[],"stream":true,"max_tokens":9,"truth":{plan}}}'.encode()
    clients = []
    for _ in range(8):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        clients.append(client)
    before, most = process.memory_info().rss, 0
    end = time.monotonic() + 6
    while time.monotonic() < end and (gateway.count("num_requests_running") or most == 0):
        most = max(most, process.memory_info().rss - before)
        time.sleep(0.05)
    for client in clients:
        client.close()
    assert most < 30 * 2**20
    assert gateway.count("num_requests_running") == 0
