"""An engine that knows exactly what it did: the truth that `shared.client` is judged by.

A separate process that speaks OpenAI's streaming chat over a real socket. It sends tokens on a schedule and
notes `time.perf_counter_ns()` right before each send(). On Linux that clock is CLOCK_MONOTONIC, one for all
processes, so a client's stamp minus the server's is the client's error.

The field "truth" of a request is a Plan. The first token of answer 7 is "#000007": so a trace finds its record.

    POST /v1/chat/completions {"max_tokens": 8, "truth": {"gap_s": 0.02}}
    GET  /record          every answer so far: id, received_ns, closed_ns, sends: [[ns, chunks with text]]
    GET  /health

Tests start it with truth.TruthEngine.start(log), under the labs' watchdog: it ends with the program that asked.
"""

import asyncio
import dataclasses
import functools
import json
import os
import re
import socket
import struct
import time
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(frozen=True)
class Plan:
    """One answer: its timing, its form, and what goes wrong."""

    ttft_s: float = 0.02
    gap_s: float = 0.005  # between chunks
    tokens: int | None = None  # None: `max_tokens`
    per_chunk: int = 1
    first: str = "role"  # "role" | "empty" | "none": what comes before the first text
    usage: bool = True
    framing: str = "chunked"  # "chunked" | "close" | "exact" | "long" | "short": the last three by Content-Length
    fault: str = ""  # see `answer` and `schedule`
    at: int = 3  # the chunk before which a fault strikes
    every: int = 1  # only each n-th answer has the fault


@dataclass(frozen=True)
class Send:
    """One send(): when, counted from the request's arrival, what, and how many text chunks it completes."""

    due_s: float
    data: bytes
    chunks: int = 0


NUMBERS = count(1)
RECORDS: dict[int, dict[str, Any]] = {}


def event(content: object, name: str = "") -> bytes:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def delta(**fields: object) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


@functools.cache  # made once for a load: while it is made, no other request is noticed
def schedule(plan: Plan) -> list[Send]:
    """The events of a whole answer, faults that are a matter of bytes included."""
    tokens = plan.tokens or 0
    words = ["#000000", *(f" naïve🌊{i}" for i in range(1, tokens))]
    texts = ["".join(words[i : i + plan.per_chunk]) for i in range(0, tokens, plan.per_chunk)]
    sends: list[Send] = []
    if plan.first != "none":
        opening = delta(role="assistant", content="") if plan.first == "role" else delta(content="")
        sends.append(Send(plan.ttft_s / 2, event(opening)))
    for i, text in enumerate(texts):
        due, data = plan.ttft_s + i * plan.gap_s, event(delta(content=text))
        if plan.fault == "split" and "🌊" in text:  # in the middle of a character of four bytes
            cut = data.index("🌊".encode()) + 2
            sends += [Send(due, data[:cut]), Send(due + plan.gap_s / 2, data[cut:], 1)]
        elif plan.fault == "merge" and i % 2 and sends[-1].chunks:
            sends[-1] = Send(due, sends[-1].data + data, 2)
        elif i == plan.at and plan.fault in BAD_EVENTS:
            sends.append(Send(due, BAD_EVENTS[plan.fault]))
        else:
            sends.append(Send(due, data, 1))
    last = sends[-1].due_s if sends else 0
    closing = delta()
    closing["choices"][0]["finish_reason"] = "length"
    sends.append(Send(last, event(closing)))
    if plan.usage:
        usage = {"prompt_tokens": 11, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 3}}
        sends.append(Send(last, event({"choices": [], "usage": usage})))
    if plan.fault != "no_done":
        sends.append(Send(last, event("[DONE]")))
    return sends


BAD_EVENTS = {
    "error_event": event({"error": {"message": "the KV cache is full", "code": 500}}, "error"),
    "error_data": event({"error": {"message": "the KV cache is full", "code": 500}}),
    "not_json": event("{half"),
    "not_object": event("7"),
    "nulls": event({"choices": None, "error": None, "usage": None}),
    "odd_choices": event({"choices": ["text"]}),
    "odd_usage": event({"choices": [], "usage": 7}),
}


async def answer(plan: Plan, number: int, writer: asyncio.StreamWriter) -> None:
    """Send one answer as planned, up to where its fault strikes."""
    sends, record = schedule(plan), RECORDS[number]
    size = sum(len(s.data) for s in sends)
    headers = {
        "chunked": "Transfer-Encoding: chunked\r\n", "close": "", "exact": f"Content-Length: {size}\r\n",
        "long": f"Content-Length: {size + 50}\r\n", "short": f"Content-Length: {size // 2}\r\n",
    }[plan.framing]  # fmt: skip

    def send(data: bytes, chunks: int = 0) -> None:
        assert not writer.transport.get_write_buffer_size(), "the client lags: this stamp would be too early"
        record["sends"].append((time.perf_counter_ns(), chunks))
        writer.write(data)  # asyncio calls send() at once when nothing waits

    if plan.fault.isdigit():  # an HTTP status
        refusal = json.dumps({"error": {"message": "come back later", "code": int(plan.fault)}}).encode()
        upgrade = "Connection: Upgrade\r\nUpgrade: other\r\n" if plan.fault == "101" else ""
        send(f"HTTP/1.1 {plan.fault} No\r\n{upgrade}Content-Length: {len(refusal)}\r\n\r\n".encode() + refusal)
        return
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n{headers}\r\n".encode()
    if plan.fault == "slow_headers":
        for i in range(0, len(head), 16):
            send(head[i : i + 16])
            await asyncio.sleep(plan.ttft_s / 20)
    else:
        send(head)
    seen = 0
    for item in sends:
        if item.chunks and seen >= plan.at and plan.fault in ("reset", "hang", "cut", "die"):
            await strike(plan.fault, writer)
            return
        wait = item.due_s - (time.perf_counter_ns() - record["received_ns"]) / 1e9
        if wait > 0:
            await asyncio.sleep(wait)
        data = item.data if seen else item.data.replace(b"#000000", b"#%06d" % number)
        send(b"%x\r\n%b\r\n" % (len(data), data) if plan.framing == "chunked" else data, item.chunks)
        seen += item.chunks
    if plan.framing == "chunked" and plan.fault != "no_last_chunk":
        send(b"0\r\n\r\n")


async def strike(fault: str, writer: asyncio.StreamWriter) -> None:
    if fault == "reset":  # lingering for 0 s makes close() send RST
        await asyncio.sleep(0.02)  # a reset discards what the other side hasn't read yet
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif fault == "hang":
        await asyncio.sleep(3600)
    elif fault == "die":
        print("fatal: the truth is out of memory", flush=True)
        os._exit(3)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if head.startswith("GET"):
            said = json.dumps(list(RECORDS.values()) if "/record" in head else "well").encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(said), said))
            return
        length = re.search(r"content-length: (\d+)", head, re.I)
        body = json.loads(await reader.readexactly(int(length[1]) if length else 0))
        number, received = next(NUMBERS), time.perf_counter_ns()
        RECORDS[number] = {"id": number, "received_ns": received, "closed_ns": None, "sends": []}
        plan = Plan(**{"tokens": body.get("max_tokens"), **body.get("truth", {})})
        if number % plan.every:
            plan = dataclasses.replace(plan, fault="")
        work = asyncio.ensure_future(answer(plan, number, writer))
        gone = asyncio.ensure_future(reader.read())  # ends when the client closes, even while an answer hangs
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        gone.cancel()
        RECORDS[number]["closed_ns"] = time.perf_counter_ns()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=512)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
