"""A chat with Ollama in a notebook's cell: anywidget for the conversation, ipywidgets for its controls.

    talk = chat_widget.Chat(ollama.url, ollama.served_name)
    talk                                    # the last line of a cell shows it
    talk.ask("Name three fruits.")          # the same from code: returns the answer

Where widgets don't work, as on GitHub or on paper, the conversation is shown as text.
"""

import contextlib
import html
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anywidget
import ipywidgets
import traitlets

from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.launch.running import Engine

UPDATES_PER_S = 20  # how often a running answer is sent to the page: pieces in between are gathered
SCRIPT = Path(__file__).with_name("chat_widget.js")
QUESTION = "Name the capital of France."
LONG_QUESTION = "Tell me a very long story about a river."


class Stopped(Exception):
    """The answer was stopped."""


class Conversation(anywidget.AnyWidget):
    """The messages on the screen, and a field to write in. Its script only shows; this program talks to Ollama."""

    _esm = SCRIPT
    messages: traitlets.List[dict[str, str]] = traitlets.List(traitlets.Dict()).tag(
        sync=True
    )  # {"role", "content"}, as Ollama takes them
    running = traitlets.Bool(False).tag(sync=True)


class Chat:
    """A conversation with one model. `ask` and `stop` may be called from different threads."""

    def __init__(self, url: str, model: str) -> None:
        self.host, self.model = urlsplit(url).netloc, model
        self.shown = Conversation()
        self.temperature = ipywidgets.FloatSlider(value=0.7, min=0, max=2, step=0.1, description="temperature")
        self.tokens = ipywidgets.IntSlider(value=128, min=16, max=1024, step=16, description="at most, tokens")
        self.system = ipywidgets.Text(placeholder="none", description="system")
        for one in (self.temperature, self.tokens, self.system):
            one.style.description_width = "8em"
        self.figures = ipywidgets.HTML()
        self.connection: http.client.HTTPConnection | None = None
        self.stopped = False
        self.last: dict[str, Any] = {}  # Ollama's last object
        self.shown.on_msg(self.clicked)

    def clicked(self, _: object, content: dict[str, Any], __: object) -> None:
        """What the page sends: a question, or stop. An answer is written in a thread, so that stop can be heard."""
        if content.get("stop"):
            self.stop()
        elif isinstance(text := content.get("ask"), str) and text.strip() and not self.shown.running:
            threading.Thread(target=self.ask, args=(text,), daemon=True).start()

    def ask(self, text: str) -> str:
        """Ask this, and show the answer as it comes. Returns the answer's text, or what came until it was stopped."""
        before = [*self.shown.messages, {"role": "user", "content": text}]
        answer, sent = "", 0.0
        self.shown.messages = [*before, {"role": "assistant", "content": ""}]
        self.shown.running, self.stopped, self.last = True, False, {}
        note = ""
        try:
            for piece in self.pieces(before):
                answer += piece
                if time.monotonic() - sent > 1 / UPDATES_PER_S:
                    sent = time.monotonic()
                    self.shown.messages = [*before, {"role": "assistant", "content": answer}]
        except Stopped:
            note = "stopped"
        except (OSError, http.client.HTTPException, ValueError) as e:
            note = f"Ollama did not answer: {e}. Fix: run the cell that starts Ollama, then this one."
        self.shown.messages = [*before, {"role": "assistant", "content": answer}]
        self.shown.running = False
        self.figures.value = html.escape(note or figures(self.last))
        return answer

    def pieces(self, messages: list[dict[str, str]]) -> Iterator[str]:
        """The pieces of one answer. Raises Stopped after `stop`, and OSError or ValueError if Ollama fails."""
        if system := self.system.value:
            messages = [{"role": "system", "content": system}, *messages]
        options = {"temperature": self.temperature.value, "num_predict": self.tokens.value}
        body = {"model": self.model, "messages": messages, "options": options}
        with contextlib.closing(http.client.HTTPConnection(self.host)) as self.connection:
            try:
                self.connection.request("POST", "/api/chat", json.dumps(body))
                for line in self.connection.getresponse():
                    event = json.loads(line)
                    if "error" in event:
                        raise ValueError(event["error"])
                    yield event["message"]["content"]
                    if event["done"]:
                        self.last = event
                        return
            except (OSError, http.client.HTTPException, ValueError):
                if self.stopped:
                    raise Stopped from None
                raise
        raise Stopped if self.stopped else OSError("the answer ended in the middle")

    def stop(self) -> None:
        """Close the connection of the running answer: that is how Ollama learns that nobody reads it."""
        self.stopped = True
        if self.connection and self.connection.sock:
            with contextlib.suppress(OSError):
                self.connection.sock.shutdown(socket.SHUT_RDWR)

    def text(self) -> str:
        """The conversation as plain text."""
        lines = [f"{one['role']}: {one['content']}" for one in self.shown.messages]
        return "\n".join([f"A chat with {self.model}", *lines])

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        controls = ipywidgets.HBox([self.temperature, self.tokens, self.system])
        box = ipywidgets.VBox([controls, self.shown, self.figures])
        view: dict[str, Any] = box._repr_mimebundle_() or {}
        return {**view, "text/html": f"<pre>{html.escape(self.text())}</pre>", "text/plain": self.text()}


def figures(last: dict[str, Any]) -> str:
    """Ollama's own counters in words; "" without them."""
    if not last.get("eval_duration"):
        return ""
    tokens, seconds = last["eval_count"], last["eval_duration"] / 1e9
    return f"{tokens} tokens, {tokens / seconds:.1f} tok/s by Ollama's counters"


def prove(ollama: Engine) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask through the widget's own code, and stop a long answer. A relay shows what reached Ollama. (values, raw)"""
    with OllamaRelay(ollama.url) as relay:
        talk = Chat(relay.url, ollama.served_name)
        talk.temperature.value = 0
        answer = talk.ask(QUESTION)
        talk.tokens.value = 1024
        asking = threading.Thread(target=talk.ask, args=(LONG_QUESTION,))
        asking.start()
        while len(relay.asked) < 2 or (relay.asked[1].first_s is None and asking.is_alive()):
            time.sleep(0.01)
        talk.stop()
        asking.join()
        end = time.monotonic() + 10
        while relay.open and time.monotonic() < end:
            time.sleep(0.01)
        left = [one.left for one in relay.asked]
    raw = {"messages": talk.shown.messages, "left": left}
    return {"answered": bool(answer.strip()), "stopped": talk.stopped, "left": left == [False, True]}, raw
