"""The chat page of either tree, started as its user starts it, and engines for it that do what a test asks.

WEBUI_TREE names the tree: solutions (the default), labs, or the folder that contains a student's package `webui`.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect

from shared import paths
from shared.course.webui.in_chromium.ollama_relay import LAST, OllamaRelay, line, said
from shared.launch.process import Guarded, until_ready
from shared.processes import descendants, free_port

TREE = paths.REPO / os.environ.get("WEBUI_TREE", "solutions")  # an absolute path replaces the repository


class WebUI:
    """A running server of the page."""

    def __init__(self, port: int, log: Path, process: Guarded) -> None:
        self.port, self.log, self.process = port, log, process
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """One request that must succeed, and its JSON."""
        response = self.client.request(method, path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def problem(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """One request that must fail: its status, what happened and the fix."""
        response = self.client.request(method, path, json=body)
        assert response.status_code >= 400, response.text
        found = response.json()
        assert found["what"]
        assert found["fix"]
        return {"status": response.status_code, **found}

    def new_chat(self, *targets: str, **more: Any) -> int:
        lanes = self.api("POST", "/api/chats", {"targets": targets or ["ollama:simulated"], **more})["lanes"]
        return int(lanes[0]["id"])

    def ask(self, chat: int, text: str, **more: Any) -> int:
        """Send a question. Returns the id of the answer."""
        return int(self.api("POST", f"/api/chats/{chat}/messages", {"text": text, **more})["answer"])

    def listen(self, answer: int) -> Generator[dict[str, Any], None, None]:
        with self.client.stream("GET", f"/api/answers/{answer}/events") as response:
            for line in response.iter_lines():
                yield json.loads(line)

    def whole(self, answer: int) -> dict[str, Any]:
        """Listen until the answer's end. Returns its message; the pieces together must be its text."""
        events = list(self.listen(answer))
        message: dict[str, Any] = events[-1]["message"]
        assert "".join(event["text"] for event in events[:-1]) == message["text"]
        return message

    def kill(self) -> None:
        """SIGKILL the server itself, as a crash would."""
        os.kill(descendants(self.process.pid)[0], signal.SIGKILL)


@contextlib.contextmanager
def running(folder: Path, ollama: str, tree: Path = TREE, **settings: object) -> Iterator[WebUI]:
    """The page's server in front of this Ollama; it ends with the block. `settings` are those of settings.py."""
    port, log = free_port(), folder / "webui.log"
    given = {"port": port, "ollama": ollama, "data": folder / "data", **settings}
    env = {"PYTHONPATH": str(tree), **{f"WEBUI_{name.upper()}": str(value) for name, value in given.items()}}
    with log.open("ab") as out:
        process = Guarded([sys.executable, "-m", "webui"], out, cwd=folder, env=env)
    try:
        until_ready(process, "The page's server", port, "/", log, 60)
        yield WebUI(port, log, process)
    finally:
        process.end()


def opened(chromium: Browser, ui: WebUI, chat: int | None = None) -> Page:
    """A tab that shows this chat, or a new one, and knows its models."""
    page = chromium.new_page(base_url=ui.url)
    page.goto(f"/#/chats/{chat}" if chat else "/")
    expect(page.locator("#lanes select").first).not_to_have_value("")
    return page


def wait_for(what: Callable[[], Any], timeout_s: float = 30) -> Any:
    """Call until the result is true, and return it."""
    end = time.monotonic() + timeout_s
    while not (found := what()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


class Scripted(OllamaRelay):
    """What speaks Ollama's /api/chat as a test prescribes. It notices when a client hangs up."""

    def __init__(self, port: int = 0) -> None:
        super().__init__(port=port)
        self.script = self.play
        self.gap_s, self.hang = 0.0, False  # hang: after the blocks send nothing, and keep the connection
        self.text("Hello.")
        self.start()

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was asked, the newest last."""
        return [one.body for one in self.asked]

    def text(self, text: str, piece: int = 4) -> None:
        """Answer with this text, in pieces of so many characters."""
        self.blocks = [said(text[at : at + piece]) for at in range(0, len(text), piece)]
        self.blocks.append(line(LAST))

    def reset(self) -> None:
        self.asked.clear()
        self.script = self.play
        self.gap_s, self.status, self.hang = 0.0, 200, False
        self.text("Hello.")

    async def play(self) -> AsyncIterator[bytes]:
        for block in list(self.blocks):
            yield block
            await asyncio.sleep(self.gap_s)
        if self.hang:
            await asyncio.sleep(3600)
