"""The checks in Chromium: on the plain page, on ours, and on a page that does everything wrong. No engine is needed."""

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web

from shared import LabError, results
from shared.course import labs
from shared.course.webui import browser_checks, own_renderer, render_lag, student_webui, tables
from shared.course.webui.in_chromium import any_page, chromium, ollama_relay
from shared.course.webui.in_chromium.any_page import ANY, Target
from shared.course.webui.in_chromium.chat_page import ChatPage, opened
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.course.webui.render_lag import Stream
from shared.hardware import host

NUMBER = "3.3.6"
# It waits for the whole answer, forgets the first question, keeps nothing, and trusts what the model writes.
BAD_PAGE = """<!doctype html><input id="text"><button id="go">Go</button><button id="halt">Stop</button><script>
document.getElementById("go").onclick = async () => {
  const place = document.body.appendChild(document.createElement("div"));
  place.className = "said";
  const messages = [{ role: "user", content: document.getElementById("text").value }];
  const response = await fetch("/api/chat", { method: "POST", body: JSON.stringify({ messages }) });
  const lines = (await response.text()).trim().split("\\n");
  place.innerHTML = lines.map((line) => JSON.parse(line).message.content).join("");
};
</script>"""
SELECTORS = {"prompt": "#text", "send": "#go", "answer": ".said", "stop": "#halt", "ready": ""}


class WithPage(OllamaRelay):
    """A relay that serves the bad page beside Ollama's API."""

    async def _pass_on(self, request: web.Request, asked: Any) -> web.StreamResponse:
        if request.path == "/":
            return web.Response(text=BAD_PAGE, content_type="text/html")
        return await super()._pass_on(request, asked)


class SlowToHear(OllamaRelay):
    """A relay on a busy machine: it notes a request late."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.5)
        return await super()._handle(request)


@pytest.fixture(scope="module")
def relay() -> Iterator[OllamaRelay]:
    with WithPage() as relay:
        yield relay


def tried(chat: ChatPage, relay: OllamaRelay) -> dict[str, Any]:
    """The evidence of all checks that apply."""
    engine = cast(Any, SimpleNamespace(url=relay.url, served_name="simulated"))
    return chromium.run(lambda browser: browser_checks.every(Target(chat, relay, engine, browser)))


@pytest.mark.browser
def test_our_page_passes_every_check(relay: OllamaRelay) -> None:
    with student_webui.running(labs.open(NUMBER), relay.url) as server:
        found = tried(server.chat_page, relay)
    assert found.keys() == browser_checks.CHECKS.keys()
    assert [(name, browser_checks.came(name, raw)) for name, raw in found.items()
            if not browser_checks.passed(name, raw)] == []  # fmt: skip
    assert browser_checks.values(found)["passed"] == len(browser_checks.CHECKS)


@pytest.mark.browser
def test_compare_counts_requests_that_reach_the_engine_after_the_answers_are_on_the_screen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(browser_checks, "CHECKS", {"compare": browser_checks.CHECKS["compare"]})
    with SlowToHear() as relay, student_webui.running(labs.open(NUMBER), relay.url) as server:
        raw = tried(server.chat_page, relay)["compare"]
    assert browser_checks.came("compare", raw) == "2 requests, 2 answers"
    assert browser_checks.passed("compare", raw)


@pytest.mark.browser
def test_the_plain_page_has_no_stop_and_loses_its_chat_at_a_reload(relay: OllamaRelay) -> None:
    with student_webui.plain(relay.url) as server:
        found = tried(server.chat_page, relay)
    verdicts = browser_checks.values(found)["verdicts"]
    assert verdicts == {"streams": True, "remembers": True, "stop": False, "reload": False, "scripts": True}
    assert "no stop button" in browser_checks.came("stop", found["stop"])


@pytest.mark.browser
def test_each_check_of_any_page_can_fail(relay: OllamaRelay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(any_page, "LOOK_LIMIT_S", 8)
    monkeypatch.setattr(ollama_relay, "many_words", lambda: ollama_relay.pieces("One word. " * 40, 4, 0.02))
    found = tried(ChatPage("bad", relay.url, **SELECTORS), relay)
    assert browser_checks.values(found)["verdicts"] == dict.fromkeys(ANY, False)
    assert found["scripts"]["ran"] > 0
    assert "scripts ran" in browser_checks.came("scripts", found["scripts"])


@pytest.mark.browser
def test_a_tab_finds_nothing_of_an_earlier_one_and_reaches_no_other_machine(relay: OllamaRelay) -> None:
    chat = ChatPage("bad", relay.url, **SELECTORS)

    with socket.create_server(("127.0.0.2", 0)) as another:  # as another machine: it listens, and could be reached
        address = f"http://127.0.0.2:{another.getsockname()[1]}/x"

        async def two_tabs(browser: Any) -> tuple[int, list[str], bool]:
            async with opened(browser, chat) as tab:
                await tab.page.evaluate("localStorage.kept = document.cookie = 'kept=1'; open('about:blank')")
            async with opened(browser, chat) as tab:
                kept = await tab.page.evaluate("localStorage.length + document.cookie.length")
                failed = await tab.page.evaluate(f"fetch('{address}', {{mode: 'no-cors'}}).then(() => 0, () => 1)")
                return kept + len(tab.page.context.pages) - 1, tab.foreign, bool(failed)

        assert chromium.run(two_tabs, limit_s=30) == (0, [address], True)
        another.setblocking(False)
        with pytest.raises(BlockingIOError):
            another.accept()


@pytest.mark.browser
def test_a_page_that_is_no_chat_is_told_from_one(relay: OllamaRelay) -> None:
    chat = ChatPage("none", f"{relay.url}/api/tags", ready="#nothing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.course.webui.in_chromium.chat_page.PATIENCE_MS", 500)
        found = tried(chat, relay)
    assert browser_checks.values(found)["passed"] == 0
    assert browser_checks.came("streams", found["streams"]).startswith("not done: ")


@pytest.mark.browser
def test_the_naive_page_and_ours_draw_every_word_of_a_simulated_stream(relay: OllamaRelay) -> None:
    stream = Stream(1_800, 50, 2)
    naive = own_renderer.NAIVE
    raw = {"naive": chromium.run(lambda browser: own_renderer.probe(browser, naive, relay, stream))}
    with student_webui.running(labs.open(NUMBER), relay.url) as server:
        chat = server.chat_page
        raw["webui"] = chromium.run(lambda browser: render_lag.in_page(browser, chat, relay, stream))
    for name, one in raw.items():
        found = render_lag.values(one)
        assert (found["drawn"], found["sent"]) == (100, 100), name
        assert 0 < found["lag_p50_ms"] <= found["lag_p99_ms"]
        assert found["busy_percent"] > 0
        results.record(NUMBER, f"render/{name}", found, raw=one)
    table = tables.render_lag(labs.open(NUMBER))
    assert [row[0] for row in table.rows] == ["naive", "webui"]
    assert "simulated" in table.title


def test_a_word_that_was_never_drawn_is_the_worst_lag() -> None:
    busy = [{"Task": 1.0, "Script": 0.5}, {"Task": 2.0, "Script": 0.6}]
    raw = {"lags": [[n, 10.0 + n] for n in range(90)], "sent": 100, "seconds": 4.0, "busy_s": busy}
    found = render_lag.values(raw)
    assert found["lag_p50_ms"] == 60.0
    assert found["lag_p99_ms"] == 1e3 * render_lag.LEFT_BEHIND_S
    assert (found["drawn"], found["busy_percent"], found["of_that_percent"]) == (90, 25.0, {"Script": 2.5})
    assert not render_lag.good(found)
    late = render_lag.values({**raw, "lags": [[n, 70_000.0] for n in range(90)]})
    assert late["lag_p50_ms"] == late["lag_p99_ms"] == 70_000.0  # what was drawn at last may come later than that
    assert render_lag.good({"lag_p99_ms": 100, "busy_percent": 50})


def test_without_a_browser_the_reason_is_recorded(monkeypatch: pytest.MonkeyPatch, relay: OllamaRelay) -> None:
    monkeypatch.setattr(host, "browser", lambda: None)
    lab, chat = labs.open(NUMBER), ChatPage("mine", "http://127.0.0.1:9")
    with pytest.raises(LabError, match=r"(?s)No Chromium.*environment\.browser"):
        render_lag.measure(lab, chat, relay)
    lab.attempt("browser/mine", "the checks", lambda: browser_checks.run(lab, chat, relay, cast(Any, None)))
    assert "No Chromium" in lab.values("browser/mine")["missing"]
    assert tables.browser(lab).rows == []
