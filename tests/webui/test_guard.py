"""No other web page drives this server, and no name leads out of its folders."""

import socket
from pathlib import Path

import pytest

from shared import LabError
from tests.helpers.webui import Scripted, WebUI, running

UNSAFE = [
    ("POST", "/api/chats", b'{"targets": ["ollama:simulated"]}'),
    ("POST", "/api/models/delete", b'{"name": "simulated"}'),
    ("POST", "/api/models/pull", b'{"name": "simulated"}'),
    ("POST", "/api/import", b"{}"),
    ("DELETE", "/api/chats/1", b""),
]


@pytest.mark.parametrize(("method", "path", "body"), UNSAFE)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"host": "evil.example"},
        {"host": "evil.example", "origin": "http://evil.example"},  # DNS rebinding: one origin for the browser
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
    ],
    ids=str,
)
def test_a_foreign_page_is_refused(ui: WebUI, method: str, path: str, body: bytes, headers: dict[str, str]) -> None:
    sent = {"content-type": "application/json", **headers}
    response = ui.client.request(method, path, content=body, headers=sent)
    assert response.status_code == 403
    assert response.json()["fix"]


@pytest.mark.parametrize("path", ["/", "/api/chats", "/api/search?q=x", "/api/export", "/static/main.js"])
def test_a_rebound_name_reads_nothing(ui: WebUI, path: str) -> None:
    assert ui.client.get(path, headers={"host": f"evil.example:{ui.port}"}).status_code == 403


def test_a_request_without_a_host_is_refused(ui: WebUI) -> None:
    with socket.create_connection(("127.0.0.1", ui.port), timeout=10) as sock:
        sock.sendall(b"GET /api/chats HTTP/1.0\r\n\r\n")
        assert b" 403 " in sock.recv(1000)


def test_the_page_itself_and_programs_of_this_machine_may(ui: WebUI) -> None:
    for headers in ({"origin": ui.url}, {"host": f"localhost:{ui.port}"}, {}):
        assert ui.client.get("/api/chats", headers=headers).status_code == 200
    navigation = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert ui.client.get("/", headers=navigation).status_code == 200


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/chats", "/api/nothing", "/static/nothing"])
def test_every_answer_carries_the_policy(ui: WebUI, path: str) -> None:
    headers = ui.client.get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-cache"  # a file that was changed is used at the next reload


PATHS = [
    "..%2f..%2fapp.py",
    "../app.py",
    "%2e%2e/app.py",
    "..\\app.py",
    "....//app.py",
    "vendor/../../app.py",
    "%00",
    "//etc/passwd",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_static_files(ui: WebUI, path: str) -> None:
    with socket.create_connection(("127.0.0.1", ui.port), timeout=10) as sock:  # a client would tidy the path up
        sock.sendall(f"GET /static/{path} HTTP/1.1\r\nHost: 127.0.0.1:{ui.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert answer.split(b" ")[1] in (b"404", b"400", b"405"), answer[:200]
    assert b"make_app" not in answer


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "a/../b",
    "..",
    ".",
    "",
    "a b",
    "a\nb",
    "a" * 500,
    "a:b:c:d",
    "http://x/y",
    "x\x00y",
    "é",
    "a//b",
    "-",
]


@pytest.mark.parametrize("what", ["pull", "show", "delete", "unload", "copy", "create"])
@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_no_model(ui: WebUI, what: str, name: str) -> None:
    body = {"name": name} | ({"to": "x"} if what == "copy" else {}) | ({"source": "x"} if what == "create" else {})
    assert ui.problem("POST", f"/api/models/{what}", body)["status"] in (400, 422)


def test_only_a_gguf_file_is_taken_and_only_up_to_the_limit(scripted: Scripted, tmp_path: Path) -> None:
    with running(tmp_path, scripted.url, most_upload_bytes=10_000) as ui:

        def upload(content: bytes, kind: str = "application/octet-stream") -> int:
            return ui.client.post("/api/uploads", content=content, headers={"content-type": kind}).status_code

        assert upload(b"#!/bin/sh\n" * 10) == 400
        assert upload(b"GGUF") == 400
        assert upload(b"GGUF" + b"x" * 20_000) == 413
        assert upload(b"GGUF" + b"x" * 100, "text/plain") == 415
        assert list((tmp_path / "data" / "uploads").iterdir()) == []


def test_it_serves_this_machine_only(tmp_path: Path, scripted: Scripted) -> None:
    with pytest.raises(LabError, match="ssh -L"), running(tmp_path, scripted.url, host="0.0.0.0"):
        pass  # a server that refuses to start says so in its log


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"targets": []}', b'{"targets": ["a"], "more": 1}', b"\xff"])
def test_a_wrong_body_is_named(ui: WebUI, body: bytes) -> None:
    response = ui.client.post("/api/chats", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["what"]
