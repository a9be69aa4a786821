"""Our chat page beside a naive one and Open WebUI, in Chromium: `make bench-webui` (5 minutes; ARGS=--quick).

All three get the same simulated streams from one relay, which stands for Ollama: no model writes them.

- Render lag: a chat of 32k tokens comes at once, then 200 words a second, each with the moment of its sending in it.
  After each frame the page's newest words are read. Chromium counts the processor time of the page's main thread.
- First paint and weight: pages that were never loaded before, from this machine, by Chromium's own entries.
- Stop: from the click to the moment in which the relay sees its client leave.
- History: one chat of 10,000 messages, opened by its address until its last message is on the screen, and searched by
  the request that the page sends.

The naive page does `innerHTML +=` for each piece. It has no history, no stop and no weight of its own.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared import LabError, hardware, paths
from shared.course.webui import open_webui, own_renderer, render_lag
from shared.course.webui.in_chromium import chromium
from shared.course.webui.in_chromium.chat_page import ChatPage, opened, until
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay, said
from shared.course.webui.render_lag import Stream
from shared.errors import command
from shared.files import exclusive
from shared.metrics.spread import Spread
from shared.report.table import Table
from tests.helpers.webui import WebUI, running

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

OURS, NAIVE, OPEN_WEBUI = "ours", "innerHTML +=", "Open WebUI"
MESSAGES = 10_000
LAST_MESSAGE = f"Note {MESSAGES - 1} about the weather"
WORDS_SOUGHT = f"weather {MESSAGES - 2}"
ROWS = {  # figure: (title, goal of our page: at most)
    "lag_p50": ("render lag p50, ms", None), "lag_p99": ("render lag p99, ms", 100),
    "undrawn": ("words not drawn 30 s after the end, %", 0), "busy": ("main thread busy, %", 50),
    "paint": ("first paint, ms", 300), "ready": ("field for the message ready, ms", None),
    "weight": ("page weight, KB", 250), "stop": ("engine left after the click on stop, ms", 200),
    "open": (f"history of {MESSAGES:,} messages opened, ms", 300), "search": ("the same searched, ms", 100),
}  # fmt: skip
LARGER = "performance.setResourceTimingBufferSize(5000);"
# When the last element of a selector holds a text, in ms since the navigation began; looked at after each frame.
SEEN = """
([selector, text]) => new Promise((resolve) => {
  const look = () => [...document.querySelectorAll(selector)].at(-1)?.textContent.includes(text)
    ? resolve(performance.now()) : requestAnimationFrame(look);
  look();
})
"""
PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
WEIGHT = """
[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .reduce((sum, one) => sum + one.transferSize, 0)
"""
SEARCH = """
async ([path, token]) => {
  const began = performance.now();
  const answer = await fetch(path, token ? {headers: {authorization: `Bearer ${token}`}} : {});
  const found = await answer.json();
  return [performance.now() - began, (found.found ?? found).length];
}
"""


@dataclass(frozen=True)
class Size:
    stream: Stream
    repeats: int = 5


@dataclass(frozen=True)
class Target:
    """A page, where its long chat is, and the request with which it searches."""

    name: str
    chat: ChatPage
    history: str
    search: str
    token: str = ""


Figures = dict[str, list[float]]


@contextlib.asynccontextmanager
async def fresh(browser: "Browser", chat: ChatPage, path: str = "/") -> "AsyncIterator[Page]":
    """A page in a browser that has never been here, as soon as a message could be typed."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    entries = "".join(f"localStorage[{json.dumps(k)}] = {json.dumps(v)};" for k, v in chat.storage.items())
    await context.add_init_script(LARGER + entries)
    try:
        page = await context.new_page()
        await page.goto(chat.url + path, timeout=120_000)
        await page.locator(chat.prompt).last.wait_for(timeout=120_000)
        yield page
    finally:
        await context.close()


async def lag(figures: Figures, raw: dict[str, Any]) -> None:
    values = render_lag.values(raw)
    figures["lag_p50"], figures["lag_p99"] = [values["lag_p50_ms"]], [values["lag_p99_ms"]]
    figures["busy"] = [values["busy_percent"]]
    figures["undrawn"] = [100 * (values["sent"] - values["drawn"]) / values["sent"]]


async def loads(browser: "Browser", target: Target, figures: Figures, repeats: int) -> None:
    for _ in range(repeats):
        async with fresh(browser, target.chat) as page:
            figures.setdefault("ready", []).append(await page.evaluate("performance.now()"))
            await page.wait_for_timeout(1000)  # what is loaded later counts, too; Open WebUI's page never falls silent
            figures.setdefault("paint", []).append(await page.evaluate(PAINT))
            figures.setdefault("weight", []).append(await page.evaluate(WEIGHT) / 1e3)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield said("word ")
        await asyncio.sleep(0.02)


async def stops(browser: "Browser", target: Target, relay: OllamaRelay, figures: Figures, repeats: int) -> None:
    for _ in range(repeats):
        relay.script = endless
        async with opened(browser, target.chat) as tab:
            since = len(relay.asked)
            await tab.ask("Go on.")
            if not await until(lambda at=since: len(relay.asked) > at, 20):  # type: ignore[misc]
                raise LabError("The page's question did not reach the relay.")
            asked = relay.asked[since]
            await tab.answer_of(40, limit_s=20)
            clicked_s = await tab.stop()
            if clicked_s is None or not await until(lambda one=asked: one.ended_s, 20):  # type: ignore[misc]
                raise LabError("The page's stop did not end the answer within 20 s.")
            figures.setdefault("stop", []).append(1e3 * (asked.ended_s - clicked_s))  # type: ignore[operator]
        relay.script = None


async def history(browser: "Browser", target: Target, figures: Figures, repeats: int) -> None:
    for _ in range(repeats):
        async with fresh(browser, target.chat, target.history) as page:
            async with asyncio.timeout(60):
                figures.setdefault("open", []).append(await page.evaluate(SEEN, [target.chat.answer, LAST_MESSAGE]))
            took_ms, found = await page.evaluate(SEARCH, [target.search, target.token])
            if found < 1:
                raise LabError(f"The search for {WORDS_SOUGHT!r} found nothing.")
            figures.setdefault("search", []).append(took_ms)


def long_chat() -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "text": f"Note {n} about the weather"} for n in range(MESSAGES)]


def fill_ours(ui: WebUI) -> Target:
    ui.api("POST", "/api/import", {"format": "inference-labs-webui/1", "chats": [
        {"title": "Imported", "messages": long_chat()}
    ]})  # fmt: skip
    chat = ui.api("GET", "/api/chats")["chats"][0]["id"]
    return Target(OURS, ChatPage(OURS, ui.url), f"/#/chats/{chat}", f"/api/search?q={WORDS_SOUGHT}")


def fill_open_webui(webui: open_webui.OpenWebUI) -> Target:
    webui.switch_off(["builtin_tools", "vision"])
    messages, before = dict[str, dict[str, Any]](), None
    for one in long_chat():
        name = str(uuid.uuid4())
        messages[name] = {
            "id": name, "parentId": before, "childrenIds": [], "role": one["role"], "content": one["text"],
            "timestamp": int(time.time()), "done": True, "model": "simulated", "models": ["simulated"],
        }  # fmt: skip
        if before:
            messages[before]["childrenIds"] = [name]
        before = name
    chat = {"title": "Imported", "models": ["simulated"], "history": {"messages": messages, "currentId": before}}
    [made] = webui.call("POST", "/api/v1/chats/import", {"chats": [{"chat": chat}]}, timeout_s=120)
    return Target(
        OPEN_WEBUI, webui.chat_page, f"/c/{made['id']}", f"/api/v1/chats/search?text={WORDS_SOUGHT}", webui.token
    )


class Bench:
    """The figures of each page, and what could not be measured."""

    def __init__(self, size: Size, relay: OllamaRelay) -> None:
        self.size, self.relay = size, relay
        self.figures: dict[str, Figures] = {}
        self.notes: list[str] = []
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", file=sys.stderr, flush=True)

    def part(self, page: str, what: str, work: Callable[["Browser", Figures], Any]) -> None:
        """Measure one thing of one page. A page on which it can't be done does not end the benchmark."""
        self.say(f"{page}: {what}")
        figures = self.figures.setdefault(page, {})
        try:
            chromium.run(lambda browser: work(browser, figures), limit_s=150)
        except Exception as e:
            self.notes.append(f"{page}, {what}: not measured: {(str(e) or type(e).__name__).splitlines()[0][:200]}")
        finally:
            self.relay.script = None
            self.relay.cut()

    def page(self, target: Target) -> None:
        name, repeats, relay = target.name, self.size.repeats, self.relay

        async def render(browser: "Browser", figures: Figures) -> None:
            await lag(figures, await render_lag.in_page(browser, target.chat, relay, self.size.stream))

        self.part(name, "first paint", lambda browser, figures: loads(browser, target, figures, repeats))
        self.part(name, "stop", lambda browser, figures: stops(browser, target, relay, figures, repeats))
        self.part(name, "history", lambda browser, figures: history(browser, target, figures, min(repeats, 3)))
        self.part(name, "render lag", render)

    def naive(self) -> None:
        async def render(browser: "Browser", figures: Figures) -> None:
            await lag(figures, await own_renderer.probe(browser, own_renderer.NAIVE, self.relay, self.size.stream))

        self.part(NAIVE, "render lag", render)

    def table(self, judged: bool) -> Table:
        rows = []
        for key, (title, most) in ROWS.items():
            cells = [cell(self.figures.get(page, {}).get(key, ())) for page in (OURS, NAIVE, OPEN_WEBUI)]
            ours = self.figures.get(OURS, {}).get(key, ())
            goal = "" if most is None else f"≤ {most}"
            if judged and most is not None:
                met = bool(ours) and statistics.median(ours) <= most
                goal += " met" if met else " missed"
            rows.append((title, *cells, goal))
        return Table("", ("", OURS, NAIVE, OPEN_WEBUI, "goal (ours)"), rows)


def cell(values: Sequence[float]) -> str:
    return str(Spread.of(values) or "–")


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a short stream, to see that everything runs")
    size = Size(Stream(3_600, 200, 2), 1) if parser.parse_args().quick else Size(Stream(32_400, 200, 15))
    with exclusive(paths.measuring(), "Another measurement is running on this machine; waiting for it ..."):
        load, relay = os.getloadavg()[0], OllamaRelay().start()
        bench = Bench(size, relay)
        with contextlib.ExitStack() as stack:
            stack.callback(relay.stop)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            bench.page(fill_ours(stack.enter_context(running(folder, relay.url))))
            bench.naive()
            try:
                webui = stack.enter_context(open_webui.start(relay.url))
                bench.page(fill_open_webui(webui))
            except LabError as e:
                bench.notes.append(f"{OPEN_WEBUI}: {e}")
    stream = size.stream
    print(f"{hardware.detect().processor}; load average {load:.1f} at the start, so {'' if load < 1 else 'NOT '}quiet.")
    print(f"Medians (range) of {size.repeats}. Lag: {stream.words:,} words at once, then {stream.rate} a second for")
    print(f"{stream.seconds} s, simulated. Open WebUI {open_webui.version() or '(not installed)'}.\n")
    print(bench.table(judged=size.repeats > 1).markdown())
    print(*bench.notes, sep="\n")


if __name__ == "__main__":
    main()
