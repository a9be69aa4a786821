"""The controls that a user reaches for now and then, and what the page shows when an engine or a model is missing."""

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from shared.course.webui.in_chromium.ollama_relay import said
from shared.processes import free_port
from tests.helpers.truth import TruthEngine
from tests.helpers.webui import Scripted, WebUI, opened, running, wait_for

pytestmark = pytest.mark.browser


def ask(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.keyboard.press("Enter")


def test_an_ollama_that_does_not_run_is_shown_with_its_fix_until_it_runs(chromium: Browser, tmp_path: Path) -> None:
    port = free_port()
    with running(tmp_path, f"http://127.0.0.1:{port}") as ui:
        page = chromium.new_page(base_url=ui.url)
        page.goto("/")
        expect(page.locator("#problems")).to_contain_text("ollama serve")
        ask(page, "Hello?")
        expect(page.locator("#problems")).to_contain_text("There is no model yet. Fix: Open Models")
        expect(page.locator("#prompt")).to_have_value("Hello?")
        engine = Scripted(port)
        try:
            expect(page.locator("#problems")).not_to_contain_text("ollama serve")
            expect(page.locator("#lanes select")).to_have_value("ollama:simulated")
            page.keyboard.press("Enter")
            expect(page.locator(".message.assistant .body")).to_have_text("Hello.")
        finally:
            engine.stop()
        page.close()


def test_a_missing_model_is_named_in_the_answer_with_its_fix(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    page = opened(chromium, ui, ui.new_chat("ollama:gone"))
    expect(page.locator("#lanes option:checked")).to_have_text("gone (missing)")
    scripted.status, scripted.blocks = 404, [b'{"error": "model \'gone\' not found"}']
    ask(page, "Are you there?")
    expect(page.locator(".note.failed")).to_contain_text(re.compile("not found.*Fix: Pull it"))
    page.close()


def test_the_context_fills_while_an_answer_is_written(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    page = opened(chromium, ui, ui.new_chat())
    ask(page, "One.")
    expect(page.locator("meter")).to_have_attribute("title", "10 of 4,096 tokens of context are used")
    scripted.hang, scripted.gap_s, scripted.blocks = True, 0.05, [said("word ")] * 20
    ask(page, "Two.")
    expect(page.locator("meter")).to_have_attribute("title", re.compile(r"About (1[1-9]|2\d|30) of 4,096"))
    page.get_by_label("Stop the answer").click()
    wait_for(lambda: scripted.open == 0)
    page.close()


def test_all_chats_are_exported_and_imported_by_the_menu(
    chromium: Browser, scripted: Scripted, ui: WebUI, tmp_path: Path
) -> None:
    ui.whole(ui.ask(ui.new_chat(), "A question about the okapi"))
    page = opened(chromium, ui)
    page.get_by_label("More").first.click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Export all chats as JSON").click()
    file = tmp_path / "chats.json"
    download.value.save_as(file)
    titles = [chat["title"] for chat in json.loads(file.read_text())["chats"]]
    assert "A question about the okapi" in titles
    before = len(ui.api("GET", "/api/chats")["chats"])
    page.get_by_label("More").first.click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("menuitem", name="Import chats from JSON").click()
    chooser.value.set_files(file)
    wait_for(lambda: len(ui.api("GET", "/api/chats")["chats"]) == 2 * before)
    page.close()


def test_keys_regenerate_and_go_from_chat_to_chat(chromium: Browser, scripted: Scripted, ui: WebUI) -> None:
    older, newer = ui.new_chat(), ui.new_chat()
    for chat in (older, newer):
        ui.whole(ui.ask(chat, f"Chat {chat}"))
    page = opened(chromium, ui, newer)
    expect(page.locator("h1#title")).to_have_text(f"Chat {newer}")
    expect(page.locator("#chats [aria-current]")).to_contain_text(f"Chat {newer}")  # the list comes after the chat
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator("h1#title")).to_have_text(f"Chat {older}")
    page.keyboard.press("Alt+ArrowUp")
    expect(page.locator("h1#title")).to_have_text(f"Chat {newer}")
    scripted.text("Another.")
    page.keyboard.press("Alt+R")
    expect(page.locator(".message.assistant .body")).to_have_text("Another.")
    expect(page.locator(".message.assistant .versions")).to_have_text("2 / 2")
    page.close()


def test_a_saved_system_prompt_is_chosen_and_forgotten(chromium: Browser, ui: WebUI) -> None:
    ui.api("PUT", "/api/prompts", {"name": "Sailor", "text": "You are a sailor."})
    chat = ui.new_chat(parameters={"seed": 3})
    page = opened(chromium, ui, chat)
    page.locator("#open-parameters").click()
    saved = page.get_by_label("Saved system prompts")
    saved.select_option("Sailor")
    expect(page.locator("#p-system")).to_have_value("You are a sailor.")

    def kept() -> tuple[str, dict[str, object]]:
        [lane] = ui.api("GET", f"/api/chats/{chat}")["lanes"]
        return lane["system"], lane["parameters"]

    wait_for(lambda: kept() == ("You are a sailor.", {"seed": 3}))
    page.get_by_role("button", name="Forget").click()
    expect(saved).not_to_contain_text("Sailor")
    page.get_by_role("button", name="Back to the model's own settings").click()
    wait_for(lambda: kept() == ("", {}))
    page.evaluate("localStorage.removeItem('webui.defaults')")
    page.close()


def test_ollama_and_a_gateway_answer_side_by_side(chromium: Browser, scripted: Scripted, tmp_path: Path) -> None:
    with (
        TruthEngine.start(tmp_path / "truth.log") as truth,
        running(tmp_path, scripted.url, gateway=f"{truth.url}/v1") as ui,
    ):
        page = opened(chromium, ui)
        page.evaluate("localStorage['webui.defaults'] = JSON.stringify({parameters: {num_predict: 8}})")
        page.get_by_role("button", name="Compare").click()
        for lane, target in enumerate(("ollama:simulated", "gateway:truth")):
            page.get_by_label("Model", exact=True).nth(lane).select_option(target)
        ask(page, "Hello")
        for lane in (0, 1):
            expect(page.locator(".message.assistant .figures").nth(lane)).to_contain_text("tok/s")
        expect(page.locator(".message.assistant .name")).to_have_text(["simulated", "gateway:truth"])
        page.close()


def test_the_end_of_a_growing_answer_stays_in_the_window_until_the_reader_scrolls_up(
    chromium: Browser, scripted: Scripted, ui: WebUI
) -> None:
    scripted.hang, scripted.blocks = True, [said("".join(f"Line {n}.\n\n" for n in range(80)))]
    page = opened(chromium, ui)
    ask(page, "Much text, please.")
    expect(page.locator(".message.assistant .body")).to_contain_text("Line 79.")
    newest = page.get_by_role("button", name="To the newest")

    def px_below_after_growing() -> float:
        """As with a fast engine: more text is there before the event of the page's own scrolling arrives."""
        return float(
            page.evaluate("""async () => {
            const scroller = document.querySelector(".scroller"), frame = () => new Promise(requestAnimationFrame);
            const more = document.createElement("p");
            more.style.height = "400px";
            document.querySelector(".message.assistant .body").append(more);
            scroller.dispatchEvent(new Event("scroll"));
            for (let n = 0; n < 3; n++) await frame();
            return scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
        }""")
        )

    for _ in range(3):
        assert px_below_after_growing() < 2
    expect(newest).to_be_hidden()
    page.locator(".scroller").hover()
    page.mouse.wheel(0, -300)
    expect(newest).to_be_visible()
    below = px_below_after_growing()
    assert px_below_after_growing() > below + 300
    newest.click()
    assert px_below_after_growing() < 2
    page.locator(".scroller").hover(position={"x": 5, "y": 5})
    page.mouse.wheel(0, -300)
    expect(newest).to_be_visible()
    page.mouse.wheel(0, 5000)
    expect(newest).to_be_hidden()
    assert px_below_after_growing() < 2
    page.keyboard.press("Escape")
    wait_for(lambda: scripted.open == 0)
    page.close()
