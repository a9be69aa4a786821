"""Nothing that a model, a file or a name contains runs in the page, or makes the page connect elsewhere."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from shared.course.webui.in_chromium.injections import ALL, HTML
from tests.helpers.webui import Scripted, WebUI, said, wait_for

pytestmark = pytest.mark.browser
WATCH = """
window.hits = [];
window.hit = () => hits.push('ran');
document.addEventListener('securitypolicyviolation',
    (event) => hits.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
# What no answer may contain: elements and attributes that run, load or catch something.
DANGER = """
() => [...document.querySelectorAll('.messages *, #chats *, #title, #problems *, #models *, #parameters *')]
    .filter((one) => ['SCRIPT', 'IFRAME', 'OBJECT', 'EMBED', 'IMG', 'VIDEO', 'AUDIO', 'STYLE', 'LINK', 'META', 'BASE',
        'MATH', 'TEMPLATE'].includes(one.tagName.toUpperCase())
    || [...one.attributes].some(({name, value}) => name.startsWith('on') || name === 'style' && one.closest('.body')
        || ['href', 'src', 'action', 'xlink:href', 'srcdoc'].includes(name)
            && !/^(https?:|mailto:|#\\/chats\\/)/.test(value)))
    .map((one) => one.outerHTML.slice(0, 200))
"""


WANTED: dict[Page, list[str]] = {}  # what a page wanted from other servers, whether or not it was allowed


@pytest.fixture
def page(chromium: Browser, ui: WebUI) -> Iterator[Page]:
    """A page whose requests to other servers, and whose breaches of the policy, are noted."""
    context = chromium.new_context(base_url=ui.url)
    page = context.new_page()
    page.add_init_script(WATCH)
    wanted = WANTED[page] = []
    page.on("request", lambda request: None if request.url.startswith(ui.url) else wanted.append(request.url))
    page.on("dialog", lambda dialog: wanted.append(dialog.message))
    page.goto("/")
    expect(page.locator("#lanes select option").first).to_be_attached()
    yield page
    assert page.evaluate("hits") == []  # the policy never had to stop anything: the renderer made nothing of the kind
    assert page.evaluate(DANGER) == []
    assert wanted == []
    context.close()


def file_of(texts: list[str], **more: Any) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[place % 2], "text": text} for place, text in enumerate(texts)]
    return {"format": "inference-labs-webui/1", "chats": [{"title": "Imported", "messages": messages, **more}]}


def test_the_corpus_is_large_and_would_run_in_a_page_that_trusts_it(chromium: Browser) -> None:
    assert len(set(ALL)) >= 60
    page = chromium.new_page()
    page.add_init_script(WATCH)
    page.goto("about:blank")
    page.set_content("".join(f"<div>{one}</div>" for one in HTML[6:18]))
    page.wait_for_function("hits.length > 0")  # the watch works
    page.close()


def test_the_watch_and_the_policy_notice_what_would_run(page: Page) -> None:
    """So the other tests can fail: an image from elsewhere, and HTML from a string, are refused and noted."""
    assert "TrustedHTML" in page.evaluate(
        "(() => { try { document.body.innerHTML = 'x' } catch (e) { return e.message } })()"
    )
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'https://evil.example/x.png', id: 'bad'}))")
    wait_for(lambda: page.evaluate("hits.some((hit) => hit.startsWith('img-src'))"))
    page.wait_for_timeout(500)
    hits = page.evaluate("hits.splice(0)")
    assert any(hit.startswith("require-trusted-types-for") for hit in hits)
    assert any(hit.startswith("img-src") for hit in hits)
    page.evaluate("document.querySelector('#bad').remove()")
    assert WANTED[page] == ["https://evil.example/x.png"]
    WANTED[page].clear()


def test_nothing_in_a_history_runs(page: Page, ui: WebUI) -> None:
    texts = [text for one in ALL for text in (one, one)]  # each as a question and as an answer
    ui.api("POST", "/api/import", file_of(texts, title=HTML[6], system=HTML[0], target=HTML[6]))
    page.reload()
    page.locator("#chats a").first.click()
    expect(page.locator(".message.assistant .body").last).to_contain_text("Text")
    while page.locator(".earlier").is_visible():
        page.locator(".scroller").evaluate("place => place.scrollTop = 0")
        page.wait_for_timeout(100)
    expect(page.locator(".message")).to_have_count(len(texts))
    page.get_by_role("button", name="Settings", exact=True).click()
    for link in page.locator(".message.assistant a").all():
        assert link.get_attribute("rel") == "noopener noreferrer nofollow"
    assert page.locator(".message.assistant a").evaluate_all(
        "all => all.some((a) => a.href.includes('evil.example/?secret'))"
    )
    page.get_by_label("Search all messages").fill("script")
    expect(page.locator("#chats mark").first).to_be_visible()


@pytest.mark.parametrize("piece", [1, 3, 10_000], ids=str)
def test_nothing_in_a_streamed_answer_runs(page: Page, ui: WebUI, scripted: Scripted, piece: int) -> None:
    scripted.text("\n\n".join(ALL) + "\n\nThe end.", piece)
    page.get_by_label("Your message").fill(HTML[0])
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".message.assistant .body")).to_contain_text("The end.", timeout=60_000)
    expect(page.get_by_label("Send")).to_be_visible(timeout=60_000)


@pytest.mark.parametrize("text", [HTML[0], HTML[6], HTML[13]], ids=str)
def test_nothing_in_names_notes_and_errors_runs(page: Page, ui: WebUI, scripted: Scripted, text: str) -> None:
    scripted.blocks = [
        said("x").replace(b"content", b"thinking"),
        b'{"error": "%s"}\n' % text.replace('"', "'").encode(),
    ]
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")
    expect(page.locator(".note.failed")).to_contain_text("Fix:")
    expect(page.locator("h1#title")).to_have_text(text)
    expect(page.locator("#announcer")).to_contain_text("failed")
    page.evaluate("name => fetch('/api/models/pull', {method: 'POST', body: JSON.stringify({name})})", text)
    page.get_by_role("button", name="Models").click()
    expect(page.locator("#installed")).to_contain_text("simulated")
