"""What any chat page must do, by its address and a few selectors: ours, and the plain one that the lab starts from."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from shared.launch.process import Guarded
from shared.processes import free_port
from tests.helpers.webui import TREE, Scripted, WebUI, wait_for

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class ChatPage:
    """A chat page, and how to find its parts. An empty `stop`: it has no stop button."""

    url: str
    prompt: str = "#prompt"
    send: str = "#send"
    answer: str = ".message.assistant .body"
    stop: str = ""


@pytest.fixture
def baseline(scripted: Scripted, tmp_path: Path) -> Iterator[ChatPage]:
    """The plain page that the lab starts from."""
    port = free_port()
    env = {"WEBUI_PORT": str(port), "WEBUI_OLLAMA": scripted.url, "PYTHONPATH": str(TREE)}
    with (tmp_path / "log").open("wb") as log:
        process = Guarded([sys.executable, "-m", "webui.baseline"], log, cwd=tmp_path, env=env)
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(answers)
        yield ChatPage(f"http://127.0.0.1:{port}", answer="p.assistant")
    finally:
        process.end()


@pytest.fixture(params=["baseline", "ours"])
def chat(request: pytest.FixtureRequest) -> ChatPage:
    if request.param == "baseline":
        found: ChatPage = request.getfixturevalue("baseline")
        return found
    ui: WebUI = request.getfixturevalue("ui")
    return ChatPage(ui.url, stop="#stop")


@pytest.fixture
def page(chromium: Browser, chat: ChatPage) -> Iterator[Page]:
    page = chromium.new_page()
    page.add_init_script("window.hits = []; window.hit = () => hits.push('ran')")
    page.goto(chat.url)
    expect(page.locator("select option").first).to_be_attached()
    yield page
    page.close()


def ask(page: Page, chat: ChatPage, text: str) -> None:
    page.locator(chat.prompt).fill(text)
    page.locator(chat.send).click()


def test_it_sends_and_streams(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    scripted.text("One two three four five.")
    scripted.hang, scripted.blocks = True, scripted.blocks[:2]
    ask(page, chat, "Count.")
    expect(page.locator(chat.answer)).to_contain_text("One two")  # while the engine is still at it
    assert scripted.open == 1
    assert scripted.requests[-1]["messages"][-1]["content"] == "Count."


def test_it_keeps_the_conversation(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    ask(page, chat, "First")
    expect(page.locator(chat.answer)).to_contain_text("Hello.")
    page.locator(chat.send).click(trial=True)
    ask(page, chat, "Second")
    expect(page.locator(chat.answer)).to_have_count(2)
    wait_for(lambda: len(scripted.requests) == 2)
    assert [one["content"] for one in scripted.requests[-1]["messages"]] == ["First", "Hello.", "Second"]


def test_no_answer_runs_a_script(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    scripted.text("<img src=x onerror=hit()> <script>hit()</script> The end.")
    ask(page, chat, "Attack.")
    expect(page.locator(chat.answer)).to_contain_text("The end.")
    time.sleep(0.3)
    assert page.evaluate("hits") == []


def test_stop_frees_the_engine(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    scripted.hang, scripted.blocks = True, scripted.blocks[:1]
    ask(page, chat, "Talk.")
    wait_for(lambda: scripted.open == 1)
    if chat.stop:
        page.locator(chat.stop).click()
        wait_for(lambda: scripted.open == 0)
    else:  # the plain page has no stop: the engine works until the page is closed
        page.close()
        wait_for(lambda: scripted.open == 0)
