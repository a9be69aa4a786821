"""The page can be used by everybody: axe finds nothing serious, on a desk, on a phone, in light and in dark."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.helpers.webui import Scripted, WebUI

pytestmark = pytest.mark.browser
AXE = Path(__file__).with_name("vendor") / "axe.js"
SHOTS = os.environ.get("WEBUI_SHOTS")  # a folder for screenshots and axe's report, to be looked at
TEXT = """Three **engines** can serve a model, and they differ in *how they batch*.

## What to look at

| Engine | First token | Throughput |
|---|---|---|
| Ollama | 24 ms | 104 tok/s |
| llama.cpp | 21 ms | 118 tok/s |

1. Measure the *time to the first token*.
2. Measure tokens per second, and read [the documentation](https://docs.ollama.com).
   - with one user
   - with many

```python
def throughput(tokens: int, seconds: float) -> float:
    # tokens per second
    return tokens / seconds if seconds else 0.0
```

> A figure without its load is only half of a figure. Use `eval_count` for tokens.
"""
SIZES: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1360, "height": 850}},
    "phone": {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True},
    "dark": {"viewport": {"width": 1360, "height": 850}, "color_scheme": "dark"},
}


@pytest.fixture(params=SIZES)
def page(request: pytest.FixtureRequest, chromium: Browser, ui: WebUI, scripted: Scripted) -> Iterator[Page]:
    """A chat with one answer that has everything."""
    scripted.text(TEXT, 9)
    context = chromium.new_context(base_url=ui.url, reduced_motion="reduce", **SIZES[request.param])
    page = context.new_page()
    page.goto("/")
    expect(page.locator("#lanes select")).not_to_have_value("")
    page.get_by_label("Your message").fill("How do I compare engines?")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".message.assistant .figures")).to_contain_text("tok/s", timeout=30_000)
    expect(page.locator(".hljs-keyword").first).to_be_attached()
    yield page
    context.close()


def look(page: Page, request: pytest.FixtureRequest, name: str) -> list[str]:
    """axe's serious and critical findings. With a folder for them, a screenshot and a line of axe's report are kept."""
    session = page.context.new_cdp_session(page)  # brings axe in: the policy forbids foreign scripts
    session.send("Runtime.evaluate", {"expression": AXE.read_text()})
    expression = "axe.run().then(found => JSON.stringify(found))"
    run = session.send("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
    found = json.loads(run["result"]["value"])
    assert len(found["passes"]) > 20, "axe looked at nothing"
    if SHOTS:
        shot = f"{name}-{request.node.callspec.params['page']}.png"
        page.wait_for_timeout(300)
        page.screenshot(path=f"{SHOTS}/{shot}")
        violated = [f"{one['id']} ({one['impact']}) × {len(one['nodes'])}" for one in found["violations"]]
        cells = (shot, len(found["passes"]), ", ".join(violated) or "none", len(found["incomplete"]))
        with Path(SHOTS, "axe.md").open("a") as report:
            if not report.tell():
                report.write("| picture | rules passed | rules violated | rules for a person to judge |\n")
                report.write("|---|---|---|---|\n")
            report.write(f"| {' | '.join(map(str, cells))} |\n")
    return [
        f"{one['id']}: {node['html'][:150]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def test_a_chat(page: Page, request: pytest.FixtureRequest) -> None:
    assert look(page, request, "chat") == []
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]  # nothing hangs out of the window


def test_the_sidebar_and_the_menu(page: Page, request: pytest.FixtureRequest) -> None:
    if page.get_by_label("Show the chats").is_visible():
        page.get_by_label("Show the chats").click()
    page.get_by_label("More").first.click()
    assert look(page, request, "menu") == []


def test_the_settings(page: Page, request: pytest.FixtureRequest) -> None:
    page.get_by_role("button", name="Settings", exact=True).click()
    assert look(page, request, "settings") == []


def test_the_models(page: Page, request: pytest.FixtureRequest) -> None:
    page.keyboard.press("Alt+m")
    expect(page.locator("#installed")).to_contain_text("simulated")
    assert look(page, request, "models") == []


def test_compare(page: Page, request: pytest.FixtureRequest) -> None:
    page.keyboard.press("Alt+c")
    page.get_by_label("Your message").fill("How do I compare engines?")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".message.assistant .figures").nth(1)).to_contain_text("tok/s", timeout=30_000)
    assert look(page, request, "compare") == []


def test_an_error(page: Page, request: pytest.FixtureRequest, scripted: Scripted) -> None:
    scripted.status, scripted.blocks = (
        500,
        [b'{"error": "model requires more system memory (9.1 GiB) than is available"}'],
    )
    page.get_by_label("Your message").fill("More")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".note.failed")).to_contain_text("Fix: Unload other models", timeout=30_000)
    assert look(page, request, "error") == []


def test_a_screen_reader_hears_finished_blocks(page: Page) -> None:
    expect(page.locator("#announcer p").last).to_contain_text("The answer is complete.")
    heard = page.locator("#announcer p").all_inner_texts()
    assert heard[0] == "The answer begins."
    assert "What to look at" in heard
    assert heard[-1].startswith("The answer is complete.")
    assert len(heard) < 20


def test_no_animation_runs_when_motion_is_unwanted(page: Page, scripted: Scripted) -> None:
    scripted.hang, scripted.blocks = True, []
    page.get_by_label("Your message").fill("More")
    page.get_by_label("Your message").press("Enter")
    expect(page.locator("#chats .busy").first).to_be_attached()
    assert page.evaluate("document.getAnimations().length") == 0
    page.get_by_label("Stop the answer").click()
