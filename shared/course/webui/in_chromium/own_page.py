"""What the lab's own page must do beside: checks that know its parts."""

import asyncio
import base64
from collections.abc import Mapping

import httpx

from shared.course.webui.in_chromium.any_page import Check, Raw, Target, scripts, to_others
from shared.course.webui.in_chromium.chat_page import opened, until
from shared.course.webui.in_chromium.injections import ALL
from shared.course.webui.in_chromium.ollama_relay import pieces

MARKDOWN = """# A heading

Some **bold** text and `code`.

| left | right |
|------|-------|
| 1    | 2     |

```python
def half(x):
    return x / 2
```

- one
- two
"""
PARTS = {"h1": 1, "strong": 1, "td": 2, "pre code .hljs-keyword": 2, "ul li": 2}  # selector: how often it is there
WORD = "axolotl"
EVIL = "http://localhost:{port}/"  # another origin than 127.0.0.1
ATTACK = 'url => fetch(url, { method: "POST", mode: "no-cors" }).catch(() => {})'


async def markdown(on: Target) -> Raw:
    on.relay.script = lambda: pieces(MARKDOWN, 7, 0.01)
    async with opened(on.browser, on.chat) as tab:
        asked = await on.asked(tab, "Show me some Markdown.")
        await until(lambda: asked.ended_s)
        answer, found = tab.page.locator(on.chat.answer).last, {}
        for selector, wanted in PARTS.items():
            for _ in range(600):  # code is coloured when the page has time for it
                found[selector] = await answer.locator(selector).count()
                if found[selector] >= wanted:
                    break
                await asyncio.sleep(0.05)
        return {"found": found, "picture": base64.b64encode(await tab.picture()).decode()}


async def regenerate(on: Target) -> Raw:
    on.relay.script = lambda: pieces("First.")
    async with opened(on.browser, on.chat) as tab:
        await tab.ask("Answer me.")
        await tab.answer_of(6)
        on.relay.script = lambda: pieces("Second.")
        await tab.page.get_by_label("Regenerate this answer").click()
        await tab.page.get_by_text("2 / 2").wait_for()
        second = await tab.answer_of(7)
        await tab.page.get_by_label("The version before").click()
        await tab.page.get_by_text("1 / 2").wait_for()
        for _ in range(100):  # the text may come a moment after the number
            if (first := await tab.answer()) not in ("", second):
                break
            await asyncio.sleep(0.05)
        return {"answers": [first, second]}


async def compare(on: Target) -> Raw:
    """One question, two answers, each with its figures."""
    since, on.relay.script = len(on.relay.asked), lambda: pieces("An answer.")
    async with opened(on.browser, on.chat) as tab:
        await tab.page.get_by_role("button", name="Compare").click()
        await tab.page.locator(".lane").nth(1).wait_for()
        await tab.ask("The same for both?")
        # An answer that is still being written has figures, too, but it can be regenerated only after its end.
        await tab.page.get_by_label("Regenerate this answer").nth(1).wait_for()
        questions = [one.body["messages"][-1]["content"] for one in on.relay.asked[since:]]
        return {"questions": questions, "answers": await tab.page.locator(".message.assistant").count()}


async def search(on: Target) -> Raw:
    on.relay.script = lambda: pieces(f"The {WORD} lives in Xochimilco.")
    async with opened(on.browser, on.chat) as tab:
        asked = await on.asked(tab, "Which animal?")
        await until(lambda: asked.ended_s)
        await tab.page.get_by_label("Regenerate this answer").wait_for()  # only then is all of it in the history
        await tab.page.get_by_role("button", name="New chat").click()
        await asyncio.sleep(0.3)
        await tab.page.get_by_label("Search all messages").fill(WORD[:5].upper())
        mark = tab.page.locator("#chats mark").first
        await mark.wait_for()
        return {"marked": await mark.inner_text()}


async def another_page(on: Target) -> Raw:
    """A web page of another origin tries to stop an answer, through its visitor's browser; and a name was rebound."""
    on.relay.script = lambda: pieces("One word, and another. " * 100, 4, 0.2)
    async with opened(on.browser, on.chat) as tab, httpx.AsyncClient(trust_env=False, timeout=10) as client:
        asked = await on.asked(tab, "Talk.")
        await tab.answer_of(4)
        chat = (await client.get(f"{on.chat.url}/api/chats")).json()["running"][0]
        message = (await client.get(f"{on.chat.url}/api/chats/{chat}")).json()["lanes"][0]["messages"][-1]["id"]
        evil = await on.browser.new_page()
        await evil.goto(EVIL.format(port=on.relay.port))
        await evil.evaluate(ATTACK, f"{on.chat.url}/api/answers/{message}/stop")
        await evil.close()
        await until(lambda: asked.left, 1)
        stopped = asked.left
        rebound = await client.get(f"{on.chat.url}/api/chats", headers={"host": "evil.example"})
    return {"stopped": stopped, "rebound": rebound.status_code}


OWN: Mapping[str, Check] = {
    "markdown": Check(
        "an answer in Markdown", markdown,
        lambda raw: all(raw["found"][one] >= least for one, least in PARTS.items()),
        lambda raw: ", ".join(f"{count} × {one}" for one, count in raw["found"].items()), simulated=True,
    ),
    "regenerate": Check(
        "an answer regenerated, then the first again", regenerate, lambda raw: raw["answers"] == ["First.", "Second."],
        lambda raw: f"the versions {' and '.join(raw['answers'])}", simulated=True,
    ),
    "compare": Check(
        "one question to two models", compare, lambda raw: len(raw["questions"]) == raw["answers"] == 2
        and len(set(raw["questions"])) == 1,
        lambda raw: f"{len(raw['questions'])} request{'s' * (len(raw['questions']) != 1)}, {raw['answers']} answers",
        simulated=True,
    ),
    "search": Check(
        f"the history searched for {WORD[:5].upper()}", search, lambda raw: raw["marked"] == WORD,
        lambda raw: f"{raw['marked']} is marked", simulated=True,
    ),
    "fetches-nothing": Check(
        f"{len(ALL)} injections, and what the page fetches for them", scripts,
        lambda raw: raw["shown"] and not raw["foreign"],
        to_others, simulated=True,
    ),
    "another-page": Check(
        "an attack by another web page, and one by DNS rebinding", another_page,
        lambda raw: not raw["stopped"] and raw["rebound"] == 403,
        lambda raw: f"the other page {'stopped' if raw['stopped'] else 'could not stop'} an answer; a request with a "
        f"rebound host name got {raw['rebound']}", simulated=True,
    ),
}  # fmt: skip
