"""The loads of the gateways' benchmark, and what each lost or delayed by the truth server's record.

A Target is a truth server with a gateway in front of it, or with none. Each request names itself at the end of its
message, which every gateway passes on, so an answer finds its record even if its client left before the first token.
"""

import asyncio
import gc
import itertools
import json
import random
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import uvloop

from shared.load.client import Exchange, Trace
from shared.load.connection import Connection, Connections, Response
from shared.load.self_check import spread_of_lag, watch_lag
from shared.processes import descendants
from tests.bench.gateway_servers import Running
from tests.helpers.truth import TruthEngine

GAP_S = 0.02  # 50 tokens a second
TTFT_S = 0.05
LIMIT_S = 12  # for a whole answer
SAMPLE_S = 0.5
PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Request:
    """One request: when it is sent, and whether its client leaves."""

    at_s: float
    tokens: int
    key: str = "paid"
    gap_s: float = GAP_S
    leave_after_s: float | None = None  # counted from the sending


def streams(count: int, tokens: int, over_s: float) -> list[Request]:
    """Streams that start one after another within `over_s`, so that their tokens are spread over each gap."""
    return [Request(i * over_s / count, tokens) for i in range(count)]


def arrivals(per_s: float, seconds: float, key: str, tokens: int, seed: int) -> list[Request]:
    """An open loop: requests at random moments, whether or not earlier ones have ended.

    Their lengths vary around `tokens`, as those of chats do. Equal ones would end all at once, time after time.
    """
    source, now, found = random.Random(seed), 0.0, list[Request]()
    while (now := now + source.expovariate(per_s)) < seconds:
        found.append(Request(now, source.randint(tokens * 2 // 5, tokens * 8 // 5), key))
    return found


@dataclass
class Target:
    """Where requests go."""

    truth: TruthEngine
    gateway: Running | None = None  # None: straight to the truth server
    numbers: int = 0  # of requests so far

    @property
    def url(self) -> str:
        return self.gateway.url if self.gateway else self.truth.url

    def sample(self) -> "Sample":
        truth, machine = psutil.Process(descendants(self.truth.process.pid)[-1]), psutil.cpu_times()
        client_s, source_s = (sum(process.cpu_times()[:2]) for process in (psutil.Process(), truth))
        gateway_s = self.gateway.cpu_s() if self.gateway else 0.0
        all_s = machine.user + machine.nice + machine.system + machine.steal
        return Sample(time.perf_counter(), gateway_s, client_s, source_s, all_s - gateway_s - client_s - source_s)


class Sample(NamedTuple):
    """CPU seconds of everything that runs, at one moment. Client and token source share a core."""

    at_s: float
    gateway_s: float
    client_s: float
    source_s: float
    others_s: float

    def shares_since(self, then: "Sample") -> list[float]:
        """How much of one core each has used since then: gateway, client, token source, other programs."""
        took_s, *spent = (now - before for now, before in zip(self, then, strict=True))
        return [cpu_s / took_s for cpu_s in spent]


@dataclass
class Answer:
    """One request, its answer, and the server's record of it."""

    request: Request
    trace: Trace
    body: bytes
    status: int | None
    due_ns: int
    left_ns: int | None
    record: dict[str, Any] | None

    @property
    def sent_ns(self) -> list[int]:
        """When the server sent each token."""
        return [ns for ns, chunks in self.record["sends"] for _ in range(chunks)] if self.record else []

    def fault(self) -> str:
        """What is wrong with a whole answer; "" for none."""
        if self.trace.error:
            return self.trace.error
        counted, came, sent = self.trace.output_tokens, len(self.trace.chunks_ns), len(self.sent_ns)
        if not counted == came == sent == self.request.tokens:
            return f"{self.request.tokens} tokens asked for, {sent} sent, {came} received, {counted} counted"
        return ""

    def first_added_ms(self) -> float:
        """TTFT less the engine's own: both ways through the gateway, the client's lateness included."""
        assert self.record
        assert self.trace.ttft_ms is not None
        return self.trace.ttft_ms - (self.sent_ns[0] - self.record["received_ns"]) / 1e6

    def gaps_added_ms(self) -> list[float]:
        """Each inter-token latency less the engine's own. Negative where a late token is followed by one in time."""
        delays = self.delays_ms()
        return [later - earlier for earlier, later in itertools.pairwise(delays)]

    def delays_ms(self) -> list[float]:
        """How long each token was on its way, from the server's send() to the client."""
        return [(came - sent) / 1e6 for came, sent in zip(self.trace.chunks_ns, self.sent_ns, strict=True)]


@dataclass
class Outcome:
    """One load on one target."""

    answers: list[Answer]
    samples: list[Sample]  # from before the load until after it
    rss_mb: float  # of the gateway, the highest that was seen
    lag_ms: dict[str, float]  # how late the client's own event loop woke up: p50, p99, max

    @property
    def tokens(self) -> int:
        return sum(len(a.trace.chunks_ns) for a in self.answers)

    @property
    def cpu_us_per_token(self) -> float:
        return 1e6 * (self.samples[-1].gateway_s - self.samples[0].gateway_s) / max(self.tokens, 1)

    def busiest(self) -> str:
        """How busy each program was in its busiest time between two samples."""
        pairs = itertools.pairwise(self.samples)
        shares = [later.shares_since(earlier) for earlier, later in pairs if later.at_s - earlier.at_s > SAMPLE_S / 2]
        gateway, client, source, others = (max(values) for values in zip(*shares, strict=True))
        return f"of a core: gateway {gateway:.0%}, client {client:.0%}, token source {source:.0%}, others {others:.0%}"

    def faults(self) -> list[str]:
        return [fault for answer in self.answers if (fault := answer.fault())]

    def changed(self, original: bytes) -> int:
        """Answers whose bytes are not those of `original`."""
        return sum(plain(a.body) != original for a in self.answers if not a.trace.error)


def plain(body: bytes) -> bytes:
    """A body without the number of its answer."""
    return re.sub(rb"#\d{6}", b"#", body)


def run(target: Target, requests: Sequence[Request]) -> Outcome:
    """Send these requests, and return when all have ended."""
    first, target.numbers = target.numbers, target.numbers + len(requests)
    watch = Watch(target)
    gc.collect()
    gc.disable()  # a collection would delay a stamp
    try:
        sent = uvloop.run(_send_all(target, requests, first, watch))
    finally:
        gc.enable()
    records = {number_of(record["asked"]): record for record in settled(target, sent)}
    answers = []
    for number, (request, (exchange, due_ns, left_ns)) in enumerate(zip(requests, sent, strict=True), first):
        body, status = b"".join(exchange.response.pieces), exchange.response.status
        answers.append(Answer(request, exchange.trace(), body, status, due_ns, left_ns, records.get(number)))
    return Outcome(answers, watch.samples, max(watch.rss_mb), spread_of_lag(watch.lag_ms) or {})


class Watch:
    """Samples of all processes while a load runs, and how late the client's event loop is."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.samples: list[Sample] = []
        self.rss_mb: list[float] = []
        self.lag_ms: list[float] = []

    def look(self) -> None:
        self.samples.append(self.target.sample())
        self.rss_mb.append(self.target.gateway.rss_mb() if self.target.gateway else 0.0)

    async def go_on(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(SAMPLE_S)


Sent = tuple[Exchange, int, int | None]  # with the scheduled moment, and the one at which its client left


async def _send_all(target: Target, requests: Sequence[Request], first: int, watch: Watch) -> list[Sent]:
    begin_ns = time.perf_counter_ns() + 20_000_000
    async with Connections() as connections:

        async def one(number: int, request: Request) -> Sent:
            due_ns = begin_ns + int(request.at_s * 1e9)
            await asyncio.sleep((due_ns - time.perf_counter_ns()) / 1e9)
            exchange, left_ns = await _ask(target.url, request, number, connections)
            return exchange, due_ns, left_ns

        watching = [asyncio.create_task(watch_lag(watch.lag_ms)), asyncio.create_task(watch.go_on())]
        found = await asyncio.gather(*(one(number, request) for number, request in enumerate(requests, first)))
        for task in watching:
            task.cancel()
        watch.look()
        return list(found)


async def _ask(url: str, request: Request, number: int, connections: Connections) -> tuple[Exchange, int | None]:
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps(
        {
            "model": "truth",
            "messages": [{"role": "user", "content": f"request {number}"}],
            "max_tokens": request.tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "truth": {"ttft_s": TTFT_S, "gap_s": request.gap_s},
        }
    ).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer sk-{request.key}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    address = host, int(port)
    kept = connections.take(address)
    found = await _exchange(kept, head.encode() + body, request, connections) if kept else None
    if found is not None and not found[0].dropped:
        return found
    try:
        opened = await Connection.open(address)
    except OSError as e:
        now_ns = time.perf_counter_ns()
        return Exchange(PATH, now_ns, now_ns, Response(), f"no connection: {e}", True), None
    return await _exchange(opened, head.encode() + body, request, connections)


async def _exchange(
    connection: Connection, request_bytes: bytes, request: Request, connections: Connections
) -> tuple[Exchange, int | None]:
    sent_ns, response = connection.send(request_bytes)
    error, left_ns = None, None
    try:
        async with asyncio.timeout(request.leave_after_s or LIMIT_S):
            await connection.ended
    except TimeoutError:
        error = f"not finished within {LIMIT_S} s" if request.leave_after_s is None else "the client left"
    if response.reusable:
        connections.keep(connection.transport.get_extra_info("peername")[:2], connection)
    else:
        left_ns = time.perf_counter_ns() if error else None
        connection.drop()
        await asyncio.sleep(0)  # the loop closes its socket in its next turn
    end_ns = response.end_ns or time.perf_counter_ns()
    return Exchange(PATH, sent_ns, end_ns, response, error, False), left_ns


def number_of(asked: str) -> int:
    found = re.search(r"request (\d+)", asked)
    return int(found[1]) if found else -1


def settled(target: Target, sent: Iterable[Sent], patience_s: float = 3) -> list[dict[str, Any]]:
    """The server's records; where a client left, after waiting that the server notices it."""
    end = time.monotonic() + patience_s
    while True:
        records = target.truth.records()
        left = any(left_ns for _, _, left_ns in sent)
        if not left or time.monotonic() > end or all(record["closed_ns"] for record in records):
            return records
        time.sleep(0.2)
