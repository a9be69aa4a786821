"""What a page does when two things happen at once: in two tabs, on two chats, while something is on its way."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, Route, expect

from tests.helpers.webui import TREE, Scripted, WebUI, opened, running, said, wait_for

pytestmark = pytest.mark.browser


def slow(page: Page, pattern: str, method: str, ms: int = 600) -> None:
    """Hold up these requests. What follows needs page.wait_for_timeout: this handler runs in the page's own loop."""

    def handle(route: Route) -> None:
        with contextlib.suppress(Error):  # the page may have been closed: the next test would get this error
            if route.request.method == method:
                page.wait_for_timeout(ms)
            route.continue_()

    page.route(pattern, handle)


def chat_of_one_question(chromium: Browser, ui: WebUI) -> tuple[int, Page]:
    """A chat with an answered question, and a page that shows it."""
    chat = ui.new_chat()
    ui.whole(ui.ask(chat, "First."))
    page = opened(chromium, ui, chat)
    expect(page.locator(".message.user")).to_have_count(1)
    return chat, page


def models(page: Page, *names: str) -> None:
    """From now on the page hears of these models."""
    listed: dict[str, Any] = {"models": [], "loaded": [], "pulls": [], "problems": []}
    page.route("**/api/models", lambda route: route.fulfill(json={**listed, "targets": list(names)}))


def test_a_question_stays_on_the_screen_when_another_tab_changes_its_chat_meanwhile(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    chat, page = chat_of_one_question(chromium, ui)
    slow(page, "**/messages", "POST")
    page.fill("#prompt", "Second.")
    page.keyboard.press("Enter")
    page.evaluate(f"new BroadcastChannel('webui').postMessage({chat})")
    page.wait_for_timeout(2000)
    expect(page.locator(".message.user .body")).to_have_text(["First.", "Second."])
    expect(page.locator(".message.assistant .body")).to_have_text(["Hello.", "Hello."])
    page.close()


def test_an_older_state_of_a_chat_does_not_replace_a_newer_one(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    chat, page = chat_of_one_question(chromium, ui)

    def old(route: Route) -> None:
        response = route.fetch()
        page.wait_for_timeout(800)
        route.fulfill(response=response)

    page.route(f"**/api/chats/{chat}", old, times=1)
    scripted.hang, scripted.blocks = True, [said("Still running")]
    page.evaluate(f"new BroadcastChannel('webui').postMessage({chat})")
    page.wait_for_timeout(200)
    page.fill("#prompt", "Second.")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2000)
    expect(page.locator(".message.user .body")).to_have_text(["First.", "Second."])
    expect(page.get_by_label("Stop the answer")).to_be_visible()
    page.keyboard.press("Escape")
    wait_for(lambda: scripted.open == 0)
    page.close()


def test_a_question_that_is_sent_before_the_list_of_models_has_come_waits_for_it(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    page = chromium.new_page(base_url=ui.url)
    slow(page, "**/api/models", "GET")
    page.goto("/")
    page.fill("#prompt", "Hello?")
    page.keyboard.press("Enter")
    page.wait_for_timeout(2000)
    expect(page.locator(".message.assistant .body")).to_have_text("Hello.")
    expect(page.locator("#problems")).to_be_empty()
    page.close()


def test_a_new_chat_is_not_named_after_a_question_of_another(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    page = opened(chromium, ui, ui.new_chat())
    slow(page, "**/messages", "POST", 300)
    page.fill("#prompt", "A question of an older chat")
    page.keyboard.press("Enter")
    page.keyboard.press("Alt+n")
    expect(page.locator("#chats")).to_contain_text("A question of an older chat")  # it was sent
    page.wait_for_timeout(300)
    expect(page.locator("h1#title")).to_have_text("New chat")
    wait_for(lambda: scripted.asked and not scripted.open)  # else the next test might count this request
    page.close()


def test_a_question_waits_for_the_choice_of_its_model(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    page = chromium.new_page(base_url=ui.url)
    models(page, "ollama:simulated", "ollama:other")
    page.goto(f"/#/chats/{ui.new_chat()}")
    expect(page.locator("#lanes option")).to_have_count(2)
    slow(page, "**/api/chats/*", "PATCH")
    page.get_by_label("Model", exact=True).select_option("ollama:other")
    page.fill("#prompt", "Who are you?")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .body")).to_have_text("Hello.")
    assert [request["model"] for request in scripted.requests] == ["other"]
    page.close()


def test_a_chosen_model_stays_when_the_list_of_models_changes(chromium: Browser, ui: WebUI) -> None:
    page = chromium.new_page(base_url=ui.url)
    models(page, "ollama:simulated", "ollama:other")
    page.goto(f"/#/chats/{ui.new_chat()}")
    expect(page.locator("#lanes option")).to_have_count(2)
    page.get_by_label("Model", exact=True).select_option("ollama:other")
    models(page, "ollama:simulated", "ollama:other", "ollama:third")
    page.keyboard.press("Alt+m")
    expect(page.locator("#lanes option")).to_have_count(3)
    expect(page.locator("#lanes select")).to_have_value("ollama:other")
    page.close()


def test_settings_are_saved_for_the_chat_in_which_they_were_typed(chromium: Browser, ui: WebUI) -> None:
    older, newer = ui.new_chat(), ui.new_chat()
    page = opened(chromium, ui, newer)
    expect(page.locator("#chats [aria-current]")).to_have_count(1)
    page.locator("#open-parameters").click()
    page.locator("#p-system").press_sequentially("You are a pirate.")
    page.keyboard.press("Alt+ArrowDown")  # while the field has the focus
    expect(page).to_have_url(f"{ui.url}/#/chats/{older}")

    def system(chat: int) -> str:
        return str(ui.api("GET", f"/api/chats/{chat}")["lanes"][0]["system"])

    wait_for(lambda: system(newer) == "You are a pirate.")
    assert system(older) == ""
    page.evaluate("localStorage.removeItem('webui.defaults')")
    page.close()


def test_a_mistake_leaves_the_value_that_was_saved_last(chromium: Browser, ui: WebUI) -> None:
    chat = ui.new_chat()
    page = opened(chromium, ui, chat)
    page.locator("#open-parameters").click()

    def kept() -> dict[str, Any]:
        parameters: dict[str, Any] = ui.api("GET", f"/api/chats/{chat}")["lanes"][0]["parameters"]
        return parameters

    for seed, top_p in (("5", "0.5"), ("-5", "0.6")):
        page.fill("#p-seed", seed)
        page.fill("#p-top_p", top_p)
        page.locator("#p-system").focus()
        wait_for(lambda top_p=top_p: kept().get("top_p") == float(top_p))
    expect(page.locator("#h-seed")).to_contain_text("Not saved")
    assert kept() == {"seed": 5, "top_p": 0.6}
    page.evaluate("localStorage.removeItem('webui.defaults')")
    page.close()


def test_an_answer_that_is_left_for_a_comparison_is_not_read_out_any_more(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    scripted.gap_s = 0.1
    scripted.text("One block of text.\n\n" * 20)
    page = opened(chromium, ui)
    page.fill("#prompt", "Go on.")
    page.keyboard.press("Enter")
    expect(page.locator("#announcer")).to_contain_text("One block of text.")
    page.keyboard.press("Alt+c")
    expect(page.locator(".lane")).to_have_count(2)
    page.evaluate("document.querySelector('#announcer').replaceChildren()")
    wait_for(lambda: scripted.open == 0)
    page.wait_for_timeout(500)
    expect(page.locator("#announcer")).to_be_empty()
    page.close()


def test_a_slow_ollama_is_asked_for_its_models_one_request_at_a_time(chromium: Browser, ui: WebUI) -> None:
    """A browser has six connections for a server: with all of them waiting, no answer could be stopped."""
    page = opened(chromium, ui)
    asked: list[Route] = []
    page.route("**/api/models", lambda route: asked.append(route))
    page.keyboard.press("Alt+m")
    page.wait_for_timeout(3500)
    assert len(asked) == 1
    with page.expect_request("**/api/models"):  # the next one, a second after the end of this
        asked.pop().continue_()
    page.wait_for_timeout(2500)
    assert len(asked) == 1
    page.close()


def test_the_skip_link_leads_to_the_prompt_of_this_chat(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    chat = ui.new_chat()
    ui.whole(ui.ask(chat, "Stay here."))
    page = opened(chromium, ui, chat)
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_be_focused()
    page.wait_for_timeout(300)
    expect(page.locator("h1#title")).to_have_text("Stay here.")
    expect(page).to_have_url(f"{ui.url}/#/chats/{chat}")
    page.close()


def test_a_chat_is_opened_in_another_tab_as_every_link_is(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    chat = ui.new_chat()
    ui.whole(ui.ask(chat, "In its own tab"))
    context = chromium.new_context(base_url=ui.url)
    page = context.new_page()
    page.goto("/")
    with context.expect_page() as other:
        page.locator("#chats a", has_text="In its own tab").first.click(modifiers=["ControlOrMeta"])
    expect(other.value.locator("h1#title")).to_have_text("In its own tab")
    expect(page.locator("h1#title")).to_have_text("New chat")
    context.close()


@pytest.mark.parametrize("number", ["99999999999999999999", "9" * 400], ids=len)
def test_an_address_without_a_chat_opens_a_new_one(chromium: Browser, ui: WebUI, number: str) -> None:
    page = opened(chromium, ui)
    page.goto("about:blank")
    page.goto(f"/#/chats/{number}")
    expect(page.locator("#lanes select")).not_to_have_value("")
    page.close()


def test_escape_in_an_input_method_stops_no_answer(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    """There it only ends the choice of a character, in Japanese or Chinese."""
    scripted.hang, scripted.blocks = True, [said("Still running")]
    page = opened(chromium, ui)
    page.fill("#prompt", "Go on.")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .body")).to_contain_text("Still")
    escape = "new KeyboardEvent('keydown', {key: 'Escape', bubbles: true, isComposing: true})"
    page.evaluate(f"document.querySelector('#prompt').dispatchEvent({escape})")
    page.wait_for_timeout(500)
    assert scripted.open == 1
    page.keyboard.press("Escape")
    wait_for(lambda: scripted.open == 0)
    page.close()


def test_a_browser_that_does_not_copy_or_fetch_is_no_fault_of_the_page(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    scripted.text("> Quoted:\n>\n> ```python\n> print(1)\n> ```\n")
    context = chromium.new_context(base_url=ui.url)
    faults: list[str] = []
    context.on("weberror", lambda error: faults.append(str(error.error)))
    page = context.new_page()
    page.add_init_script("navigator.clipboard.writeText = () => Promise.reject(new Error('not allowed'))")
    page.route("**/highlight/**", lambda route: route.abort())
    page.goto("/")
    expect(page.locator("#lanes select")).not_to_have_value("")
    page.fill("#prompt", "Code?")
    page.keyboard.press("Enter")
    page.get_by_label("Copy this code").click()
    expect(page.locator("#problems")).to_contain_text("not allowed")
    expect(page.locator("#problems .problem")).to_have_count(1)
    page.get_by_label("Copy this message").last.click()
    page.wait_for_timeout(300)
    expect(page.locator("#problems .problem")).to_have_count(1)
    assert faults == []
    page.unroute("**/highlight/**")
    page.get_by_label("Regenerate this answer").click()
    expect(page.locator("blockquote pre .hljs-built_in")).to_have_text("print")
    context.close()


def test_a_script_that_was_changed_is_used_at_the_next_reload(
    chromium: Browser, scripted: Scripted, tmp_path: Path
) -> None:
    """A student changes static/pacer.js, which is weeks old, and presses F5."""
    shutil.copytree(TREE / "webui", tmp_path / "tree" / "webui")
    script = tmp_path / "tree" / "webui" / "static" / "pacer.js"
    os.utime(script, (1.7e9, 1.7e9))
    with running(tmp_path, scripted.url, tree=tmp_path / "tree") as ui:
        page = opened(chromium, ui)
        assert page.evaluate("window.changed") is None
        script.write_text(script.read_text() + "window.changed = true;\n")
        page.reload()
        expect(page.locator("#lanes select")).not_to_have_value("")
        assert page.evaluate("window.changed") is True
        page.close()
