"""The errors and the cost of our client, compared with widely used clients.

    make bench-client

The truth server has one core for itself, the client another. Each client sends the same requests and records the same:
when each chunk with text arrived, and how many tokens the engine reported. Two loads:

- staggered: 256 streams of 50 tokens/s, 128 of them at any time, their tokens spread evenly in time;
- burst: 128 requests at once on open connections, ten times.

An error is the client's figure minus the server's (tests/helpers/truth.py). CPU seconds and memory are those of the
whole process.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from shared.hardware import detect
from shared.load.client import Exchange, exchange
from shared.load.connection import Connections
from tests.helpers.truth import TruthEngine

STREAMS = 128
GAP_S = 0.02
TOKENS = 256
TTFT_S = 0.05
BURSTS = 10
GENERATIONS = 2  # of 128 staggered streams
ANSWER = {"ttft_s": TTFT_S, "gap_s": GAP_S}
# A stream lasts 255 gaps, in which 127 others begin, so that the tokens of all streams are spread evenly.
STEP_S = (TOKENS - 1) * GAP_S / STREAMS


@dataclass
class Seen:
    """What a client recorded of one answer."""

    sent_ns: int
    arrivals_ns: list[int] = field(default_factory=list)
    first: str = ""  # the first text, which identifies the answer
    tokens: int = 0

    def chunk(self, now_ns: int, said: dict[str, Any]) -> None:
        for choice in said["choices"]:
            if text := choice["delta"].get("content"):
                self.arrivals_ns.append(now_ns)
                self.first = self.first or text
        if usage := said.get("usage"):
            self.tokens = usage["completion_tokens"]


def body(tokens: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Count."}]
    return {"model": "truth", "messages": messages, "max_tokens": tokens, "truth": ANSWER}


def streamed(tokens: int) -> dict[str, Any]:
    return {**body(tokens), "stream": True, "stream_options": {"include_usage": True}}


# Each client is opened once, then called for one answer at a time. Its return values become a Seen after the load.
Ask = Callable[[int], Awaitable[Any]]


@contextlib.asynccontextmanager
async def ours(url: str) -> AsyncIterator[Ask]:
    async with Connections() as connections:

        async def ask(tokens: int) -> Exchange:
            return await exchange(url + "/v1/chat/completions", body(tokens), connections=connections)

        yield ask


@contextlib.asynccontextmanager
async def aiohttp(url: str) -> AsyncIterator[Ask]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask(tokens: int) -> Seen:
            seen = Seen(time.perf_counter_ns())
            async with session.post(url + "/v1/chat/completions", json=streamed(tokens)) as response:
                async for line in response.content:
                    now_ns = time.perf_counter_ns()
                    if line.startswith(b"data: {"):
                        seen.chunk(now_ns, json.loads(line[6:]))
            return seen

        yield ask


@contextlib.asynccontextmanager
async def httpx(url: str) -> AsyncIterator[Ask]:
    import httpx

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60) as session:

        async def ask(tokens: int) -> Seen:
            seen = Seen(time.perf_counter_ns())
            async with session.stream("POST", url + "/v1/chat/completions", json=streamed(tokens)) as response:
                async for line in response.aiter_lines():
                    now_ns = time.perf_counter_ns()
                    if line.startswith("data: {"):
                        seen.chunk(now_ns, json.loads(line[6:]))
            return seen

        yield ask


@contextlib.asynccontextmanager
async def openai(url: str) -> AsyncIterator[Ask]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=60) as client:

        async def ask(tokens: int) -> Seen:
            asked = streamed(tokens)
            truth = {"truth": asked.pop("truth")}
            seen = Seen(time.perf_counter_ns())
            async for chunk in await client.chat.completions.create(**asked, extra_body=truth):
                now_ns = time.perf_counter_ns()
                for choice in chunk.choices:
                    if choice.delta.content:
                        seen.arrivals_ns.append(now_ns)
                        seen.first = seen.first or choice.delta.content
                if chunk.usage:
                    seen.tokens = chunk.usage.completion_tokens
            return seen

        yield ask


CLIENTS = {"this client": ours, "aiohttp": aiohttp, "httpx": httpx, "openai SDK": openai}


def read(answer: Any) -> Seen:
    """Our client reads the answers afterwards, which is part of its cost."""
    if isinstance(answer, Seen):
        return answer
    trace = answer.trace()
    assert trace.error is None, trace.error
    return Seen(trace.sent_ns, list(trace.arrivals_ns), trace.texts[0], trace.output_tokens or 0)


async def staggered(ask: Ask) -> list[Any]:
    begin = time.perf_counter()

    async def one(number: int) -> Any:
        await asyncio.sleep(begin + number * STEP_S - time.perf_counter())
        return await ask(TOKENS)

    return await asyncio.gather(*(one(n) for n in range(GENERATIONS * STREAMS)))


async def burst(ask: Ask) -> list[Any]:
    answers: list[Any] = []
    for _ in range(BURSTS):
        await asyncio.sleep(0.2)
        answers += await asyncio.gather(*(ask(10) for _ in range(STREAMS)))
    return answers


async def work(name: str, load: str, url: str) -> dict[str, Any]:
    """Measure one client under one load, after a warm-up that opens its connections."""
    async with CLIENTS[name](url) as ask:
        warm = [read(a) for a in await asyncio.gather(*(ask(4) for _ in range(STREAMS)))]
        assert all(seen.tokens == 4 for seen in warm)
        gc.collect()
        room, cpu = peak_kib(), cpu_s()
        answers = await (staggered if load == "staggered" else burst)(ask)
        seen = [read(answers.pop()) for _ in range(len(answers))]
        return {"cpu_s": cpu_s() - cpu, "kib": peak_kib() - room, "seen": [vars(s) for s in seen]}


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass
class Result:
    """One client under one load."""

    ttft_ms: list[float]
    itl_percent: list[float]
    tokens: int
    cpu_s: float
    kib: int


def measure(name: str, load: str, server_core: int, client_core: int) -> Result:
    """Run each client in a process of its own, so that they don't influence each other."""
    with tempfile.TemporaryDirectory() as folder, TruthEngine.start(Path(folder) / "log", server_core) as engine:
        command = [sys.executable, __file__, "--client", name, "--load", load, "--url", engine.url]
        done = subprocess.run([*command, "--core", str(client_core)], stdout=subprocess.PIPE, check=True)
        said, records = json.loads(done.stdout), engine.records()
    ttft_ms: list[float] = []
    itl_percent: list[float] = []
    for seen in said["seen"]:
        record = records[int(seen["first"][1:7]) - 1]
        sent = [ns for ns, chunks in record["sends"] for _ in range(chunks)]
        came = seen["arrivals_ns"]
        assert len(sent) == len(came) == seen["tokens"], f"{name} lost tokens"
        ttft_ms.append(((came[0] - seen["sent_ns"]) - (sent[0] - record["received_ns"])) / 1e6)
        itl_percent.append(abs((came[-1] - came[0]) / (sent[-1] - sent[0]) - 1) * 100)
    return Result(ttft_ms, itl_percent, sum(s["tokens"] for s in said["seen"]), said["cpu_s"], said["kib"])


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


GOALS = (  # of our client: column, figure, whether it must be at least or at most the goal
    ("tokens per CPU-second", 40_000.0, "at least"),
    ("TTFT error p50, ms, staggered", 0.5, "at most"),
    ("TTFT error p99, ms, staggered", 3.0, "at most"),
    ("TTFT error p50, ms, burst", 5.0, "at most"),
    ("TTFT error p99, ms, burst", None, ""),
    ("mean ITL error, %", 0.1, "at most"),
    ("memory per token, KiB", 2.0, "at most"),
)


def figures(calm: list[Result], bursts: list[Result]) -> list[float]:
    """The figures in the order of GOALS, with all rounds pooled."""
    ttft = [ms for r in calm for ms in r.ttft_ms]
    sudden = [ms for r in bursts for ms in r.ttft_ms]
    return [
        sum(r.tokens for r in calm) / sum(r.cpu_s for r in calm),
        percentile(ttft, 0.5),
        percentile(ttft, 0.99),
        percentile(sudden, 0.5),
        percentile(sudden, 0.99),
        statistics.fmean(p for r in calm for p in r.itl_percent),
        max(r.kib / r.tokens for r in calm),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", default=",".join(CLIENTS))
    for option in ("--client", "--load", "--url", "--core"):  # a child's
        parser.add_argument(option, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        os.sched_setaffinity(0, {int(given.core)})
        json.dump(uvloop.run(work(given.client, given.load, given.url)), sys.stdout)
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise SystemExit("This needs two cores: one for the server, one for the client.")
    names = given.clients.split(",")
    results: dict[tuple[str, str], list[Result]] = {}
    for number in range(given.rounds):  # interleaved: the machine drifts
        for name in names:
            for load in ("staggered", "burst"):
                print(f"round {number + 1} of {given.rounds}: {name}, {load}", file=sys.stderr)
                results.setdefault((name, load), []).append(measure(name, load, cores[0], cores[1]))
    table = {name: figures(results[name, "staggered"], results[name, "burst"]) for name in names}
    print(f"{detect().processor}: server on core {cores[0]}, client on core {cores[1]}, {given.rounds} rounds")
    print(f"{'':30}" + "".join(f"{name:>13}" for name in names) + "   goal for this client")
    for i, (title, goal, sense) in enumerate(GOALS):
        said = ""
        if goal is not None and "this client" in table:
            ours = table["this client"][i]
            met = ours >= goal if sense == "at least" else ours <= goal
            said = f"   {sense} {goal:,g}: {'met' if met else 'NOT MET'}"
        print(f"{title:30}" + "".join(f"{table[name][i]:>13,.{0 if i == 0 else 3}f}" for name in names) + said)


if __name__ == "__main__":
    main()
