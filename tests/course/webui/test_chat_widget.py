"""The chat in a notebook's cell: it asks, shows, stops the engine, and is text where widgets don't work."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from shared.course.webui.chat_widget import SCRIPT, Chat
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay, line, pieces
from shared.hardware import host


@pytest.fixture
def relay() -> Iterator[OllamaRelay]:
    """What speaks Ollama's API, with answers that the test prescribes."""
    with OllamaRelay() as relay:
        yield relay


def wait_for(what: Callable[[], Any]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_asks_with_its_controls_and_keeps_the_conversation(relay: OllamaRelay) -> None:
    relay.script = lambda: pieces("Apples, pears, plums.")
    talk = Chat(relay.url, "simulated")
    talk.temperature.value, talk.tokens.value, talk.system.value = 0.5, 32, "Be brief."
    assert talk.ask("Name three fruits.") == "Apples, pears, plums."
    assert relay.asked[0].body["options"] == {"temperature": 0.5, "num_predict": 32}
    talk.ask("Again.")
    assert [one["content"] for one in relay.asked[1].body["messages"]] == [
        "Be brief.", "Name three fruits.", "Apples, pears, plums.", "Again.",
    ]  # fmt: skip
    assert not talk.shown.running
    assert talk.figures.value == "3 tokens, 30.0 tok/s by Ollama&#x27;s counters"


def test_stop_closes_the_connection_and_keeps_what_came(relay: OllamaRelay) -> None:
    talk = Chat(relay.url, "simulated")  # the stand-in's own script writes slowly
    asking = threading.Thread(target=talk.ask, args=("Go on.",))
    asking.start()
    wait_for(lambda: talk.shown.messages and talk.shown.messages[-1]["content"])
    talk.clicked(None, {"stop": True}, None)
    asking.join(30)
    assert not asking.is_alive()
    wait_for(lambda: relay.open == 0)
    assert relay.asked[0].left
    assert talk.shown.messages[-1]["content"].startswith("One")
    assert talk.figures.value == "stopped"


def test_a_click_asks_in_a_thread_and_nonsense_is_ignored(relay: OllamaRelay) -> None:
    relay.script = lambda: pieces("Yes.")
    talk = Chat(relay.url, "simulated")
    for nonsense in ({}, {"ask": "  "}, {"ask": 7}):
        talk.clicked(None, nonsense, None)
    talk.clicked(None, {"ask": "Are you there?"}, None)
    wait_for(lambda: talk.shown.messages and talk.shown.messages[-1]["content"] == "Yes.")
    assert len(relay.asked) == 1


async def broken() -> Any:
    yield line({"error": "out of memory"})


def test_an_error_is_shown_with_its_fix(relay: OllamaRelay) -> None:
    talk = Chat(relay.url, "simulated")
    relay.script = broken
    talk.ask("Hi")
    assert "out of memory" in talk.figures.value
    relay.stop()
    try:
        talk.ask("Hi")
        assert "Fix:" in talk.figures.value
        assert not talk.shown.running
    finally:
        relay.start()


def test_without_widgets_the_conversation_is_text(relay: OllamaRelay) -> None:
    relay.script = lambda: pieces("<b>bold</b>")
    talk = Chat(relay.url, "simulated")
    talk.ask("Hi")
    view = talk._repr_mimebundle_()
    assert view["text/plain"] == "A chat with simulated\nuser: Hi\nassistant: <b>bold</b>"
    assert "&lt;b&gt;" in view["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in view


MODEL = """
async ([script, messages]) => {
  const module = await import(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})));
  const state = {messages, running: true}, heard = {};
  window.sent = [];
  window.hit = () => sent.push('ran');
  const model = {get: (name) => state[name], on: (name, f) => (heard[name] = f), off: () => {},
    send: (m) => sent.push(m)};
  module.default.render({model, el: document.body});
  window.change = (name, value) => { state[name] = value; heard[`change:${name}`](); };
}
"""


@pytest.mark.browser
def test_its_script_shows_text_as_text_and_sends_what_is_typed() -> None:
    attack = "<img src=x onerror=hit()><script>hit()</script>"
    expect.set_options(timeout=20_000)  # the tests' machine may be busy
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=host.browser(), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content("<body></body>")
        page.evaluate(MODEL, [SCRIPT.read_text(), [{"role": "assistant", "content": attack}]])
        expect(page.get_by_role("log")).to_have_text(f"assistant: {attack}")
        page.get_by_role("button", name="Stop").click()
        page.evaluate("change('running', false)")
        expect(page.get_by_role("button", name="Stop")).to_be_disabled()
        page.get_by_label("Your message").fill("Hello")
        page.get_by_label("Your message").press("Enter")
        page.evaluate("change('messages', [{role: 'user', content: 'Hello'}])")
        expect(page.get_by_role("log")).to_have_text("user: Hello")
        assert json.loads(page.evaluate("JSON.stringify(sent)")) == [{"stop": True}, {"ask": "Hello"}]
        browser.close()
