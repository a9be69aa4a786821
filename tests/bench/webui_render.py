"""How far the page is behind a fast engine: `python -m tests.bench.webui_render [tokens per second] [seconds]`.

A scripted engine sends words with the moment of their sending in them, into a chat that has about 30,000 words already.
The page notes for each piece how long after that moment it was drawn, and Chromium counts how long the main thread was
busy. Beside it runs the naive page: `innerHTML +=` for each piece, over the same stream.
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

BEFORE = "\n\n".join(
    f"## Part {n}\n\nSome **bold** text, `code` and a list:\n\n- one\n- two\n\n" + "word " * 60 for n in range(7)
)
STAMP = """
window.lags = [];
let seen = 0;
const note = () => {
  const all = document.querySelector('%s')?.textContent ?? '';
  const stamps = [...all.slice(seen).matchAll(/t(\\d{13})\\b/g)];
  if (!stamps.length) return;
  seen += stamps.at(-1).index + stamps.at(-1)[0].length;
  const now = performance.timeOrigin + performance.now();
  for (const one of stamps) lags.push(now - Number(one[1]));
};
const frame = () => { setTimeout(note); requestAnimationFrame(frame); };
requestAnimationFrame(frame);
"""
NAIVE = """
(async () => {
  const place = document.body.appendChild(document.createElement('div'));
  place.id = 'naive';
  place.innerHTML = BEFORE.replace(/\\n/g, '<br>');
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
        began = time.monotonic()
        for n in range(self.rate * self.seconds):
            await asyncio.sleep(max(0.0, began + n / self.rate - time.monotonic()))
            text = f"t{int(time.time() * 1e3)} " + ("\n\n" if n % 80 == 79 else "**bold** " if n % 13 == 0 else "")
            await response.write(said(text))
        await response.write(json.dumps(LAST).encode() + b"\n")
        return response


def measured(page: Page, name: str, ended: Any) -> None:
    """Print the lag, and the main thread's share of the time until `ended` returns."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")

    def busy() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    began, before = time.monotonic(), busy()
    ended()
    share = (busy() - before) / (time.monotonic() - began)
    lags = sorted(page.evaluate("lags"))
    p50, p99 = (lags[int(len(lags) * q)] for q in (0.5, 0.99))
    print(
        f"{name}: {len(lags)} pieces, lag p50 {p50:.0f} ms, p99 {p99:.0f} ms, main thread {100 * share:.0f} % busy",
        flush=True,
    )


def ours(page: Page, ui: WebUI) -> None:
    texts = ["Go on.", BEFORE] * 30
    messages = [{"role": ("user", "assistant")[place % 2], "text": text} for place, text in enumerate(texts)]
    chat = {"title": "Long", "target": "ollama:scripted", "messages": messages}
    ui.api("POST", "/api/import", {"format": "inference-labs-webui/1", "chats": [chat]})
    page.goto(f"{ui.url}/#/chats/1")
    page.wait_for_selector(".message:nth-child(60)")
    page.evaluate(STAMP % ".message.assistant:last-child .body")
    page.fill("#prompt", "Go on.")
    page.keyboard.press("Enter")
    page.wait_for_selector("#stop:not([hidden])")
    measured(page, "this page", lambda: page.wait_for_selector("#send:not([hidden])", timeout=300_000))


def naive(page: Page, engine: Fast) -> None:
    page.route("**/blank", lambda route: route.fulfill(body="<!doctype html><body>", content_type="text/html"))
    page.goto(f"{engine.url}/blank")
    page.evaluate(STAMP % "#naive")
    page.evaluate(NAIVE.replace("/naive", "/api/chat").replace("BEFORE", json.dumps(BEFORE * 30)))
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
