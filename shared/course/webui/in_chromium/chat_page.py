"""A chat page as a browser sees it: an address, and a few selectors. Ours, or any other one.

mine = ChatPage(
    "mine", "http://127.0.0.1:8501", prompt="textarea", send="", answer=".assistant", stop="button.stop", ready=""
)
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page, Request, ViewportSize

PATIENCE_MS = 20_000
VIEW: "ViewportSize" = {"width": 900, "height": 640}
KEPT_BY_PAGES = "cookies,local_storage,indexeddb,service_workers,cache_storage,file_systems"
# What an injected script would call, and when the last click was, before any script of the page runs.
WATCH = """
window.hits = [];
window.hit = () => window.top.hits.push('ran');
addEventListener('click', () => { window.clicked = performance.timeOrigin + performance.now(); }, true);
"""


@dataclass(frozen=True)
class ChatPage:
    """How to find the parts of a chat page. Selectors are Playwright's: CSS, or text=Stop."""

    name: str  # in the ledger: browser/<name>
    url: str
    prompt: str = "#prompt"
    send: str = "#send"  # "": the Enter key sends
    answer: str = ".message.assistant .body"  # each answer; the last one is the newest
    stop: str = "#stop"  # "": the page has no stop button
    ready: str = "#lanes select option, select#model option"  # there as soon as the page can be used; "": at once
    storage: Mapping[str, str] = field(default_factory=dict)  # put into localStorage before the page's scripts run
    ours: bool = False  # the lab's own page, of which the checks know more
    made_of: Mapping[str, Any] = field(default_factory=dict)  # its code, for provenance

    def identity(self) -> dict[str, Any]:
        """What a result records of the page: its code, or its address if the lab doesn't know the code."""
        return dict(self.made_of) or {"url": self.url}


@dataclass
class Tab:
    """An open chat page. `foreign` notes the requests to other servers."""

    chat: ChatPage
    page: "Page"
    foreign: list[str]

    async def load(self) -> None:
        await self.page.goto(self.chat.url)
        await self.be_ready()

    async def be_ready(self) -> None:
        if self.chat.ready:
            await self.page.locator(self.chat.ready).first.wait_for(state="attached")

    async def ask(self, text: str) -> None:
        prompt = self.page.locator(self.chat.prompt).last
        await prompt.fill(text)
        if self.chat.send:
            await self.page.locator(self.chat.send).last.click()
        else:
            await prompt.press("Enter")

    async def answer(self) -> str:
        """The text of the newest answer, as it is on the screen now."""
        found = await self.page.locator(self.chat.answer).all_inner_texts()
        return found[-1] if found else ""

    async def answer_of(self, characters: int, limit_s: float = 120) -> str:
        """The newest answer, as soon as it has so many characters; what there is after `limit_s`."""
        end = time.monotonic() + limit_s
        while len(text := await self.answer()) < characters and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return text

    async def stop(self, patience_ms: float = PATIENCE_MS) -> float | None:
        """Press the stop button. When it was pressed, as time.monotonic has it; None if there is no button now."""
        if not self.chat.stop or not await self.page.locator(self.chat.stop).last.is_visible():
            return None
        await self.page.locator(self.chat.stop).last.click(timeout=patience_ms)
        clicked_ms: float = await self.page.evaluate("window.clicked")
        return clicked_ms / 1e3 - time.time() + time.monotonic()

    async def rest(self, limit_s: float) -> None:
        """Wait until the page offers no stop any more: it has taken note of the answer's end, and takes a question."""
        if self.chat.stop:
            with contextlib.suppress(Exception):  # a page may show its button always
                await self.page.locator(self.chat.stop).last.wait_for(state="hidden", timeout=1e3 * limit_s)

    async def picture(self) -> bytes:
        """A small JPEG of the page."""
        return await self.page.screenshot(type="jpeg", quality=50)


@contextlib.asynccontextmanager
async def opened(browser: "Browser", chat: ChatPage) -> AsyncIterator[Tab]:
    """A tab with the page loaded. At the end the answer is stopped.

    Of an earlier tab of the same browser nothing is left but the files that it downloaded.
    """
    context = next(iter(browser.contexts), None) or await browser.new_context(viewport=VIEW, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    tab = Tab(chat, await context.new_page(), [])
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(chat.url))
    session = await context.new_cdp_session(tab.page)
    await session.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": KEPT_BY_PAGES})
    entries = "".join(
        f"localStorage[{json.dumps(name)}] = {json.dumps(value)};" for name, value in chat.storage.items()
    )
    await tab.page.add_init_script(WATCH + (f"if (location.protocol === 'http:') {{ {entries} }}" if entries else ""))

    def note(request: "Request") -> None:
        if not request.url.startswith((f"{origin}/", "data:", "blob:")):
            tab.foreign.append(request.url)

    context.on("request", note)  # to refuse them one by one would switch the browser's cache off
    tab.page.on("dialog", lambda dialog: dialog.dismiss())
    try:
        await tab.load()
        yield tab
        with contextlib.suppress(Exception):  # whatever the page is like now, closing it frees the engine, too
            await tab.stop(patience_ms=300)  # an answer that has just ended takes its button along
    finally:
        context.remove_listener("request", note)
        for page in context.pages:  # an injected script may have opened one
            await page.close()


async def until(what: Callable[[], Any], limit_s: float = 30) -> bool:
    """Wait until this is true; whether it became so within `limit_s`."""
    end = time.monotonic() + limit_s
    while not what():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(0.02)
    return True
