"""Clients that send nonsense, too much or too slowly, that read slowly, and that leave; and a gateway that is ended."""

import contextlib
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.gateway import HELLO, MANY, SHORT, Gateway, running
from tests.helpers.processes import eventually
from tests.helpers.truth import TruthEngine

MIB = 2**20
CHAT = "/v1/chat/completions"
NOT_JSON = [
    b"", b"{", b"[", b"nonsense", b'{"model": "truth"', b'{"model": "truth",}', b"{'model': 'truth'}", b"\xff\xfe",
    b"\x00", b'{"model": "\xf0\x9f"}', b'{"model": "\\ud800"}', b'{"model": NaN}',
    b"[" * 100_000, b'{"a":' * 5000 + b"1" + b"}" * 5000,
    b'{"model": "truth", "messages": [], "prompt": "x", "deep": ' + b"[" * 300 + b"]" * 300 + b"}",  # read, not written
]  # fmt: skip
NOT_A_REQUEST = [
    [], 7, "text", None, {}, {"model": 7}, {"model": None, "messages": []}, {"messages": []},
    {"model": "truth"}, {"model": "truth", "messages": "Hello"}, {"model": "truth", "messages": {}},
]  # fmt: skip


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])), timeout=20)


def head(length: int | None = None, path: str = CHAT) -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{size}\r\n\r\n".encode()


def request(**fields: Any) -> bytes:
    body = json.dumps({**HELLO, **fields}).encode()
    return head(len(body)) + body


def rest(client: socket.socket) -> bytes:
    """All that still comes until the gateway ends the connection. Raises TimeoutError if it doesn't."""
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while block := client.recv(65536):
            found += block
    return found


def resident(gateway: Gateway) -> int:
    """Bytes of memory of the gateway's own process."""
    return int(psutil.Process(gateway.pid).memory_info().rss)


# What they send


@pytest.mark.parametrize(
    "bodies", [NOT_JSON, [json.dumps(body).encode() for body in NOT_A_REQUEST]], ids=["json", "form"]
)
def test_a_body_that_is_no_request_is_a_400_in_openais_form(single: Gateway, bodies: list[bytes]) -> None:
    for body in bodies:
        for path in (CHAT, "/v1/completions"):
            answer = single.client.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, (body[:40], answer.text)
            assert answer.json()["error"]["type"] == "invalid_request_error"
            assert answer.headers["x-should-retry"] == "false"
    assert single.chat().status_code == 200


def test_fifty_megabytes_are_refused_however_they_come(single: Gateway) -> None:
    before = resident(single)
    statuses = []
    for length in (50 * 10**6, None):
        with connect(single) as client:
            client.sendall(head(length))
            with contextlib.suppress(ConnectionError, TimeoutError):  # the gateway doesn't wait for the end
                for _ in range(50):
                    block = b"x" * 10**6
                    client.sendall(block if length else b"%x\r\n%b\r\n" % (len(block), block))
            try:
                statuses.append(client.recv(4096).split(b" ")[1])
            except ConnectionResetError:
                statuses.append(b"reset")  # the refusal was lost with the bytes that nobody read
    assert set(statuses) <= {b"413", b"reset"}
    assert resident(single) - before < 20 * MIB
    with connect(single) as client:  # announced, not sent: the refusal can't be lost
        client.sendall(head(50 * 10**6))
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_flood_of_headers_is_refused_before_it_costs_memory(single: Gateway) -> None:
    before = resident(single)
    for flood in (b"x: " + b"y" * 10**6, b"".join(b"a%d: b\r\n" % i for i in range(100_000))):
        with connect(single) as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\n" + flood * 5)
            answer = rest(client)
            assert answer == b"" or answer.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ")), answer[:80]
    assert resident(single) - before < 10 * MIB
    assert single.chat().status_code == 200


def test_a_body_does_not_count_as_headers_of_the_next_request(single: Gateway) -> None:
    with connect(single) as client:
        for _ in range(2):
            body = json.dumps({**HELLO, "stream": True, "padding": "x" * 40_000}).encode()
            start = head(len(body))
            for piece in (start[:30], start[30:], body):  # each reaches the gateway alone
                client.sendall(piece)
                time.sleep(0.1)
            came = b""
            while not came.endswith(b"0\r\n\r\n"):
                came += (block := client.recv(65536))
                assert block, came
            assert came.startswith(b"HTTP/1.1 200 "), came[:200]


def test_what_is_not_http_is_refused(single: Gateway) -> None:
    source = random.Random(7)
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"\r\n" * 1000,
        source.randbytes(2000),
        b"PRI * HTTP/2.0\r\n\r\n",
    ):
        with connect(single) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            assert b" 200 " not in rest(client)
    assert single.chat().status_code == 200


# How slowly they send


def slow_senders() -> Iterator[tuple[str, bytes, bytes]]:
    """What each sends at once, and what it then sends a byte of now and then."""
    yield "headers", b"POST /v1/chat/completions HTTP/1.1\r\nHost: ", b"x" * 10_000
    yield "a body", head(10_000), b" " * 10_000
    yield "a chunked body", head() + b"1\r\n{\r\n", b"1\r\n \r\n" * 2000
    yield "headers of a second request", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health", b"y" * 10_000


def test_slow_senders_are_ended_and_hold_nobody_up(one: TruthEngine, tmp_path: Path) -> None:
    """Slowloris: a hundred connections, each of which sends a byte now and then."""
    with running(tmp_path, {"one": one.url}, **SHORT, header_s=1, body_s=1) as gateway:
        clients = [(what, connect(gateway), begin, more) for what, begin, more in list(slow_senders()) * 25]
        for _, client, begin, _ in clients:
            client.sendall(begin)
        ended: dict[str, int] = {}
        waiting, deadline, step = clients, time.monotonic() + 30, 0
        while waiting and time.monotonic() < deadline:
            assert gateway.chat().status_code == 200, "others are served meanwhile"
            left = []
            for what, client, begin, more in waiting:
                client.settimeout(0.001)
                try:
                    client.sendall(more[step : step + 1])
                    if client.recv(65536) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    left.append((what, client, begin, more))
                except ConnectionError:
                    ended[what] = ended.get(what, 0) + 1
                    client.close()
                else:
                    left.append((what, client, begin, more))
            waiting, step = left, step + 1
            time.sleep(0.1)
        for _, client, _, _ in waiting:
            client.close()
        assert ended == {what: 25 for what, _, _ in slow_senders()}


# How slowly they read, and when they leave


class Fountain:
    """An engine whose stream never ends and comes as fast as it is taken, which counts what was taken."""

    BLOCK = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"word " * 800 + b'"}}]}\n\n'

    def __init__(self) -> None:
        self.sent, self.streams, self.door = 0, 0, socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.door.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection:
            asked = connection.recv(65536)
            if asked.startswith(b"GET"):
                models = b'{"object": "list", "data": [{"id": "truth"}]}'
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(models), models))
                return
            self.pour(connection)

    def pour(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        self.streams += 1
        try:
            while True:
                connection.sendall(self.BLOCK)
                self.sent += len(self.BLOCK)
        except OSError:
            self.streams -= 1


class Lake(Fountain):
    """An engine whose answer is no stream, and larger than what kernels buffer."""

    BODY = b'{"choices": [], "padding": "' + b"x" * 16 * MIB + b'"}'

    def pour(self, connection: socket.socket) -> None:
        start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(self.BODY)
        with contextlib.suppress(OSError):
            connection.sendall(start + self.BODY)
            while connection.recv(65536):  # until the gateway closes
                pass


@pytest.fixture
def fountain() -> Iterator[Fountain]:
    found = Fountain()
    yield found
    found.door.close()


def test_a_slow_reader_slows_the_engine_down_and_costs_no_memory(fountain: Fountain, tmp_path: Path) -> None:
    with running(tmp_path, {"fountain": fountain.url}, idle_s=2) as gateway:
        before, most, got = resident(gateway), 0, 0
        with connect(gateway) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.sendall(request(stream=True))
            began = time.monotonic()
            while time.monotonic() < began + 3:  # longer than the limit on a pause, but never idle for so long
                got += len(client.recv(MIB))
                most = max(most, resident(gateway) - before)
                assert most < 20 * MIB
                time.sleep(0.02)
            assert gateway.count("num_requests_running") == 1, "slow is not gone"
            assert fountain.sent - got < 16 * MIB, "what waits in the kernel's buffers"
            stood = fountain.sent  # and now it reads nothing any more
            assert eventually(lambda: gateway.count("num_requests_running") == 0, 20), "its seat is free"
            assert gateway.count("clients_left_total", moment="not reading") == 1
        assert eventually(lambda: fountain.streams == 0), "and the engine's, too"
        assert fountain.sent - stood < 16 * MIB


def test_a_large_answer_that_nobody_reads_holds_no_seat_and_is_given_up(tmp_path: Path) -> None:
    lake = Lake()
    with running(tmp_path, {"lake": lake.url}, idle_s=2) as gateway, connect(gateway) as client:
        assert gateway.chat().content == Lake.BODY
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(request())
        assert eventually(lambda: gateway.count("requests_total", status="200") == 2)
        assert gateway.count("num_requests_running") == 0, "the engine has sent all"
        assert eventually(lambda: gateway.count("clients_left_total", moment="not reading") == 1, 20)
        assert len(rest(client)) < len(Lake.BODY)
    lake.door.close()


class Pond(Lake):
    """An engine whose answer is no stream, and small."""

    BODY = b'{"choices": [], "padding": "' + b"x" * 40_000 + b'"}'


class Puddle(Fountain):
    """An engine whose streams come in one block each, [DONE] included."""

    def pour(self, connection: socket.socket) -> None:
        start = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        connection.sendall(start + self.BLOCK * 8 + b"data: [DONE]\n\n")


def test_a_client_that_leaves_in_the_middle_of_a_whole_answer_had_its_first_byte(tmp_path: Path) -> None:
    lake = Lake()
    with running(tmp_path, {"lake": lake.url}) as gateway:
        with connect(gateway) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.sendall(request())
            assert client.recv(1000)
        assert eventually(lambda: gateway.count("clients_left_total") == 1)
        assert gateway.count("clients_left_total", moment="in a whole answer") == 1
    lake.door.close()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_reads_not_even_the_last_bytes_loses_its_seat(tmp_path: Path, stream: bool) -> None:
    """It asks over and over on one connection. When nothing more fits, one answer has all its blocks but for its end,
    or has not begun."""
    engine = Puddle() if stream else Pond()
    with running(tmp_path, {"engine": engine.url}, idle_s=1, **MANY) as gateway, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", int(gateway.url.rsplit(":", 1)[1])))
        client.sendall(request(stream=stream) * 400)
        assert eventually(lambda: gateway.count("clients_left_total", moment="not reading") == 1, 20)
        assert eventually(lambda: gateway.count("num_requests_running") == 0)
        assert gateway.count("engine_failures_total") == 0, "the engine has answered"
    engine.door.close()


def test_a_client_that_has_asked_for_more_already_and_leaves_ends_the_engines_work(
    one: TruthEngine, tmp_path: Path
) -> None:
    """Its second request waits on the connection until the first one has its answer."""
    with running(tmp_path, {"one": one.url}) as gateway:
        with connect(gateway) as client:
            client.sendall(request(stream=True, max_tokens=2000, truth={"gap_s": 0.05}) + request(stream=True))
            client.recv(1000)
            assert gateway.count("num_requests_running") == 1
        assert eventually(lambda: gateway.count("num_requests_running") == 0)
        # It is counted a moment after the seat is free.
        assert eventually(lambda: gateway.count("clients_left_total", moment="streaming") == 1)


def test_a_client_that_leaves_in_the_middle_ends_the_engines_work(fountain: Fountain, tmp_path: Path) -> None:
    with running(tmp_path, {"fountain": fountain.url}) as gateway:
        for ending in ("close", "reset"):
            client = connect(gateway)
            client.sendall(request(stream=True))
            client.recv(1000)
            if ending == "reset":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            assert fountain.streams == 1
            client.close()
            assert eventually(lambda: fountain.streams == 0), ending
        assert eventually(lambda: gateway.count("clients_left_total", moment="streaming") == 2)
        assert eventually(lambda: gateway.count("num_requests_running") == 0)


def test_clients_that_leave_before_their_answer_free_the_seat_and_the_queue(one: TruthEngine, tmp_path: Path) -> None:
    with running(tmp_path, {"one": one.url}, seats=1) as gateway:
        for stream in (True, False):  # the first one holds the seat, two wait
            clients = [connect(gateway) for _ in range(3)]
            for number, client in enumerate(clients):
                client.sendall(request(stream=stream, truth={"ttft_s": 60}))
                assert eventually(lambda n=number: gateway.count("num_requests_waiting") == n)  # type: ignore[misc]
                assert eventually(lambda: gateway.count("num_requests_running") == 1)
            for client in clients[:0:-1]:
                client.close()
            assert eventually(lambda: gateway.count("num_requests_waiting") == 0), "before one of them gets the seat"
            clients[0].close()
            assert eventually(lambda: gateway.count("num_requests_running") == 0)
            assert gateway.count("num_requests_waiting") == 0
            assert eventually(lambda: one.records()[-1]["closed_ns"] is not None), "the engine's request has ended, too"
        assert gateway.count("clients_left_total", moment="queued") == 4
        assert gateway.count("clients_left_total", moment="before the first byte") == 2
        assert gateway.chat().status_code == 200


# SIGTERM


def test_sigterm_with_twenty_streams_lets_the_short_ones_end(one: TruthEngine, tmp_path: Path) -> None:
    """The endless ones are ended after `drain_s`, what waits for a seat too, and nothing new is accepted."""
    with running(tmp_path, {"one": one.url}, seats=20, drain_s=10) as gateway:
        clients = [connect(gateway) for _ in range(21)]
        for client in clients[:10]:
            # Five seconds: none ends before all others run, nor after the drain, on a busy machine, too.
            client.sendall(request(stream=True, max_tokens=100, truth={"gap_s": 0.05}))
        for client in clients[10:]:  # the last one waits for a seat
            client.sendall(request(stream=True, max_tokens=5000, truth={"gap_s": 0.05}))
        assert eventually(lambda: gateway.count("num_requests_running") == 20, 20)
        gateway.terminate()

        def refused() -> bool:
            try:
                connect(gateway).close()
            except ConnectionRefusedError:
                return True
            except ConnectionResetError:
                pass  # it stood in the port's queue when the port was closed: not refused yet
            return False

        assert eventually(refused)
        answers = [rest(client) for client in clients]
        for client in clients:
            client.close()
        assert [b"data: [DONE]" in answer for answer in answers] == [True] * 10 + [False] * 11
        assert sum(b"#" in answer for answer in answers) >= 20
        assert eventually(lambda: gateway.process.exit_code() is not None, 20)
        assert gateway.process.exit_code() in (0, 128 + signal.SIGTERM)
        assert eventually(lambda: all(record["closed_ns"] for record in one.records())), (
            "every seat of the engine is free"
        )
