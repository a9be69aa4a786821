"""What a user meets who is in a hurry, has no mouse, or whose server or engine ends in the middle of an answer."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from shared.course.webui.in_chromium.ollama_relay import pieces
from tests.helpers.webui import Scripted, WebUI, running, wait_for

pytestmark = pytest.mark.browser


def opened(chromium: Browser, ui: WebUI) -> Page:
    page = chromium.new_page(base_url=ui.url)
    page.goto("/")
    expect(page.locator("#lanes select")).not_to_have_value("")
    return page


def test_what_had_come_stays_when_the_server_ends(chromium: Browser, scripted: Scripted, tmp_path: Path) -> None:
    scripted.text("One two three four.")
    scripted.hang, scripted.blocks = True, scripted.blocks[:-1]
    with running(tmp_path, scripted.url) as ui:
        page = opened(chromium, ui)
        page.fill("#prompt", "Count.")
        page.keyboard.press("Enter")
        expect(page.locator(".message.assistant .body")).to_contain_text("One two three")
        ui.kill()
        expect(page.locator(".note.lost")).to_contain_text("The connection was lost", timeout=60_000)
        expect(page.locator(".message.assistant .body")).to_contain_text("One two three")
        page.close()


def test_what_had_come_stays_and_is_kept_when_the_engine_ends(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    scripted.text("One two three four.")
    scripted.hang, scripted.blocks = True, scripted.blocks[:-1]
    page = opened(chromium, ui)
    page.fill("#prompt", "Count.")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .body")).to_contain_text("One two three")
    scripted.cut()
    expect(page.locator(".note.failed")).to_contain_text("press Regenerate")
    page.reload()
    expect(page.locator(".message.assistant .body")).to_contain_text("One two three")
    scripted.reset()
    page.get_by_label("Regenerate this answer").click()
    expect(page.locator(".message.assistant .body")).to_contain_text("Hello.")
    page.close()


def test_enter_twice_asks_once(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    page = opened(chromium, ui)
    page.route("**/api/chats", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.fill("#prompt", "Once.")
    page.evaluate("for (const _ of [1, 2]) document.querySelector('#composer').requestSubmit()")
    expect(page.locator(".message.assistant .figures")).to_contain_text("first token")
    page.wait_for_timeout(500)
    assert len(scripted.asked) == 1
    assert page.locator(".message.user").count() == 1
    page.close()


def test_the_menu_is_used_with_the_keyboard_alone(chromium: Browser, ui: WebUI) -> None:
    page = opened(chromium, ui)
    page.locator("#open-menu").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#export-all")).to_be_focused()  # the first that a new chat allows
    page.keyboard.press("ArrowUp")
    expect(page.locator("#shortcuts")).to_be_focused()
    page.keyboard.press("Home")
    expect(page.locator("#export-all")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#menu")).to_be_hidden()
    expect(page.locator("#open-menu")).to_be_focused()
    page.close()


def test_a_chat_goes_on_when_this_machine_is_offline(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    """Nothing that the page needs is elsewhere: requests to any other server are refused here."""
    scripted.script = lambda: pieces("**Bold** and `code`.\n\n```python\nprint(1)\n```\n")
    page = chromium.new_page(base_url=ui.url)
    refused: list[str] = []
    page.route(
        lambda url: not url.startswith(ui.url), lambda route: (refused.append(route.request.url), route.abort())[1]
    )
    page.goto("/")
    page.fill("#prompt", "Go on.")
    page.keyboard.press("Enter")
    expect(page.locator(".hljs-built_in")).to_be_attached()
    wait_for(lambda: scripted.asked[-1].done)
    assert refused == []
    scripted.script = scripted.play
    page.close()
