"""Each feature of the page, clicked in Chromium over the real Ollama with the small model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from shared.launch.running import Engine
from shared.models import ModelChoice
from tests.helpers.webui import WebUI, wait_for

pytestmark = pytest.mark.browser
SHORT = {"system": "", "parameters": {"num_predict": 12, "temperature": 0, "seed": 1}}


@pytest.fixture
def context(chromium: Browser, real: WebUI) -> Iterator[BrowserContext]:
    """A browser that has never been here. No page may report an error, or a breach of the policy."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, base_url=real.url)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    wrong: list[str] = []
    context.on("weberror", lambda error: wrong.append(str(error.error)))
    context.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    set_defaults(context, SHORT)
    yield context
    context.close()
    assert [one for one in wrong if "503" not in one and "502" not in one and "400" not in one] == []


def set_defaults(context: BrowserContext, settings: dict[str, Any]) -> None:
    """The settings of new chats, as an earlier visit would have left them."""
    context.add_init_script(
        f"if (location.port && !localStorage['webui.defaults']) localStorage['webui.defaults'] = {quoted(settings)}"
    )


def quoted(settings: dict[str, Any]) -> str:
    """As a JavaScript string that contains JSON."""
    return json.dumps(json.dumps(settings))


def change_defaults(page: Page, **parameters: float) -> None:
    """The settings of the chats that this page begins from now on."""
    page.evaluate(f"localStorage['webui.defaults'] = {quoted({'system': '', 'parameters': {'seed': 1, **parameters}})}")


@pytest.fixture
def page(context: BrowserContext, ollama: Engine) -> Page:
    page = context.new_page()
    page.goto("/")
    expect(page.get_by_label("Model", exact=True)).to_have_value(f"ollama:{ollama.served_name}")
    return page


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def ask_and_wait(page: Page, text: str) -> None:
    before = page.locator(".message.assistant").count()
    ask(page, text)
    expect(page.locator(".message.assistant").nth(before)).to_be_attached()
    ended(page)


def ended(page: Page) -> None:
    """Wait until the last answer has its buttons: only an answer that has ended has them."""
    expect(page.locator(".message.assistant").last.get_by_label("Copy this message")).to_be_visible(timeout=90_000)
    expect(page.get_by_label("Send")).to_be_visible(timeout=90_000)


def answer(page: Page) -> str:
    return page.locator(".message.assistant .body").last.inner_text()


def streaming(page: Page) -> str:
    """Wait until the answer has some text; what it is so far. Its first 20 characters will not change their look."""
    expect(page.locator(".message.assistant .body").last).to_have_text(re.compile(".{40}", re.S), timeout=90_000)
    return answer(page)


def test_an_answer_streams_and_shows_ollamas_counters(page: Page, real: WebUI, ollama: Engine) -> None:
    ask_and_wait(page, "What is a token?")
    figures = page.locator(".message.assistant .figures").inner_text().replace("\u00a0", " ")
    chat = int(page.url.rsplit("/", 1)[1])
    [lane] = real.api("GET", f"/api/chats/{chat}")["lanes"]
    message = lane["messages"][-1]
    assert message["text"]
    stats = message["stats"]
    assert stats["output_tokens"] == 12
    body = {"model": ollama.served_name, "messages": [{"role": "user", "content": "What is a token?"}], "stream": False}
    body["options"] = SHORT["parameters"]
    direct = httpx.post(f"{ollama.url}/api/chat", json=body, timeout=60, trust_env=False).json()
    assert direct["message"]["content"] == message["text"]
    assert direct["prompt_eval_count"] == stats["prompt_tokens"]
    assert f"prompt {stats['prompt_tokens']} tokens" in figures
    assert "answer 12 tokens" in figures
    assert re.search(r"first token .* · .*tok/s", figures)
    assert f"context {round(100 * (12 + stats['prompt_tokens']) / stats['context_length'])} % of" in figures
    expect(page.locator("meter")).to_be_visible()
    expect(page.locator("h1#title")).to_have_text("What is a token?")


def test_stop_frees_the_engine_for_the_next_request(context: BrowserContext, page: Page, ollama: Engine) -> None:
    change_defaults(page, num_predict=-1)
    ask(page, "Tell me a very long story.")
    text = streaming(page)
    page.get_by_label("Stop the answer").click()
    ended(page)
    expect(page.locator(".message.assistant footer")).to_contain_text("Stopped.")
    assert answer(page).startswith(text[:20])
    # One seat (OLLAMA_NUM_PARALLEL=1), and the story had no end: this can only be answered if the engine has stopped.
    body = {"model": ollama.served_name, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
    assert httpx.post(f"{ollama.url}/api/generate", json=body, timeout=30, trust_env=False).json()["eval_count"] == 1


def test_a_reload_in_mid_answer_goes_on(page: Page) -> None:
    change_defaults(page, num_predict=200)
    ask(page, "Tell me a story about a river.")
    before = streaming(page)
    page.reload()
    assert streaming(page)[:20] == before[:20]
    ended(page)
    expect(page.locator(".message.assistant .figures")).to_contain_text("answer")
    expect(page.locator(".message")).to_have_count(2)


def test_escape_stops_and_another_chat_can_be_read_meanwhile(page: Page) -> None:
    ask_and_wait(page, "First chat")
    page.get_by_role("button", name="New chat").click()
    change_defaults(page, num_predict=-1)
    ask(page, "Second chat: a long story.")
    streaming(page)
    page.locator("#chats").get_by_text("First chat").click()
    expect(page.locator(".message.user")).to_have_text(re.compile("First chat"))
    expect(page.locator("#chats .busy")).to_have_count(1)
    page.locator("#chats").get_by_text("Second chat").click()
    expect(page.get_by_label("Stop the answer")).to_be_visible()
    page.keyboard.press("Escape")
    ended(page)
    expect(page.locator(".message.assistant footer")).to_contain_text("Stopped.")


def test_regenerate_edit_and_versions(page: Page) -> None:
    ask_and_wait(page, "Name a colour.")
    page.get_by_label("Regenerate this answer").click()
    expect(page.locator(".versions")).to_have_text("2 / 2", timeout=60_000)
    page.get_by_label("The version before").click()
    expect(page.locator(".versions")).to_have_text("1 / 2")
    page.get_by_label("Edit this message").click()
    page.get_by_label("Your changed message").fill("Name a river.")
    page.locator(".edit").get_by_role("button", name="Send").click()
    expect(page.locator(".message.user .body")).to_have_text("Name a river.", timeout=60_000)
    ended(page)
    expect(page.locator(".message.user .versions")).to_have_text("2 / 2")
    page.locator(".message.user").get_by_label("The version before").click()
    expect(page.locator(".message.user .body")).to_have_text("Name a colour.")


def test_settings_reach_the_engine_and_are_kept(page: Page, real: WebUI) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    page.locator("#p-system").fill("You answer in one word.")
    page.get_by_label("Longest answer").fill("5")
    page.get_by_label("Context length").fill("512")
    page.get_by_label("Keep the model loaded").fill("10m")
    page.get_by_label("Keep the model loaded").blur()
    page.get_by_role("button", name="Save", exact=True).click()
    page.locator("#question input").fill("One word")
    page.locator("#question").get_by_role("button", name="Save").click()
    expect(page.get_by_label("Saved system prompts")).to_contain_text("One word")
    ask_and_wait(page, "Where is Paris?")
    expect(page.locator(".figures").last).to_contain_text("of 512")
    chat = int(page.url.rsplit("/", 1)[1])
    [lane] = real.api("GET", f"/api/chats/{chat}")["lanes"]
    assert lane["system"] == "You answer in one word."
    assert lane["messages"][-1]["stats"]["output_tokens"] <= 5
    page.reload()
    page.get_by_role("button", name="Settings", exact=True).click()
    expect(page.locator("#p-system")).to_have_value("You answer in one word.")
    page.get_by_label("Temperature").fill("7")
    page.get_by_label("Temperature").blur()
    [lane] = real.api("GET", f"/api/chats/{chat}")["lanes"]
    assert lane["parameters"]["temperature"] == 0  # 7 is out of range, and was not sent


def test_models_are_made_shown_copied_unloaded_and_deleted(page: Page, model: ModelChoice, ollama: Engine) -> None:
    page.get_by_role("button", name="Models").click()
    expect(page.locator("#installed")).to_contain_text(ollama.served_name)
    page.get_by_text("Make a model from a GGUF file").click()
    page.locator("#create-name").fill("from-file:test")
    page.locator("#create-file").set_input_files(str(model.weights("Q4_0")))
    page.locator("#create-system").fill("You are a pirate.")
    page.locator("#create").get_by_role("button", name="Create").click()
    expect(page.locator("#installed")).to_contain_text("from-file:test", timeout=90_000)
    page.get_by_label("Show from-file:test").click()
    expect(page.locator("#question")).to_contain_text("You are a pirate.")
    page.locator("#question").get_by_role("button", name="Close").click()
    page.get_by_label("Copy from-file:test").click()
    page.locator("#question input").fill("copied:test")
    page.locator("#question").get_by_role("button", name="Copy").click()
    expect(page.locator("#installed")).to_contain_text("copied:test")
    page.get_by_label("Delete copied:test").click()
    page.locator("#question").get_by_role("button", name="Cancel").click()
    expect(page.locator("#installed")).to_contain_text("copied:test")
    for name in ("copied:test", "from-file:test"):
        page.get_by_label(f"Delete {name}").click()
        page.locator("#question").get_by_role("button", name="Delete").click()
        expect(page.locator("#installed")).not_to_contain_text(name)
    page.get_by_label("Close the models").click()
    ask_and_wait(page, "Load the model, please.")
    page.get_by_role("button", name="Models").click()
    expect(page.locator("#loaded")).to_contain_text(re.compile("MB.*context.*(stays loaded|leaves in)"))
    page.get_by_label(f"Unload {ollama.served_name}").click()
    expect(page.locator("#loaded")).to_contain_text("No model is loaded")


def test_a_wrong_model_name_is_explained_in_the_dialog(page: Page) -> None:
    page.get_by_role("button", name="Models").click()
    page.get_by_label("Name of the model to pull").fill("../../etc/passwd")
    page.get_by_role("button", name="Pull", exact=True).click()
    expect(page.locator("#models .problem")).to_contain_text("is not a model's name")


@pytest.fixture
def second(ollama: Engine) -> Iterator[str]:
    """The same model under a second name."""
    client = httpx.Client(base_url=ollama.url, timeout=60, trust_env=False)
    client.post("/api/copy", json={"source": ollama.served_name, "destination": "second:test"})
    yield "second:test"
    client.request("DELETE", "/api/delete", json={"model": "second:test"})


def test_two_lanes_are_asked_the_same_and_show_their_own_figures(page: Page, ollama: Engine, second: str) -> None:
    page.reload()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".lane")).to_have_count(2)
    page.get_by_label("Model", exact=True).nth(0).select_option(f"ollama:{ollama.served_name}")
    page.get_by_label("Model", exact=True).nth(1).select_option(f"ollama:{second}")
    ask_and_wait(page, "What is a cat?")
    expect(page.locator(".message.assistant .name")).to_have_text([ollama.served_name, second])
    expect(page.locator(".message.assistant .figures").nth(0)).to_contain_text("tok/s")
    expect(page.locator(".message.assistant .figures").nth(1)).to_contain_text("tok/s")
    page.reload()
    expect(page.locator(".lane")).to_have_count(2)
    expect(page.locator("#chats a[aria-current]")).to_contain_text("compare")


def test_history_is_searched_renamed_exported_imported_and_deleted(page: Page, tmp_path: Path) -> None:
    ask_and_wait(page, "A question about the quagga")
    page.get_by_label("Rename this chat").click()
    page.locator("#question input").fill("Striped animals")
    page.locator("#question").get_by_role("button", name="Rename").click()
    expect(page.locator("#chats")).to_contain_text("Striped animals")
    page.get_by_role("button", name="New chat").click()
    page.keyboard.press("Control+k")
    page.keyboard.type("quag")
    expect(page.locator("#chats mark").first).to_have_text("quagga")
    page.locator("#chats a").first.click()
    expect(page.locator("h1#title")).to_have_text("Striped animals")
    files = {}
    for kind in ("Markdown", "JSON"):
        page.get_by_label("More").first.click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name=f"Export this chat as {kind}").click()
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    assert "quagga" in files["Markdown"].read_text()
    page.get_by_label("Delete this chat").click()
    page.locator("#question").get_by_role("button", name="Delete").click()
    expect(page.locator("h1#title")).to_have_text("New chat")  # only then does the focus stay where a test puts it
    page.get_by_label("Search all messages").fill("")
    expect(page.locator("#chats")).not_to_contain_text("Striped animals")
    page.locator("#import-file").set_input_files(files["JSON"])
    expect(page.locator("#chats")).to_contain_text("Striped animals")
    (tmp_path / "wrong.json").write_text("no json")
    page.locator("#import-file").set_input_files(tmp_path / "wrong.json")
    expect(page.locator("#problems")).to_contain_text("not JSON. Fix:")


def test_two_tabs_agree(context: BrowserContext, page: Page) -> None:
    ask_and_wait(page, "Shared between tabs")
    other = context.new_page()
    other.goto(page.url)
    expect(other.locator(".message")).to_have_count(2)
    ask_and_wait(page, "A second question")
    expect(other.locator(".message")).to_have_count(4, timeout=30_000)


def test_keys_work_and_are_listed(page: Page) -> None:
    page.keyboard.press("Alt+/")
    expect(page.locator("#question")).to_contain_text("Keyboard shortcuts")
    page.keyboard.press("Escape")
    page.keyboard.press("Alt+c")
    expect(page.locator(".lane")).to_have_count(2)
    page.keyboard.press("Alt+n")
    expect(page.locator(".lane")).to_have_count(1)
    page.keyboard.press("Alt+m")
    expect(page.locator("#models")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#models")).not_to_be_visible()
    page.keyboard.press("Alt+s")
    expect(page.locator("#parameters")).to_be_visible()
    page.get_by_label("Your message").fill("one")
    page.keyboard.press("Shift+Enter")
    assert page.get_by_label("Your message").input_value() == "one\n"


def test_the_chosen_theme_stays(page: Page) -> None:
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_label("More").first.click()
    page.get_by_role("menuitem", name="Dark or light").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_copy_takes_the_message_as_it_was_written(page: Page) -> None:
    ask_and_wait(page, "Copy *me*")
    page.get_by_label("Copy this message").first.click()
    wait_for(lambda: page.evaluate("navigator.clipboard.readText()") == "Copy *me*")


def test_everything_comes_from_this_machine_and_is_light(context: BrowserContext, real: WebUI) -> None:
    page, sizes = context.new_page(), {}
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    page.goto("/")
    page.evaluate("import('/static/vendor/highlight/core.js')")
    page.wait_for_load_state("networkidle")
    assert all(url.startswith(real.url) for url in sizes)
    code = {url: size for url, size in sizes.items() if "/api/" not in url}
    assert any("purify" in url for url in code)
    assert sum(code.values()) <= 250_000, code
    print(f"page weight: {sum(code.values()):,} bytes in {len(code)} files")
