"""Proxies in the environment: this machine's own servers are reached without them, whichever client asks."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from shared import paths, proxies

# A port of this machine on which no program listens: a request that takes the proxy fails.
NOWHERE = "127.0.0.1:9"
SETTINGS = [
    {"HTTP_PROXY": f"http://{NOWHERE}", "HTTPS_PROXY": f"http://{NOWHERE}"},
    {"all_proxy": f"socks://{NOWHERE}", "no_proxy": "localhost,127.0.0.0/8,::1"},  # as GNOME sets them
    {"ALL_PROXY": f"socks5h://user:secret@{NOWHERE}"},
]
MORE = [
    {"http_proxy": f"http://{NOWHERE}"},
    {"HTTP_PROXY": NOWHERE},
    {"ALL_PROXY": f"http://{NOWHERE}", "NO_PROXY": "example.com"},
    {"ALL_PROXY": f"socks://{NOWHERE}/"},
    {"ALL_PROXY": f"socks4://{NOWHERE}"},
    {"HTTP_PROXY": "http://"},
    {"HTTP_PROXY": "http://127.0.0.1:port"},
]

CLIENTS = {
    "ollama": "from ollama import Client; Client(URL).list()",
    "openai": "from openai import OpenAI; OpenAI(base_url=URL + '/v1', api_key='any').models.list()",
    "httpx": "import httpx; httpx.get(URL)",
    "urllib": "import urllib.request; urllib.request.urlopen(URL)",
    "a batch's bad requests": (
        "from types import SimpleNamespace; from shared.course.batching.batch_tables import answer_to\n"
        "answer_to(SimpleNamespace(url=URL), '/any', b'{')"
    ),
    "a program that it starts": "import subprocess; subprocess.run(['curl', '-sSf', URL], check=True)",
}


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = json.dumps({"object": "list", "data": [], "models": []}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def under(settings: dict[str, str]) -> dict[str, str]:
    """This environment with these proxy settings only."""
    names = {name for upper in (*proxies.PROXIES, "NO_PROXY") for name in (upper, upper.lower())}
    return {name: value for name, value in os.environ.items() if name not in names} | settings


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_client_reaches_this_machine_after_import_shared(settings: dict[str, str], url: str) -> None:
    asked = "\n".join(f"attempt({name!r}, {code!r})" for name, code in CLIENTS.items())
    program = (
        f"import shared, traceback\nURL = {url!r}\ndef attempt(name, code):\n"
        "    try: exec(code, {'URL': URL})\n"
        f"    except Exception as e: print(name, type(e).__name__, e)\n{asked}\n"
    )
    environment = under(settings)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=paths.REPO, capture_output=True, text=True, timeout=60)
    complaints = [line for line in done.stdout.splitlines() if not line.startswith("{")]  # curl prints the answer
    assert (complaints, done.stderr) == ([], "")


@pytest.mark.parametrize("settings", SETTINGS + MORE, ids=str)
def test_a_client_that_heeds_the_environment_goes_straight(
    settings: dict[str, str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = under(settings)
    proxies.settle(environment)
    monkeypatch.setattr(os, "environ", environment)
    assert httpx.get(url).status_code == 200
    assert httpx.get(url.replace("127.0.0.1", "localhost")).status_code == 200


def test_the_settings_of_the_test_do_stop_a_client(url: str) -> None:
    """Without `import shared`, the same requests fail."""
    for settings, code in ((SETTINGS[0], CLIENTS["httpx"]), (SETTINGS[1], "import ollama")):
        command = [sys.executable, "-c", f"URL = {url!r}; {code}"]
        done = subprocess.run(command, env=under(settings), capture_output=True, text=True, timeout=60)
        assert done.returncode == 1, settings


def test_a_proxy_stays_for_all_other_addresses() -> None:
    mine = {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "intern.example, 10.0.0.1", "no_proxy": "other"}
    proxies.settle(mine)
    assert mine["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert mine["NO_PROXY"] == mine["no_proxy"] == "intern.example,10.0.0.1,other,127.0.0.1,localhost,::1"
    before = dict(mine)
    proxies.settle(mine)  # as a program does that this one starts
    assert mine == before


def test_an_environment_without_a_proxy_is_left_alone() -> None:
    for mine in ({}, {"NO_PROXY": "x"}, {"HTTP_PROXY": ""}):
        before = dict(mine)
        proxies.settle(mine)
        assert mine == before
    everything = {"HTTP_PROXY": "http://proxy.example:3128", "NO_PROXY": "*"}
    proxies.settle(everything)
    assert everything == {"HTTP_PROXY": "http://proxy.example:3128", "NO_PROXY": "*"}


def test_socks_of_a_desktop_becomes_a_kind_that_clients_know() -> None:
    mine = {"ALL_PROXY": "socks://user@proxy.example:1080/"}
    proxies.settle(mine)
    assert mine["ALL_PROXY"] == "socks5://user@proxy.example:1080/"


@pytest.mark.parametrize("proxy", ["socks4://proxy.example:1080", "http://", "http://proxy.example:port", "ftp://a"])
def test_what_no_client_can_use_is_dropped_with_a_reason(proxy: str) -> None:
    mine = {"ALL_PROXY": proxy, "HTTPS_PROXY": "http://proxy.example:3128"}
    proxies.settle(mine)
    assert "ALL_PROXY" not in mine
    assert mine["HTTPS_PROXY"] == "http://proxy.example:3128"
    assert proxies.fault(proxy)


@pytest.mark.parametrize("tree", ["labs", "solutions"])
def test_every_notebook_imports_shared_before_a_client(tree: str) -> None:
    for notebook in sorted((paths.REPO / tree).glob("*.ipynb")):
        cells = json.loads(notebook.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        first = [code.find(f"from {package}") for package in ("ollama", "openai") if f"from {package}" in code]
        assert all(0 <= code.find("from shared") < where for where in first), notebook.name
