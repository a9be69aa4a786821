"""What any chat page must do, by its address and a few selectors: ours, and the plain one that the lab starts from.

A third one, such as the UI of an earlier course, is named by variables. Its Ollama is then 127.0.0.1:WEBUI_ENGINE_PORT:

    WEBUI_ENGINE_PORT=11435 WEBUI_PAGE_URL=http://127.0.0.1:8501 WEBUI_PAGE_PROMPT=textarea WEBUI_PAGE_SEND="" \\
        WEBUI_PAGE_ANSWER=.assistant WEBUI_PAGE_STOP=button.stop python -m pytest tests/webui/test_any_chat_page.py

A variable that is left out stands for our page's selector, an empty SEND for the Enter key, an empty STOP for a page
without that button. test_open_webui.py runs the checks of the lab against Open WebUI.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from shared.course.webui.in_chromium.chat_page import ChatPage
from shared.launch.process import Guarded
from shared.processes import free_port
from tests.helpers.webui import TREE, Scripted, WebUI, wait_for

pytestmark = pytest.mark.browser


PARTS = ("prompt", "send", "answer", "stop", "ready")
GIVEN = {part: os.environ[name] for part in PARTS if (name := f"WEBUI_PAGE_{part.upper()}") in os.environ}
YOURS = os.environ.get("WEBUI_PAGE_URL", "")


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
        yield ChatPage("plain", f"http://127.0.0.1:{port}", answer="p.assistant", stop="")
    finally:
        process.end()


@pytest.fixture(params=["baseline", "ours", *(["yours"] if YOURS else [])])
def chat(request: pytest.FixtureRequest) -> ChatPage:
    if request.param == "yours":
        request.getfixturevalue("scripted")
        return ChatPage("yours", YOURS, **{"ready": "", **GIVEN})  # type: ignore[arg-type]
    if request.param == "baseline":
        found: ChatPage = request.getfixturevalue("baseline")
        return found
    ui: WebUI = request.getfixturevalue("ui")
    return ChatPage("webui", ui.url)


@pytest.fixture
def page(chromium: Browser, chat: ChatPage) -> Iterator[Page]:
    page = chromium.new_page()
    page.add_init_script("window.hits = []; window.hit = () => hits.push('ran')")
    page.goto(chat.url)
    if chat.ready:
        expect(page.locator(chat.ready).first).to_be_attached()
    yield page
    page.close()


def ask(page: Page, chat: ChatPage, text: str) -> None:
    page.locator(chat.prompt).last.fill(text)
    if chat.send:
        page.locator(chat.send).last.click()
    else:
        page.locator(chat.prompt).last.press("Enter")


def test_it_sends_and_streams(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    scripted.text("One two three four five.")
    scripted.hang, scripted.blocks = True, scripted.blocks[:2]
    ask(page, chat, "Count.")
    expect(page.locator(chat.answer).last).to_contain_text("One two")  # while the engine is still at it
    assert scripted.open == 1
    assert scripted.requests[-1]["messages"][-1]["content"] == "Count."


def test_it_keeps_the_conversation(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    ask(page, chat, "First")
    expect(page.locator(chat.answer).last).to_contain_text("Hello.")
    if chat.send:
        page.locator(chat.send).last.click(trial=True)
    ask(page, chat, "Second")
    expect(page.locator(chat.answer)).to_have_count(2)
    wait_for(lambda: len(scripted.requests) == 2)
    assert [one["content"] for one in scripted.requests[-1]["messages"]] == ["First", "Hello.", "Second"]


def test_no_answer_runs_a_script(page: Page, chat: ChatPage, scripted: Scripted) -> None:
    scripted.text("<img src=x onerror=hit()> <script>hit()</script> The end.")
    ask(page, chat, "Attack.")
    expect(page.locator(chat.answer).last).to_contain_text("The end.")
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
