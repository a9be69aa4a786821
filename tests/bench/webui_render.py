"""How far the page is behind a fast engine: `python -m tests.bench.webui_render [tokens per second] [seconds]`.

A scripted engine sends 30,000 words at once, and then words with the moment of their sending in them, all in one
answer. The page notes for each piece how long after that moment it was drawn, and Chromium counts how long the main
thread was busy. Beside it runs the naive page: `innerHTML +=` for each piece, over the same stream.
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.sync_api import Page, sync_playwright

from shared.hardware import host
from tests.helpers.webui import LAST, Scripted, WebUI, running, said

PART = "## Part\n\nSome **bold** text, `code` and a list:\n\n- one\n- two\n\n" + "word " * 60 + "\n\n"
CODE = "```python\n" + "x = [n * n for n in range(10)]  # squares\n" * 100 + "```\n\n"
BEFORE = (PART * 10 + CODE) * 20  # about 30,000 words
STAMP = """
window.lags = [];
let seen = -1;
const note = () => {
  const blocks = [...(document.querySelector('%s')?.childNodes ?? [])].slice(-4);  // no more: this costs time, too
  const now = performance.timeOrigin + performance.now();
  for (const [, sent, number] of blocks.map((one) => one.textContent).join(' ').matchAll(/t(\\d{13})n(\\d+)\\b/g)) {
    if (Number(number) <= seen) continue;
    seen = Number(number);
    lags.push(now - Number(sent));
  }
};
const frame = () => { setTimeout(note); requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""
NAIVE = """
void (async () => {
  const place = document.body.appendChild(document.createElement('div'));
  place.id = 'naive';
  const response = await fetch('/naive', {method: 'POST', body: '{}'});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    const lines = (rest + value).split('\\n');
    rest = lines.pop();
    for (const line of lines) place.innerHTML += (JSON.parse(line).message?.content ?? '').replace(/\\n/g, '<br>');
    scrollTo(0, document.body.scrollHeight);
  }
  window.finished = true;
})();
"""


class Fast(Scripted):
    """Sends `rate` words a second, each with its moment, for `seconds`."""

    rate, seconds = 200, 20

    async def chat(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(said(BEFORE))
        await asyncio.sleep(3)
        began = time.monotonic()
        for n in range(self.rate * self.seconds):
            await asyncio.sleep(max(0.0, began + n / self.rate - time.monotonic()))
            text = f"t{int(time.time() * 1e3)}n{n} " + ("\n\n" if n % 80 == 79 else "**bold** " if n % 13 == 0 else "")
            await response.write(said(text))
        await response.write(json.dumps(LAST).encode() + b"\n")
        return response


def measured(page: Page, name: str, ended: Any) -> None:
    """Print the lag, and the processor time of the main thread as a share of the time until `ended` returns."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def busy() -> dict[str, float]:
        metrics = session.send("Performance.getMetrics")["metrics"]
        named = {one["name"]: one["value"] for one in metrics}
        return {name.removesuffix("Duration").lower(): value for name, value in named.items() if "Duration" in name}

    began, before = time.monotonic(), busy()
    ended()
    seconds = time.monotonic() - began
    share = {part: round(100 * (value - before[part]) / seconds) for part, value in busy().items()}
    lags = sorted(page.evaluate("lags"))
    p50, p99 = (lags[int(len(lags) * q)] for q in (0.5, 0.99))
    lag = f"{len(lags)} pieces, lag p50 {p50:.0f} ms, p99 {p99:.0f} ms"
    print(f"{name}: {lag}, main thread {share['task']} % busy ({share})", flush=True)


def ours(page: Page, ui: WebUI) -> None:
    page.goto(ui.url)
    page.wait_for_selector("select option", state="attached")
    page.evaluate(STAMP % ".message.assistant:last-child .body")
    page.fill("#prompt", "Go on.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stop:not([hidden])")
    page.wait_for_timeout(3000)
    measured(page, "this page", lambda: page.wait_for_selector("#send:not([hidden])", timeout=300_000))


def naive(page: Page, engine: Fast) -> None:
    page.route("**/blank", lambda route: route.fulfill(body="<!doctype html><body>", content_type="text/html"))
    page.goto(f"{engine.url}/blank")
    page.evaluate(STAMP % "#naive")
    page.evaluate(NAIVE.replace("/naive", "/api/chat"))
    measured(page, "innerHTML +=", lambda: page.wait_for_function("window.finished", timeout=300_000))


def main() -> None:
    engine = Fast()
    engine.rate, engine.seconds = (int(one) for one in (sys.argv[1:] + ["200", "20"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), engine.url) as ui, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=host.browser(), args=["--no-sandbox"])
        ours(browser.new_page(), ui)
        naive(browser.new_page(), engine)
        browser.close()


if __name__ == "__main__":
    main()
