"""An engine that knows exactly what it did: the truth that `shared.load.client` is judged by.

A separate process that speaks OpenAI's streaming API and Ollama's over real sockets. It sends tokens on a schedule
and notes `time.perf_counter_ns()` right before each send(). On Linux that clock is CLOCK_MONOTONIC, one for all
processes, so a client's stamp minus the server's is the client's error. An event loop from a library would put
its own queue between the note and the send(), so there is none here: one thread, one epoll, one heap of moments.

The field "truth" of a request is a Plan. The first token of answer 7 is "#000007": so a trace finds its record.

    POST /v1/chat/completions {"max_tokens": 8, "truth": {"gap_s": 0.02}}
    POST /v1/completions, /api/chat, /api/generate (Ollama's: {"options": {"num_predict": 8}, ...})
    GET  /record          every answer so far: id, connection, the request's head and the end of its messages,
                          received_ns, closed_ns, and sends: [[ns, chunks with text]]
    GET  /health, /v1/models

Tests start it with truth.TruthEngine.start(log), under the labs' watchdog: it ends with the program that asked.
"""

import dataclasses
import functools
import gc
import heapq
import json
import os
import re
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any


@dataclass(frozen=True)
class Plan:
    """One answer: its timing, its form, and what goes wrong."""

    ttft_s: float = 0.02
    gap_s: float = 0.005  # between chunks
    tokens: int | None = None  # None: as many as the request allows
    per_chunk: int = 1
    first: str = "role"  # "role" | "empty" | "none": what comes before the first text
    reasoning: int = 0  # so many chunks are reasoning; the answer follows
    reasoning_field: str = "reasoning_content"  # OpenAI dialect; vLLM calls it "reasoning"
    usage: bool = True
    timings: bool = False  # llama.cpp's, in the last chunk
    finish_reason: str = "length"
    framing: str = "chunked"  # "chunked" | "close" | "exact" | "long" | "short": the last three by Content-Length
    fault: str = ""  # see `answer` and `schedule`
    at: int = 3  # the chunk before which a fault strikes
    every: int = 1  # only each n-th answer has the fault
    port: int = 0  # if given, only the server on this port follows the plan, and another one answers without a fault
    retry_after: str = ""  # the header of an answer whose fault is a status
    raw: tuple[str, ...] = ()  # sent in place of events: the bytes of each send(), each as one character of Latin-1
    kind: str = "text/event-stream"  # Content-Type of OpenAI's endpoints


@dataclass(frozen=True)
class Send:
    """One send(): when, counted from the request's arrival, what, and how many text chunks it completes."""

    due_ns: int
    data: bytes
    chunks: int = 0


class Caller:
    """One connection: what it has said so far, and the answer that it waits for."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number, self.heard = sock, number, b""
        self.record: dict[str, Any] | None = None
        self.answers = 0


READ_WITHIN_NS = 400_000_000  # before a break; less than the clients' limits on a pause, of which the least is 1 s
RECORDS: list[dict[str, Any]] = []
CALLERS: dict[int, Caller] = {}  # by file descriptor
AGENDA: list[tuple[int, int, Caller, Iterator[int]]] = []  # (moment, order, whom, the rest of the answer)
ORDER = count(1)
DOOR = socket.socket()
EPOLL = select.epoll()


def event(content: object, name: str = "") -> bytes:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def line(content: object, name: str = "") -> bytes:
    """Ollama's form of an event: its name isn't sent."""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return f"{text}\n".encode()


# What engines send along with each chunk, so that a chunk is as long as a real one.
OPENAI = {"id": "chatcmpl-9f86d081884c7d659a2feaa0c55ad015", "created": 1790000000, "model": "truth"}
OLLAMA = {"model": "truth", "created_at": "2026-11-24T12:00:00.123456789Z", "done": False}


def chunk(path: str, **fields: str) -> dict[str, Any]:
    """A chunk of this endpoint that carries a role, text or reasoning."""
    text = fields.get("content", "")
    if path == "/api/generate":
        thinking = {"thinking": fields["thinking"]} if "thinking" in fields else {}
        return {**OLLAMA, "response": text, **thinking}
    if path == "/api/chat":
        return {**OLLAMA, "message": {"role": "assistant", "content": text, **fields}}
    form = {"text": text} if path == "/v1/completions" else {"delta": fields}
    choice = {"index": 0, **form, "logprobs": None, "finish_reason": None}
    return {**OPENAI, "object": "chat.completion.chunk", "choices": [choice]}


def closing(plan: Plan, path: str, tokens: int) -> list[bytes]:
    """What follows the last text."""
    ended = [] if plan.fault == "no_done" else [b""]
    if path.startswith("/api"):
        counted = {"prompt_eval_count": 11, "eval_count": tokens} if plan.usage else {}
        durations = {"total_duration": 90_000_000, "prompt_eval_duration": 20_000_000, "eval_duration": 60_000_000}
        last = {**chunk(path, content=""), "done": True, "done_reason": plan.finish_reason, **durations, **counted}
        return [line(last) for _ in ended]
    last = chunk(path)
    last["choices"][0]["finish_reason"] = plan.finish_reason
    usage = {"prompt_tokens": 11, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 3}}
    timings = {"prompt_n": 8, "prompt_ms": 20.0, "cache_n": 3, "predicted_n": tokens, "predicted_ms": 60.0}
    counts = {**({"usage": usage} if plan.usage else {}), **({"timings": timings} if plan.timings else {})}
    return [event(last)] + ([event({"choices": [], **counts})] if counts else []) + [event("[DONE]") for _ in ended]


HALF = "🌊".encode()[:2]
BAD_EVENTS: dict[str, tuple[object, str]] = {
    "error_event": ({"error": {"message": "the KV cache is full", "code": 500}}, "error"),
    "error_data": ({"error": {"message": "the KV cache is full", "code": 500}}, ""),
    "error_text": ({"error": "the KV cache is full"}, ""),  # Ollama's form
    "not_json": ("{half", ""),
    "not_object": ("7", ""),
    "half_character": ('{"content": "HALF"}', ""),
    "nulls": ({"choices": None, "message": None, "error": None, "usage": None}, ""),
    "odd_choices": ({"choices": ["text"], "message": "text"}, ""),
    "odd_usage": ({"choices": [], "usage": 7}, ""),
}


@functools.lru_cache(256)  # made once for a load: while it is made, no other request is noticed
def schedule(plan: Plan, path: str) -> list[Send]:
    """The events of a whole answer, framed as they will be sent, faults that are a matter of bytes included."""
    tokens = plan.tokens or 0
    say = line if path.startswith("/api") else event
    words = ["#000000", *(f" naïve🌊{i}" for i in range(1, tokens))]
    texts = ["".join(words[i : i + plan.per_chunk]) for i in range(0, tokens, plan.per_chunk)]
    field = "thinking" if path.startswith("/api") else plan.reasoning_field
    ttft, gap = int(plan.ttft_s * 1e9), int(plan.gap_s * 1e9)
    sends: list[Send] = []
    if plan.first != "none" and path.endswith(("chat", "chat/completions")):
        sends.append(
            Send(ttft // 2, say(chunk(path, **({"role": "assistant"} if plan.first == "role" else {}), content="")))
        )
    for i, text in enumerate(texts):
        due, data = ttft + i * gap, say(chunk(path, **{field if i < plan.reasoning else "content": text}))
        if plan.fault == "split" and "🌊" in text:  # in the middle of a character of four bytes
            cut = data.index("🌊".encode()) + 2
            sends += [Send(due, data[:cut]), Send(due + gap // 2, data[cut:], 1)]
        elif plan.fault == "merge" and i % 2 and sends[-1].chunks:
            sends[-1] = Send(due, sends[-1].data + data, 2)
        elif i == plan.at and plan.fault in BAD_EVENTS:
            sends.append(Send(due, say(*BAD_EVENTS[plan.fault]).replace(b"HALF", HALF)))
        else:
            sends.append(Send(due, data, 1))
    last = sends[-1].due_ns if sends else 0
    sends += [Send(last, data) for data in closing(plan, path, tokens)]
    if plan.raw:
        sends = [Send(ttft + i * gap, data.encode("latin-1"), 1) for i, data in enumerate(plan.raw)]
    size = sum(len(s.data) for s in sends)
    if plan.framing == "chunked":
        sends = [dataclasses.replace(s, data=b"%x\r\n%b\r\n" % (len(s.data), s.data)) for s in sends]
        if plan.fault != "no_last_chunk":  # with the last event, as servers send it
            sends[-1] = dataclasses.replace(sends[-1], data=sends[-1].data + b"0\r\n\r\n")
    length = {"exact": size, "long": size + 50, "short": size // 2}.get(plan.framing)
    framing = "Transfer-Encoding: chunked\r\n" if plan.framing == "chunked" else ""
    framing = framing if length is None else f"Content-Length: {length}\r\n"
    kind = "application/x-ndjson" if path.startswith("/api") else plan.kind
    keep = "close" if plan.framing == "close" else "keep-alive"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: {keep}\r\n{framing}\r\n".encode()
    step = ttft // 20  # of slow headers
    heads = [head[i : i + 16] for i in range(0, len(head), 16)] if plan.fault == "slow_headers" else [head]
    return [Send(i * step, piece) for i, piece in enumerate(heads)] + sends


def answer(plan: Plan, path: str, caller: Caller, record: dict[str, Any]) -> Iterator[int]:
    """Send one answer as planned, up to where its fault strikes. Yields the moments that it waits for."""
    send, sends, received = caller.sock.send, record["sends"], record["received_ns"]
    if plan.fault == "late":  # the whole answer, by another TTFT
        received += int(plan.ttft_s * 1e9)
    if plan.fault.isdigit():  # an HTTP status
        refusal = json.dumps({"error": {"message": "come back later", "code": int(plan.fault)}}).encode()
        upgrade = "Connection: Upgrade\r\nUpgrade: other\r\n" if plan.fault == "101" else ""
        wait = f"Retry-After: {plan.retry_after}\r\n" if plan.retry_after else ""
        head = f"HTTP/1.1 {plan.fault} No\r\n{upgrade}{wait}Content-Length: {len(refusal)}\r\n\r\n".encode()
        send(head + refusal)
        return
    if plan.fault == "silent" or (plan.fault == "silent_again" and caller.answers > 1):
        yield received + int(plan.ttft_s * 1e9)
        hang_up(caller)
        return
    seen = 0
    if plan.fault == "late_headers":
        yield received + int(plan.ttft_s * 1e9)
    for item in schedule(plan, path):
        if item.chunks and seen >= plan.at and plan.fault in ("reset", "hang", "cut", "die"):
            # What was sent before must have been read: a client that finds both a break and bytes may drop the bytes.
            yield received + item.due_ns + (3600 * 10**9 if plan.fault == "hang" else READ_WITHIN_NS)
            strike(plan.fault, caller)
            return
        data = item.data if seen else item.data.replace(b"#000000", b"#%06d" % record["id"])
        due = received + item.due_ns
        if due > time.perf_counter_ns():
            yield due
        for byte in data[:-1] if plan.fault == "dribble" else b"":
            send(bytes([byte]))
        data = data[-1:] if plan.fault == "dribble" else data
        sends.append((time.perf_counter_ns(), item.chunks))
        if send(data) != len(data):
            raise BlockingIOError("the client lags: later stamps would be too early")
        seen += item.chunks
    if plan.framing in ("close", "long") or plan.fault in ("drop", "no_last_chunk"):
        hang_up(caller)


def strike(fault: str, caller: Caller) -> None:
    if fault == "die":
        print("fatal: the truth is out of memory", flush=True)
        os._exit(3)
    if fault == "reset":  # lingering for 0 s makes close() send RST
        caller.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    hang_up(caller)


def hang_up(caller: Caller) -> None:
    if CALLERS.pop(caller.sock.fileno(), None):
        caller.sock.close()  # which takes it out of EPOLL, too
    finish(caller)


def finish(caller: Caller) -> None:
    """The answer has ended, well or not."""
    if caller.record:
        caller.record["closed_ns"] = time.perf_counter_ns()
        caller.record = None


def go_on(caller: Caller, rest: Iterator[int]) -> None:
    """Let an answer run up to the next moment that it waits for."""
    try:
        heapq.heappush(AGENDA, (next(rest), next(ORDER), caller, rest))
    except StopIteration:
        finish(caller)
    except ConnectionError:
        hang_up(caller)


def hear(caller: Caller, received_ns: int) -> None:
    """Take a request out of what was heard, if it is whole, and begin its answer."""
    head, found, body = caller.heard.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    if not found or len(body) < int(length[1] if length else 0):
        return
    caller.heard = b""
    path = head.split(b" ", 2)[1].decode()
    if head.startswith(b"GET"):
        models = {"object": "list", "data": [{"id": OPENAI["model"], "object": "model"}]}
        said = json.dumps(RECORDS if path == "/record" else models if path == "/v1/models" else "well").encode()
        caller.sock.settimeout(20)
        caller.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(said), said))
        hang_up(caller)
        return
    asked = json.loads(body)
    record: dict[str, Any] = {
        "id": len(RECORDS) + 1,
        "connection": caller.number,
        "head": head.decode("latin-1"),
        "asked": str(asked.get("messages"))[-40:],
        "temperature": asked.get("temperature"),
        "received_ns": received_ns,
        "closed_ns": None,
        "sends": [],
    }
    RECORDS.append(record)
    tokens = asked.get("max_completion_tokens") or asked.get("max_tokens", asked.get("options", {}).get("num_predict"))
    plan = Plan(**{"tokens": tokens, **asked.get("truth", {})})
    plan = dataclasses.replace(plan, raw=tuple(plan.raw))
    if plan.port not in (0, DOOR.getsockname()[1]):
        plan = Plan(tokens=tokens)
    if record["id"] % plan.every:
        plan = dataclasses.replace(plan, fault="")
    caller.answers += 1
    caller.record = record
    go_on(caller, answer(plan, path, caller, record))


def listen(caller: Caller) -> bool:
    """Read what has come; whether the caller is still there."""
    try:
        data = caller.sock.recv(1 << 20)
    except ConnectionError:
        data = b""
    if not data:
        hang_up(caller)
    caller.heard += data
    return bool(data)


def main() -> None:
    if len(sys.argv) > 1:  # one core for it alone
        os.sched_setaffinity(0, {int(sys.argv[1])})
    gc.disable()  # a collection would delay a send; nothing here is a cycle
    DOOR.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as engines do; it also frees the port at once
    DOOR.bind(("127.0.0.1", 0))
    DOOR.listen(512)
    DOOR.setblocking(False)
    EPOLL.register(DOOR, select.EPOLLIN)
    print(f"listening on {DOOR.getsockname()[1]}", flush=True)
    while True:
        wait = AGENDA[0][0] - time.perf_counter_ns() if AGENDA else 3600 * 10**9
        if wait > 0:  # select() waits to the microsecond, epoll to the millisecond
            select.select([EPOLL], [], [], wait / 1e9)
        heard = []
        for fd, _ in EPOLL.poll(0):  # first every stamp, then the work
            if fd == DOOR.fileno():
                sock, _ = DOOR.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                CALLERS[sock.fileno()] = Caller(sock, next(ORDER))
                EPOLL.register(sock, select.EPOLLIN)
            elif listen(CALLERS[fd]):
                heard.append((CALLERS[fd], time.perf_counter_ns()))
        for caller, received_ns in heard:
            hear(caller, received_ns)
        if AGENDA and AGENDA[0][0] <= time.perf_counter_ns():  # one, then who has called meanwhile
            _, _, caller, rest = heapq.heappop(AGENDA)
            if caller.record:  # else it hung up meanwhile
                go_on(caller, rest)


if __name__ == "__main__":
    main()
