"""The two JavaScript exercises: the streaming reader and the rhythm of rendering, in Chromium."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.webui import WebUI

pytestmark = pytest.mark.browser
READ = """
async ([blocks, most]) => {
  const {lines} = await import('/static/lines.js');
  let cancelled = false;
  const waiting = blocks.map((block) => Uint8Array.from(block));
  const body = new ReadableStream({
    pull: (control) => waiting.length ? control.enqueue(waiting.shift()) : control.close(),
    cancel: () => { cancelled = true; },
  }, {highWaterMark: 0});
  const found = [];
  for await (const one of lines(new Response(body))) {
    found.push(one);
    if (found.length === most) break;
  }
  return [found, cancelled];
}
"""
PACE = """
async () => {
  const {pacer} = await import('/static/pacer.js');
  const rendered = [];
  const pace = pacer((text) => rendered.push(text));
  let frames = 0;
  const count = () => { frames++; requestAnimationFrame(count); };
  requestAnimationFrame(count);
  for (let n = 0; n < 400; n++) {
    pace.add(`${n} `);
    if (n % 40 === 39) await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const before = rendered.length;
  pace.add('last');
  pace.flush();
  pace.flush();
  const calls = rendered.length;
  await new Promise((resolve) => setTimeout(resolve, 100));
  return {text: rendered.join(''), calls, before, later: rendered.length, frames};
}
"""
TEXT = '{"text": "Grüße"}\n{"text": "世界 🙂"}\n\n{"text": "a\\nb"}\n'
OBJECTS = [{"text": "Grüße"}, {"text": "世界 🙂"}, {"text": "a\nb"}]


@pytest.fixture(scope="module")
def page(chromium: Browser, ui: WebUI) -> Iterator[Page]:
    page = chromium.new_page()
    page.goto(ui.url)
    yield page
    page.close()


def read(page: Page, blocks: list[bytes], most: int = -1) -> tuple[list[object], bool]:
    found, cancelled = page.evaluate(READ, [[list(block) for block in blocks], most])
    return found, cancelled


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20, 1000])
def test_objects_are_whole_wherever_the_bytes_are_cut(page: Page, size: int) -> None:
    data = TEXT.encode()
    blocks = [data[at : at + size] for at in range(0, len(data), size)]
    assert read(page, blocks)[0] == OBJECTS


def test_a_last_line_without_a_newline_counts(page: Page) -> None:
    assert read(page, [TEXT.rstrip("\n").encode()])[0] == OBJECTS
    assert read(page, [])[0] == []


def test_a_reader_that_leaves_early_closes_the_connection(page: Page) -> None:
    found, cancelled = read(page, [line.encode() for line in TEXT.splitlines(keepends=True)], most=1)
    assert found == OBJECTS[:1]
    assert cancelled


def test_the_screen_changes_once_a_frame_and_nothing_is_lost(page: Page) -> None:
    result = page.evaluate(PACE)
    assert result["text"] == "".join(f"{n} " for n in range(400)) + "last"
    assert result["before"] <= result["frames"] + 1
    assert result["calls"] == result["before"] + 1
    assert result["later"] == result["calls"]  # flush took its frame back
