"""A gateway of either tree, started as its user starts it, in front of engines.

GATEWAY_TREE names the tree: solutions (the default), labs, or the folder that contains a student's package `gateway`.
"""

import contextlib
import hmac
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from shared import paths
from shared.launch.process import Guarded
from shared.processes import descendants, free_port
from tests.helpers.processes import START_S

TREE = paths.REPO / os.environ.get("GATEWAY_TREE", "solutions")  # an absolute path replaces the repository
HELLO = {"model": "truth", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
# Limits so short that a test can wait for them, with a breaker that never opens; and limits that no test reaches. A
# machine that is busy holds a process up for a second now and then, which must not look like a fault of an engine.
SHORT: dict[str, Any] = {"first_byte_s": 2, "idle_s": 2, "breaker_failures": 10**6}
MANY: dict[str, Any] = {"limits": {"requests_per_minute": 10**6, "burst": 10**6, "concurrent": 1000}}


class Gateway:
    """A running gateway."""

    def __init__(self, url: str, log: Path, process: Guarded) -> None:
        self.url, self.log, self.process = url, log, process
        self.client = httpx.Client(base_url=url, timeout=20, trust_env=False)

    def chat(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={**HELLO, **fields})

    def count(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == f"gateway:{name}" and all(f'{k}="{v}"' in sample for k, v in labels.items()):
                total += float(value)
        return total

    def terminate(self) -> None:
        """Send SIGTERM to the gateway itself, not to its watchdog."""
        os.kill(self.pid, signal.SIGTERM)

    @property
    def pid(self) -> int:
        """The process that `python -m gateway` is: the gateway, or with several workers their parent."""
        return descendants(self.process.pid)[0]

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


SECRET = "a secret of the tests"


def write_keys(file: Path, keys: Mapping[str, Mapping[str, object]]) -> Path:
    """Write a keys file. NAME's key is `sk-NAME`; its entry may hold `priority` and `limits`."""
    entries = {
        name: {"hash": hmac.digest(SECRET.encode(), f"sk-{name}".encode(), "sha256").hex(), **entry}
        for name, entry in keys.items()
    }
    file.write_text(json.dumps({"secret": SECRET, "keys": entries}))
    return file


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer sk-{name}"}


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


@contextlib.contextmanager
def running(
    folder: Path,
    engines: Mapping[str, str | Mapping[str, object]],
    seats: int = 4,
    tree: Path | None = None,
    ready: bool = True,
    **settings: object,
) -> Iterator[Gateway]:
    """A gateway in front of these engines (name → url or settings), each with so many seats; it ends with the block.

    `ready`: wait for an engine that answers, not only for the gateway.
    """
    port = settings.pop("port", None) or free_port()
    config = [f"{name} = {toml(value)}" for name, value in {"port": port, **settings}.items()]
    for name, engine in engines.items():
        fields = {"url": engine} if isinstance(engine, str) else engine
        config += [f"[engines.{name}]", *(f"{k} = {toml(v)}" for k, v in {"seats": seats, **fields}.items())]
    (folder / "gateway.toml").write_text("\n".join(config))
    log = folder / "gateway.log"
    with log.open("wb") as out:
        env = {"GATEWAY_CONFIG": str(folder / "gateway.toml"), "PYTHONPATH": str(tree or TREE)}
        process = Guarded([sys.executable, "-m", "gateway"], out, cwd=folder, env=env)
    try:
        gateway = Gateway(f"http://127.0.0.1:{port}", log, process)
        end = time.monotonic() + START_S
        while time.monotonic() < end and process.exit_code() is None:
            with contextlib.suppress(httpx.TransportError):
                if gateway.client.get("/ready").status_code == 200 or not (engines and ready):
                    break
            time.sleep(0.05)
        else:
            raise RuntimeError(f"the gateway did not get ready: {log.read_text()}")
        yield gateway
    finally:
        process.end()


@contextlib.contextmanager
def naming_models(after_s: float = 0) -> Iterator[ThreadingHTTPServer]:
    """An engine that only names its model, after a while. It ends with the block, or when `server_close` is called."""

    class Names(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(after_s)
            body = b'{"data": [{"id": "truth"}]}'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Names) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
