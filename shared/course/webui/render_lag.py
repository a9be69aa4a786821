"""How far a page is behind a fast engine, by the browser's own figures. The stream is simulated: no model writes it.

    render_lag.measure(lab, server.chat_page, relay)        # render/webui
    own_renderer.measure_naive(lab, relay)                  # render/naive: `innerHTML +=` for each piece
    show(tables.render_lag(lab))

A long text comes at once, as the history of a chat would. Then words come at a steady rate, each with the moment of its
sending in it, all in one answer. After each frame the page's newest words are read: how old are they? Chromium counts
the processor time of the main thread meanwhile.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.course.labs import OpenLab
from shared.course.webui.in_chromium import chromium
from shared.course.webui.in_chromium.chat_page import ChatPage, opened, until
from shared.course.webui.in_chromium.ollama_relay import LAST, OllamaRelay, line, said
from shared.hardware.machine import detect

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

Raw = dict[str, Any]
PREFIX = "render/"
NAIVE = "naive"
LAG_GOAL_MS, BUSY_GOAL_PERCENT = 100, 50
PART = "## Part\n\nSome **bold** text, `code` and a list:\n\n- one\n- two\n\n" + "word " * 60 + "\n\n"
CODE = "```python\n" + "x = [n * n for n in range(10)]  # squares\n" * 100 + "```\n\n"
WORDS = 1_800  # about as many in ten parts and one block of code
SETTLES_S = 3  # what came at once may take so long to be drawn
LEFT_BEHIND_S = 30  # a page that has not drawn all so long after the end is not waited for
# Notes for each new word on the screen how long ago it was sent. It reads few nodes, because that costs time, too.
NOTE = """
window.lags = [];
let seen = -1;
const note = () => {
  let place = [...document.querySelectorAll(%s)].at(-1);
  while (place?.childNodes.length === 1 && place.firstElementChild) place = place.firstElementChild;
  const newest = [...(place?.childNodes ?? [])].slice(-60).map((one) => one.textContent).join(' ').slice(-20000);
  const now = performance.timeOrigin + performance.now();
  for (const [, sent, number] of newest.matchAll(/t(\\d{13})n(\\d+)\\b/g)) {
    if (Number(number) <= seen) continue;
    seen = Number(number);
    lags.push([seen, now - Number(sent)]);
  }
};
const frame = () => { setTimeout(note); requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""


@dataclass
class Stream:
    """A simulated answer: `words` at once, then `rate` words a second for `seconds`."""

    words: int
    rate: int
    seconds: float
    steady: bool = False  # the steady part has begun
    ended: bool = False

    @property
    def count(self) -> int:
        return round(self.rate * self.seconds)

    async def script(self) -> AsyncIterator[bytes]:
        self.steady = self.ended = False
        yield said((PART * 10 + CODE) * round(self.words / WORDS))
        await asyncio.sleep(SETTLES_S)
        self.steady, began_s = True, time.monotonic()
        for n in range(self.count):
            await asyncio.sleep(max(0.0, began_s + n / self.rate - time.monotonic()))
            end = "\n\n" if n % 80 == 79 else "**bold** " if n % 13 == 0 else ""
            yield said(f"t{int(time.time() * 1e3)}n{n} {end}")
        self.ended = True
        yield line(LAST)


def asked_here() -> Stream:
    """The stream of this machine's size: as long as a chat of 32k tokens, or shorter at the quick size."""
    return Stream(32_400, 200, 20) if detect().size == "full" else Stream(7_200, 200, 4)


async def watched(page: "Page", selector: str, stream: Stream, begin: Callable[[], Awaitable[object]]) -> Raw:
    """Begin the stream, and watch the newest words in the last element of this selector, until all are drawn."""
    session = await page.context.new_cdp_session(page)
    await session.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def busy_s() -> dict[str, float]:
        found = (await session.send("Performance.getMetrics"))["metrics"]
        return {one["name"].removesuffix("Duration"): one["value"] for one in found if "Duration" in one["name"]}

    await page.evaluate(NOTE % json.dumps(selector))
    await begin()
    if not await until(lambda: stream.steady, 60):
        raise TimeoutError("the page did not ask for the stream: is the relay its Ollama?")
    began_s, before = time.monotonic(), await busy_s()
    await until(lambda: stream.ended, stream.seconds + 60)
    end_s = time.monotonic() + LEFT_BEHIND_S
    while time.monotonic() < end_s and await page.evaluate("lags.at(-1)?.[0] ?? -1") < stream.count - 1:
        await asyncio.sleep(0.1)
    seconds, after = time.monotonic() - began_s, await busy_s()
    lags = await page.evaluate("lags.map(([n, lag]) => [n, Math.round(10 * lag) / 10])")
    return {"lags": lags, "sent": stream.count, "seconds": seconds, "busy_s": [before, after]}


async def in_page(browser: "Browser", chat: ChatPage, relay: OllamaRelay, stream: Stream) -> Raw:
    """The stream as an answer in a chat page whose Ollama is the relay."""
    relay.script = stream.script
    try:
        async with opened(browser, chat) as tab:
            return await watched(tab.page, chat.answer, stream, lambda: tab.ask("Go on."))
    finally:
        relay.script = None


def values(raw: Raw) -> dict[str, Any]:
    """Lag and load of the main thread, computed from the evidence.

    A word that was never drawn counts as late as the latest one that was, and as LEFT_BEHIND_S at least.
    """
    lags = sorted(lag for _, lag in raw["lags"])
    missing = raw["sent"] - len(lags)
    lags += [max([1e3 * LEFT_BEHIND_S, *lags])] * missing
    before, after = raw["busy_s"]
    shares = {name: round(100 * (after[name] - before[name]) / raw["seconds"], 1) for name in after}
    p50, p99 = (round(lags[min(len(lags) - 1, int(len(lags) * q))], 1) for q in (0.5, 0.99))
    busy = shares.pop("Task")
    return {
        "lag_p50_ms": p50, "lag_p99_ms": p99, "drawn": raw["sent"] - missing, "sent": raw["sent"],
        "busy_percent": busy, "of_that_percent": shares,
    }  # fmt: skip


def good(found: dict[str, Any]) -> bool:
    return bool(found["lag_p99_ms"] <= LAG_GOAL_MS and found["busy_percent"] <= BUSY_GOAL_PERCENT)


def measure(lab: OpenLab, chat: ChatPage, relay: OllamaRelay) -> dict[str, Any]:
    """The page's lag, recorded under `render/<its name>`. Raises LabError where no browser is found."""
    return recorded(
        lab, chat.name, chat.identity(), lambda stream: lambda browser: in_page(browser, chat, relay, stream)
    )


def recorded(
    lab: OpenLab, name: str, page: Mapping[str, Any], probe: Callable[[Stream], Callable[["Browser"], Awaitable[Raw]]]
) -> dict[str, Any]:
    """What `probe` finds with the stream of this machine's size, recorded under `render/<name>`.

    page: what the page is made of. After a change of it, the page is measured again.
    """
    stream = asked_here()

    def measured() -> tuple[dict[str, Any], Raw]:
        raw = chromium.run(probe(stream))
        return values(raw), raw

    simulated = {"words": stream.words, "rate_per_s": stream.rate, "seconds": stream.seconds}
    found: dict[str, Any] = lab.measure(PREFIX + name, measured, page=page, simulated_stream=simulated)
    return found
