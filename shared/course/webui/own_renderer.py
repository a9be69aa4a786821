"""The open task of lab 3.3.6: a renderer of the student's own, a JavaScript module as text, on a simulated stream.

    print(own_renderer.NAIVE)                                   # what the lab's naive page does: render/naive
    found = own_renderer.measure(lab, my_renderer, relay)       # render/yours
    render_lag.good(found)

The module exports `renderer(root)`, which returns {write(text), end()}. An empty page loads it, reads the stream that
shared.course.webui.render_lag plays, and gives each piece to `write`.
"""

from typing import TYPE_CHECKING, Any

from shared.course.labs import OpenLab
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.course.webui.render_lag import NAIVE as NAIVE_NAME
from shared.course.webui.render_lag import Raw, Stream, recorded, watched
from shared.errors import LabError

if TYPE_CHECKING:
    from playwright.async_api import Browser

YOURS = "yours"
NAIVE = """
export function renderer(root) {
  return {
    write(text) {
      root.innerHTML += text.replaceAll("\\n", "<br>");
      scrollTo(0, document.body.scrollHeight);
    },
    end() {},
  };
}
"""
ROOT = "your-renderer"
PAGE = f"<!doctype html><meta charset=utf-8><body><div id={ROOT}></div>"
LOAD = """
async (text) => {
  const module = await import(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})));
  window.mine = module.renderer(document.getElementById('%s'));
  window.failed = '';
}
"""
READ = """
void (async () => {
  const response = await fetch('/api/chat', {method: 'POST', body: '{}'});
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    const lines = (rest + value).split('\\n');
    rest = lines.pop();
    for (const line of lines) mine.write(JSON.parse(line).message?.content ?? '');
  }
  mine.end();
})().catch((error) => { window.failed = String(error); });
"""


async def probe(browser: "Browser", text: str, relay: OllamaRelay, stream: Stream) -> Raw:
    """The stream in an empty page with this renderer. Raises LabError if its module or a call of it fails."""
    relay.script = stream.script
    page = await browser.new_page()
    try:
        await page.route("**/yours", lambda route: route.fulfill(body=PAGE, content_type="text/html"))
        await page.goto(f"{relay.url}/yours")
        try:
            await page.evaluate(LOAD % ROOT, text)
        except Exception as e:  # whatever is wrong in the student's module
            raise failed(str(e).splitlines()[0]) from None
        raw = await watched(page, f"#{ROOT}", stream, lambda: page.evaluate(READ))
        if reason := await page.evaluate("window.failed"):
            raise failed(reason)
        return raw
    finally:
        relay.script = None
        await page.close()


def failed(reason: str) -> LabError:
    return LabError(
        f"Your renderer failed in the browser: {reason}.", "correct the module's text and run the cell again"
    )


def measure(lab: OpenLab, text: str, relay: OllamaRelay) -> dict[str, Any]:
    """The renderer's lag, recorded under `render/yours`. Raises LabError without a browser, or if the module fails."""
    return _recorded(lab, YOURS, text, relay)


def measure_naive(lab: OpenLab, relay: OllamaRelay) -> dict[str, Any]:
    """The lag of NAIVE, recorded under `render/naive`. Raises LabError where no browser is found."""
    return _recorded(lab, NAIVE_NAME, NAIVE, relay)


def _recorded(lab: OpenLab, name: str, text: str, relay: OllamaRelay) -> dict[str, Any]:
    return recorded(lab, name, {"renderer": text}, lambda stream: lambda browser: probe(browser, text, relay, stream))
