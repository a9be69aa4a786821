"""The gateway's own page in Chromium: its numbers are those of /metrics, move under load, and its memory is bounded.

LABS_PICTURES names a folder for pictures of it, to be looked at.
"""

import asyncio
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from shared.hardware import host
from shared.processes import free_port
from tests.helpers.gateway import HELLO, TREE, Gateway, bearer, running, write_keys
from tests.helpers.processes import eventually
from tests.helpers.truth import TruthEngine

pytestmark = pytest.mark.browser

SIZES = {"desk": (1360, 900), "tablet": (900, 1100), "phone": (390, 844)}
# The page's names from outside: its top-level constants are visible to evaluate().
NUMBERS = """id => Object.fromEntries([...document.querySelectorAll(`#${id} .legend li`)].map(
    li => [li.querySelector('.name').textContent, li.querySelector('.value').textContent]))"""
TABLE = "id => [...document.querySelectorAll(`#${id} tbody tr`)].map(r => [...r.cells].map(c => c.textContent.trim()))"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # the tests' machine may be busy
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=host.browser(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("dashboard")
    keys = write_keys(folder / "keys.json", {"anna": {}, "ben": {"limits": {"concurrent": 2}}})
    with TruthEngine.start(folder / "truth.log") as truth:
        engines = {"one": truth.url, "dead": f"http://127.0.0.1:{free_port()}"}
        with running(folder, engines, keys_file=str(keys)) as gateway:
            yield gateway


def opened(browser: Browser, url: str, complaints: list[str], **options: Any) -> Page:
    """The page, with everything that the browser complains about."""
    page = browser.new_page(**options)
    page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: complaints.append(str(e)))
    page.on("request", lambda r: None if r.url.startswith((url, "data:")) else complaints.append(f"elsewhere: {r.url}"))
    page.goto(f"{url}/dashboard")
    return page


@pytest.fixture
def loaded(gateway: Gateway) -> Iterator[threading.Thread]:
    """Eight users of anna on four seats, and five of ben's at once, of which three are refused."""

    async def users() -> None:
        async with httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=60) as client:

            async def ask(name: str, times: int) -> None:
                body = {**HELLO, "stream": True, "max_tokens": 40, "truth": {"gap_s": 0.05}}
                for _ in range(times):
                    await client.post("/v1/chat/completions", json=body, headers=bearer(name))

            await asyncio.gather(*(ask("ben", 1) for _ in range(5)), *(ask("anna", 3) for _ in range(8)))

    thread = threading.Thread(target=lambda: asyncio.run(users()))
    thread.start()
    yield thread
    thread.join()


def test_numbers_change_under_load_and_are_those_of_the_counters(
    gateway: Gateway, browser: Browser, request: pytest.FixtureRequest
) -> None:
    complaints: list[str] = []
    page = opened(browser, gateway.url, complaints, viewport={"width": 1360, "height": 900})
    expect(page.locator("#state")).to_have_text("ready")
    assert page.evaluate(NUMBERS, "ttft") == {"p95": "–", "p50": "–"}, "nothing was asked yet"
    assert page.evaluate(NUMBERS, "load") == {"running": "0", "waiting": "0", "seats": "4"}, "not the dead one's"

    load: threading.Thread = request.getfixturevalue("loaded")
    expect(page.locator("[data-of='load-running']")).to_have_text("4")
    # Not by wait_for_function: the page's policy forbids it to look a second time.
    expect(page.locator("[data-of='load-waiting']")).to_have_text(re.compile("[1-9]"))
    expect(page.locator("[data-of='ttft-p95']")).to_have_text(re.compile("s$"))
    picture(page, "load")
    load.join()
    readings = "times.filter(Number.isFinite).length"
    enough = page.evaluate(readings) + 2  # one may have been under way when the last answer ended
    assert eventually(lambda: page.evaluate(readings) >= enough, 20)
    expect(page.locator("[data-of='load-running']")).to_have_text("0")

    assert page.evaluate(NUMBERS, "itl")["p50"].endswith(" ms")
    assert page.evaluate(NUMBERS, "tokens")["all"].endswith(" tok/s")
    assert page.evaluate(NUMBERS, "cache") == {"hits": "27 %"}, "3 of 11 prompt tokens"
    assert set(page.evaluate(NUMBERS, "answers")) == {"200", "429"}
    assert page.evaluate(TABLE, "statuses") == [["200", "26"], ["429", "3"]]
    assert page.evaluate(TABLE, "refused") == [["concurrency", "3"]]
    tokens = {row[0]: row[1:3] for row in page.evaluate(TABLE, "keys")}
    assert tokens == {"anna": ["264", "960"], "ben": ["22", "80"]}
    assert gateway.count("generation_tokens_total", key="anna") == 960
    engines = {row[0]: row for row in page.evaluate(TABLE, "engines")}
    assert (engines["one"][1], engines["one"][3]) == ("up", "0 of 4")
    assert (engines["dead"][1], int(engines["dead"][4].replace(",", "")) > 0) == ("down", True)
    assert page.locator("#engines svg.strip rect").count() == 2, "one green stretch, one red"
    assert page.locator("#ttft path.curve").nth(0).get_attribute("d").count("L") > 2  # type: ignore[union-attr]
    assert re.fullmatch(r"CPU \d+ %, \d+ MB", page.locator("#process").inner_text())
    assert complaints == []
    page.close()


@pytest.mark.parametrize(
    ("size", "scheme"), [("desk", "light"), ("desk", "dark"), ("tablet", "light"), ("phone", "dark")]
)
def test_it_fits_and_can_be_read(gateway: Gateway, browser: Browser, size: str, scheme: str) -> None:
    complaints: list[str] = []
    width, height = SIZES[size]
    view: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    page = opened(browser, gateway.url, complaints, **view)
    expect(page.locator("#state")).to_have_text("ready")
    picture(page, f"{size}-{scheme}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = "getComputedStyle(document.querySelector(q)).getPropertyValue(p)"
    shades = [
        page.evaluate(f"([q, p]) => {colours}", [*one]) for one in (("h2", "color"), (".card", "background-color"))
    ]
    shades += [page.evaluate(f"([q, p]) => {colours}", [".card > p", "color"])]
    assert contrast(shades[0], shades[1]) >= 7
    assert contrast(shades[2], shades[1]) >= 4.5  # WCAG AA
    assert complaints == []
    page.close()


def contrast(one: str, other: str) -> float:
    """WCAG's contrast of two colours, written as rgb(…)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour.removeprefix("rgb(").rstrip(")").split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_its_memory_is_bounded_however_many_names_there_are(gateway: Gateway, browser: Browser) -> None:
    page = opened(browser, gateway.url, [])
    page.get_by_role("button", name="Pause").click()
    registry = CollectorRegistry()
    answers = Counter("gateway:requests", "", ("model_name", "status"), registry=registry)
    up = Gauge("gateway:engine_up", "", ("engine",), registry=registry)
    seats = Gauge("gateway:engine_seats", "", ("engine",), registry=registry)
    for number in range(100):
        answers.labels("m", str(400 + number)).inc()
        up.labels(f"engine-{number}").set(number % 2)
        seats.labels(f"engine-{number}").set(8)
    sizes = """([text, times]) => {
        for (let i = 0; i < times; i++) take(text);
        const lines = CHARTS.map(chart => chart.lines.size);
        return [document.getElementsByTagName('*').length, pages.length, engines.size, lines];
    }"""
    full = page.evaluate(sizes, [generate_latest(registry).decode(), 40])
    later = page.evaluate(sizes, [generate_latest(registry).decode(), 40])
    assert later[0] <= full[0] + 20, "the labels of the axis differ with the time"
    assert later[1:] == full[1:]
    assert full[1:] == [12, 12, [2, 2, 2, 3, 8, 1]]
    assert page.evaluate(TABLE, "engines")[-1] == ["and 88 more, in /metrics"]
    assert page.evaluate("[...CHARTS[0].lines.values()][0].values.length") == 300
    page.close()


def test_quantiles_are_prometheus_quantiles_and_labels_are_unescaped(gateway: Gateway, browser: Browser) -> None:
    page = opened(browser, gateway.url, [])
    page.get_by_role("button", name="Pause").click()
    registry = CollectorRegistry()
    times = Histogram(
        "gateway:time_to_first_token_seconds", "", ("model_name",), registry=registry, buckets=(0.1, 0.5, 2)
    )
    name = 'a "quoted" \\ name\nof two lines, {and} more'
    times.labels(name)
    fresh = "pages.length = 0"
    page.evaluate(f"text => {{ {fresh}; take(text); }}", generate_latest(registry).decode())
    for value in (*[0.05] * 2, *[0.3] * 6, *[1.0] * 2):
        times.labels(name).observe(value)
    page.evaluate("text => take(text)", generate_latest(registry).decode())

    def quantile(share: float) -> float:
        return float(page.evaluate("share => quantile(share, 'time_to_first_token_seconds')", share))

    assert quantile(0.5) == pytest.approx(0.1 + 0.4 * 3 / 6)  # the fifth of ten is the third of six between 0.1 and 0.5
    assert quantile(0.95) == pytest.approx(0.5 + 1.5 * 1.5 / 2)
    times.labels(name).observe(100)
    page.evaluate("text => take(text)", generate_latest(registry).decode())
    assert quantile(0.999) == 2, "beyond the last bucket: its lower bound"
    labels = page.evaluate("pages.at(-1).metrics.get('time_to_first_token_seconds_bucket')[0].labels")
    assert labels == {"le": "0.1", "model_name": name}
    page.close()


def test_a_gateway_that_ends_and_comes_back_is_told_apart(browser: Browser, tmp_path: Path) -> None:
    with TruthEngine.start(tmp_path / "truth.log") as truth:
        with running(tmp_path, {"one": truth.url}) as gateway:
            gateway.chat()
            page = opened(browser, gateway.url, [])
            expect(page.locator("#state")).to_have_text("ready")
            port = int(gateway.url.rpartition(":")[2])
        expect(page.locator("#problem")).to_contain_text("does not answer")
        expect(page.locator("#state")).to_have_text("no answer")
        page.evaluate("text => parse(text)", "not a page of metrics")
        with running(tmp_path, {"one": truth.url}, port=port):
            expect(page.locator("#state")).to_have_text("ready")
            expect(page.locator("#problem")).to_have_count(0)
            assert page.evaluate("pages.every(page => total('requests_total', page) === 0)"), "it counts from 0 again"
        page.close()


def test_nothing_of_the_page_comes_from_elsewhere(gateway: Gateway) -> None:
    answer = gateway.client.get("/dashboard")
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert answer.headers["content-type"].startswith("text/html")
    script = gateway.client.get("/dashboard.js")
    assert script.headers["content-type"].startswith("text/javascript")
    assert script.text == (TREE / "gateway" / "dashboard.js").read_text()
    for forbidden in ("innerHTML", "eval(", "localStorage", "document.write"):
        assert forbidden not in script.text
    assert re.findall(r"<script(?! src=)|\son\w+=|\sstyle=|href=\"http|src=\"http", answer.text) == []


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("LABS_PICTURES"):
        page.screenshot(path=Path(folder) / f"dashboard-{name}.png", full_page=True)
