"""What a user meets who is in a hurry, has no mouse, or whose server or engine ends in the middle of an answer."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from shared.course.webui.in_chromium.ollama_relay import line, pieces, said
from tests.helpers.webui import Scripted, WebUI, opened, running, wait_for

pytestmark = pytest.mark.browser


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


def hanging(scripted: Scripted, *events: bytes) -> None:
    """The engine sends these lines, and then nothing."""
    scripted.hang, scripted.blocks = True, list(events)


def test_a_question_stays_in_its_chat_when_another_is_chosen_while_it_is_sent(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    other = ui.new_chat()
    ui.whole(ui.ask(other, "Another chat"))
    mine = ui.new_chat()
    page = opened(chromium, ui, mine)
    page.route("**/messages", lambda route: (page.wait_for_timeout(600), route.continue_()))
    page.fill("#prompt", "Whose is this?")
    page.keyboard.press("Enter")
    page.evaluate(f"location.hash = '#/chats/{other}'")

    def kept() -> bool:
        page.wait_for_timeout(100)  # the route above needs the page's own loop, so no other wait
        return len(ui.api("GET", f"/api/chats/{mine}")["lanes"][0]["messages"]) == 2

    wait_for(kept)
    page.wait_for_timeout(500)  # until the page has got the answer to its question
    expect(page.locator(".message.user")).to_have_text("Another chat")
    expect(page.locator("#problems")).to_be_empty()
    page.evaluate(f"location.hash = '#/chats/{mine}'")
    expect(page.locator(".message.user")).to_have_text("Whose is this?")
    expect(page.locator(".message.assistant .body")).to_have_text("Hello.")
    page.close()


def test_an_answer_goes_on_that_is_left_while_its_question_is_sent(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    """The server stops an answer that no page listens to (after five seconds here)."""
    hanging(scripted, said("Begun."))
    page = opened(chromium, ui, ui.new_chat())
    page.route("**/messages", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.fill("#prompt", "Go on without me.")
    page.keyboard.press("Enter")
    page.keyboard.press("Alt+n")
    expect(page.locator("h2", has_text="What would you like to know?")).to_be_visible()
    page.wait_for_timeout(8000)
    assert scripted.open == 1
    expect(page.locator("#problems")).to_be_empty()
    scripted.cut()
    page.close()


def test_a_regenerated_answer_goes_on_that_is_left_while_it_is_asked_for(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    page = opened(chromium, ui)
    chat = ui.new_chat()
    ui.whole(ui.ask(chat, "First."))
    hanging(scripted, said("Begun."))
    page.goto(f"/#/chats/{chat}")
    page.route("**/regenerate", lambda route: (page.wait_for_timeout(300), route.continue_()))
    page.get_by_label("Regenerate this answer").click()
    page.keyboard.press("Alt+n")
    expect(page.locator("h2", has_text="What would you like to know?")).to_be_visible()
    page.wait_for_timeout(8000)
    assert scripted.open == 1
    scripted.cut()
    page.close()


def test_escape_in_the_search_or_in_an_edit_stops_no_answer(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    page = opened(chromium, ui)
    page.fill("#prompt", "First.")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Regenerate this answer")).to_be_visible()  # before its end no second one is asked for
    hanging(scripted, said("Still running, and on"))
    page.fill("#prompt", "Second.")
    page.keyboard.press("Enter")
    expect(page.locator(".message:last-child .body")).to_contain_text("Still running")
    page.fill("#search", "First")
    page.keyboard.press("Escape")
    expect(page.locator("#search")).to_have_value("")
    page.get_by_label("Edit this message").first.click()
    page.keyboard.press("Escape")
    expect(page.locator(".edit")).to_have_count(0)
    page.wait_for_timeout(300)
    assert scripted.open == 1
    page.keyboard.press("Escape")
    wait_for(lambda: scripted.open == 0)
    page.close()


def test_stop_works_while_other_answers_use_all_of_the_browsers_connections(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    hanging(scripted, said("Long, and longer"))
    page = opened(chromium, ui)
    others = [ui.ask(ui.new_chat(), "Talk.") for _ in range(5)]
    page.evaluate("ids => ids.forEach((id) => fetch(`/api/answers/${id}/events`))", others)
    page.fill("#prompt", "Talk, too.")
    page.keyboard.press("Enter")
    expect(page.locator(".message.assistant .body")).to_contain_text("Long, and longe")
    wait_for(lambda: scripted.open == 6)
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant footer")).to_contain_text("Stopped.")
    wait_for(lambda: scripted.open < 6)  # the engine notices it a little later than the page
    assert scripted.open == 5
    page.close()
    scripted.cut()


def test_code_in_a_list_has_its_colours_and_a_copy_button(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    scripted.text("- Write this:\n  ```python\n  print(1)\n  ```\n- Run it.\n")
    page = opened(chromium, ui)
    page.fill("#prompt", "How?")
    page.keyboard.press("Enter")
    expect(page.locator("li pre .hljs-built_in")).to_have_text("print")
    expect(page.locator("li pre").get_by_label("Copy this code")).to_have_count(1)
    page.close()


INNER = "def f():\n    return 1"
CODE = {
    "in a quote": ("> Try:\n>\n> ```python\n> def f():\n>     return 1\n> ```\n", INNER),
    "in two quotes": (">> ```python\n>> def f():\n>>     return 1\n>> ```\n", INNER),
    "in a numbered list": ("1. Try:\n\n   ```python\n   def f():\n       return 1\n   ```\n2. Done.\n", INNER),
    "in a list of a list": ("- One\n  - Two\n    ```python\n    def f():\n        return 1\n    ```\n", INNER),
    "alone, and indented by itself": ("```python\n    return a > 1\n```\n", "    return a > 1"),
    "alone, and like a quote": ("```python\n> return 1\n```\n", "> return 1"),
}


@pytest.mark.parametrize("where", CODE)
def test_code_holds_nothing_of_the_quote_or_the_list_around_it(
    chromium: Browser, scripted: Scripted, ui: WebUI, where: str
) -> None:
    """Else it can't be run as it was copied."""
    text, code = CODE[where]
    scripted.text(text)
    page = opened(chromium, ui)
    page.fill("#prompt", "How?")
    page.keyboard.press("Enter")
    expect(page.locator("pre .hljs-keyword").last).to_have_text("return")
    assert page.locator("pre code").evaluate("code => code.textContent") == code
    page.close()


def test_a_reload_shows_each_thought_once_and_the_rate_since_the_answer_began(
    chromium: Browser, scripted: Scripted, tmp_path: Path
) -> None:
    thought = line({"message": {"role": "assistant", "content": "", "thinking": "One thought. "}, "done": False})
    scripted.gap_s = 0.1
    hanging(scripted, thought, *[said("word ")] * 20)
    with running(tmp_path, scripted.url) as ui:  # which waits longer for a page that reloads than `ui` does
        page = opened(chromium, ui)
        page.fill("#prompt", "Think.")
        page.keyboard.press("Enter")
        expect(page.locator(".message.assistant .body")).to_have_text("word " * 20)
        page.reload()
        expect(page.locator(".message.assistant .body")).to_have_text("word " * 20)
        expect(page.locator(".thinking div")).to_have_text("One thought. ")
        rate = re.compile(r"about (\d|10) pieces/s")  # since the reload it would be hundreds
        expect(page.locator(".message.assistant .figures")).to_have_text(rate)
        page.keyboard.press("Escape")
        wait_for(lambda: scripted.open == 0)
        page.close()


def test_an_answer_whose_chat_is_deleted_elsewhere_is_reported_at_once(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    hanging(scripted, said("Here, and there"))
    page = opened(chromium, ui)
    chat = ui.new_chat()
    ui.ask(chat, "Stay.")
    page.goto(f"/#/chats/{chat}")
    expect(page.locator(".message.assistant .body")).to_contain_text("Here")
    ui.api("DELETE", f"/api/chats/{chat}")
    expect(page.locator("#problems")).to_contain_text("This message does not exist any more")
    page.close()


def test_shortcuts_go_by_the_key_where_alt_changes_its_character(chromium: Browser, ui: WebUI) -> None:
    """On a Mac, Option+N is a dead key."""
    page = opened(chromium, ui)
    press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'Dead', code: 'KeyC', altKey: true}))"
    page.evaluate(press)
    expect(page.locator("#lanes select")).to_have_count(2)
    page.close()


def test_ordinary_values_are_taken_and_a_mistake_in_one_field_does_not_hold_up_the_others(
    chromium: Browser, ui: WebUI
) -> None:
    chat = ui.new_chat()
    page = opened(chromium, ui, chat)
    page.locator("#open-parameters").click()
    for name, value in {"temperature": "0.75", "top_p": "0.92", "num_ctx": "1000", "seed": "-5"}.items():
        page.fill(f"#p-{name}", value)
    page.fill("#p-system", "You are brief.")
    page.locator("#p-temperature").focus()  # a change is saved when its field is left

    def kept() -> bool:
        [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
        wanted = {"temperature": 0.75, "top_p": 0.92, "num_ctx": 1000}
        return (lane["system"], lane["parameters"]) == ("You are brief.", wanted)

    wait_for(kept)
    expect(page.locator("#h-seed")).to_contain_text("Not saved")
    page.fill("#p-seed", "5")
    page.locator("#p-system").focus()
    expect(page.locator("#h-seed")).to_contain_text("The same seed")
    page.evaluate("localStorage.removeItem('webui.defaults')")
    page.close()


def test_settings_that_are_being_typed_survive_a_change_in_another_tab(chromium: Browser, ui: WebUI) -> None:
    chat = ui.new_chat()
    page = opened(chromium, ui, chat)
    page.locator("#open-parameters").click()
    page.locator("#p-system").press_sequentially("Half a sen")
    page.evaluate(f"new BroadcastChannel('webui').postMessage({chat})")
    page.wait_for_timeout(500)
    expect(page.locator("#p-system")).to_have_value("Half a sen")
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
    expect(page.locator("#lanes select")).not_to_have_value("")
    page.fill("#prompt", "Go on.")
    page.keyboard.press("Enter")
    expect(page.locator(".hljs-built_in")).to_be_attached()
    wait_for(lambda: scripted.asked[-1].done)
    assert refused == []
    scripted.script = scripted.play
    page.close()
