"""Plain requests against a real local server, and the counters in pages that engines printed."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError
from shared.engines import ENGINES, ollama
from shared.engines.http import client, counters, get, post_json, request, sums
from shared.models import ModelChoice
from shared.processes import free_port

PAGES = Path(__file__).with_name("metrics")  # what each engine served after 5 to 8 requests, the large ones shortened


class Server(ThreadingHTTPServer):
    """Answers like an engine and keeps each request: its method, path, headers and body."""

    page = ""  # of /metrics
    torn = "/torn"  # the path whose answer is cut off

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        status = {"/refuse": 400, "/elsewhere": 302, "/api/blobs/sha256:missing": 404}.get(self.path, 200)
        text = {
            "/metrics": self.server.page,
            "/refuse": '{"error": "the field messages is missing"}',
            "/bytes": "caf\udcff",
            "/api/create": '{"status": "success"}\n',
        }.get(self.path, '{"echo": %s}' % (body.decode() or "null"))
        data = text.encode(errors="surrogateescape")
        self.send_response(status)
        self.send_header("Location", "/health")
        self.send_header("Content-Length", str(len(data) + (self.path == self.server.torn)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_HEAD = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def dead_proxies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every proxy setting points to a port on which nothing listens."""
    with socket.socket() as nothing:
        nothing.bind(("127.0.0.1", 0))  # taken, and not listening
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            for spelling in (name, name.lower()):
                monkeypatch.setenv(spelling, f"http://127.0.0.1:{nothing.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        client.cache_clear()  # made anew under these settings
        yield
    client.cache_clear()


def endpoint(server: Server, name: str) -> Any:
    return SimpleNamespace(spec=ENGINES[name], port=server.server_port)


@pytest.mark.usefixtures("dead_proxies")
def test_plain_requests_ignore_proxies(server: Server, model: ModelChoice, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx

    with pytest.raises(httpx.ConnectError):  # the settings do take effect, where they are heeded
        httpx.get(server.url)
    server.page = (PAGES / "llamacpp.txt").read_text()
    assert get(server.server_port, "/health") == (200, '{"echo": null}')
    assert post_json(server.url + "/v1", {"a": 1}) == {"echo": {"a": 1}}
    assert counters(endpoint(server, "llamacpp"))["generated_tokens"] == 73
    assert ollama.has_blob(server.url, "0")
    assert not ollama.has_blob(server.url, "missing")
    monkeypatch.setenv("LABS_CACHE", "/nonexistent")
    ollama.create(server.url, model, "BF16")  # by Ollama's own client
    assert [path for _, path, *_ in server.seen][-2:] == [f"/api/blobs/sha256:{model.sha256('BF16')}", "/api/create"]


def test_a_request_is_plain(server: Server) -> None:
    """One connection each; no compression, for which the engine would pay."""
    for _ in range(2):
        get(server.server_port, "/health")
    post_json(server.url + "/v1", {"name": "naïve"})
    headers = [{name.lower(): value for name, value in headers.items()} for _, _, headers, _ in server.seen]
    assert [one["accept-encoding"] for one in headers] == ["identity"] * 3
    assert headers[2]["content-type"] == "application/json"
    assert json.loads(server.seen[2][3]) == {"name": "naïve"}
    assert get(server.server_port, "/elsewhere") == (302, '{"echo": null}')  # not followed
    assert get(server.server_port, "/bytes") == (200, "caf\N{REPLACEMENT CHARACTER}")


def test_no_answer_is_none_or_an_error(server: Server) -> None:
    port = free_port()
    assert get(port, "/health") is None
    assert get(server.server_port, "/torn") is None
    with pytest.raises(OSError, match="refused"):
        ollama.has_blob(f"http://127.0.0.1:{port}", "0")
    with pytest.raises(
        LabError,
        match=rf"http://127\.0\.0\.1:{port}/v1 did not answer: .*refused(.|\n)*\nFix: read the engine's log \(print",
    ):
        post_json(f"http://127.0.0.1:{port}/v1", {})
    with pytest.raises(LabError, match=r"/torn did not answer: .*without sending complete message body"):
        post_json(server.url + "/torn", {})
    with pytest.raises(
        LabError, match=r'/refuse answered 400: {"error": "the field messages is missing"}\nFix: correct what'
    ):
        post_json(server.url + "/refuse", {})


def test_an_ollama_that_breaks_off_is_an_error(
    server: Server, model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.torn = "/api/create"
    monkeypatch.setenv("LABS_CACHE", "/nonexistent")
    with pytest.raises(
        LabError, match=r"The connection to Ollama broke while the model was being registered: peer closed"
    ):
        ollama.create(server.url, model, "BF16")


def test_a_server_that_is_silent_is_given_up() -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}/v1"
        with pytest.raises(LabError, match=r"/v1 did not answer: timed out\."):
            post_json(url, {}, timeout_s=0.2)
        with pytest.raises(OSError, match="timed out"):
            request("GET", url, 0.2)


# What the pages say, read by a person.
COUNTED = {
    "llamacpp": {
        "running": 0, "waiting": 0, "prompt_tokens": 310, "cached_tokens": 0, "generated_tokens": 73,
        "verifications": 0, "draft_tokens": 0, "accepted_draft_tokens": 0,
    },
    "vllm": {
        "running": 0, "waiting": 0, "prompt_tokens": 306, "cached_tokens": 0, "generated_tokens": 73,
        "queue_s": 0.0001253059999726247, "queued_requests": 7, "prefill_s": 0.9143309959999897, "prefills": 7,
        "cache_queries": 306, "preemptions": 0, "kv_use": 0,
    },
    "sglang": {
        "running": 0, "waiting": 0, "prompt_tokens": 31 + 274, "generated_tokens": 1 + 72,  # two label sets
        "queue_s": 0.004409610000948305, "queued_requests": 8,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", COUNTED)
def test_counters_of_a_real_page(server: Server, name: str) -> None:
    server.page = (PAGES / f"{name}.txt").read_text()
    assert counters(endpoint(server, name)) == COUNTED[name]


def test_a_page_that_is_missing_or_unreadable_has_no_counters(server: Server) -> None:
    assert counters(endpoint(server, "llamacpp")) == {}
    server.page = "llamacpp:requests_processing many\n"
    assert counters(endpoint(server, "llamacpp")) == {}
    server.shutdown()
    server.server_close()
    assert counters(endpoint(server, "llamacpp")) == {}


def test_names_stay_as_the_engine_prints_them() -> None:
    page = (PAGES / "llamacpp.txt").read_text()
    assert "# TYPE llamacpp:n_tokens_max counter" in page  # a counter without "_total"
    assert sums(page, ["llamacpp:n_tokens_max"]) == {"llamacpp:n_tokens_max": 62}
    assert sums(page, ["llamacpp:n_tokens"]) == {}  # the beginning of a name is no name
    odd = 'a{x="1 } 2",y="\\"{"} 1.5e3\na{x="b"} 2 1395066363000\na_total 4\nb +Inf\n'
    assert sums(odd, ["a", "b"]) == {"a": 1502, "b": float("inf")}
