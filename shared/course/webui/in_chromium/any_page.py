"""What any chat page must do: probes that need an address and a few selectors, and the verdict on what they found.

A check is a probe, which records raw evidence, and a judge, which computes the verdict from that evidence alone. The
evidence is what reached the engine, in which order, and what was on the screen.
"""

import asyncio
import base64
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from shared.course.webui.in_chromium.chat_page import ChatPage, Tab, opened, until
from shared.course.webui.in_chromium.injections import ALL
from shared.course.webui.in_chromium.ollama_relay import Asked, OllamaRelay, pieces
from shared.launch.running import Engine

if TYPE_CHECKING:
    from playwright.async_api import Browser

Raw = dict[str, Any]
STORY = "Tell me a very long story about a river, with many chapters."
STOP_AFTER = 40  # characters of the story on the screen
STEPS = 3  # so many different lengths of the answer must be on the screen before its end
LOOK_LIMIT_S = 60  # how long an answer is watched
NEXT_LIMIT_S = 5  # how long the request after the stop may wait
AFTER_RELOAD_S = 5  # how long a page that was loaded again may take to show the answer
THE_END = "The end of the list."
# Clicks on the links that lead to no other server: they might run a script.
CLICK = """selector => [...document.querySelectorAll(selector)].filter((one) => !/^https?:/.test(one.href))
    .forEach((one) => one.click())"""
FIRST, NAME = "Who are you?", "quagga"  # what the page must send again with the second question


@dataclass(frozen=True)
class Target:
    """What a probe works on."""

    chat: ChatPage
    relay: OllamaRelay
    engine: Engine
    browser: "Browser"

    async def asked(self, tab: Tab, text: str) -> Asked:
        """Ask this on the page. Returns the request that reached Ollama. Raises TimeoutError if none did."""
        since = len(self.relay.asked)
        await tab.ask(text)
        if not await until(lambda: len(self.relay.asked) > since):
            raise TimeoutError("no request reached Ollama: does the page ask it at the relay's address?")
        return self.relay.asked[since]


Probe = Callable[[Target], Awaitable[Raw]]


@dataclass(frozen=True)
class Check:
    done: str  # what was done
    probe: Probe
    passed: Callable[[Raw], bool]
    came: Callable[[Raw], str]
    simulated: bool = False  # the answer was played by the relay


async def streams(on: Target) -> Raw:
    """The real engine's answer, looked at while it comes."""
    seen: list[tuple[int, int, bool]] = []

    def enough() -> bool:
        """Whether to look no longer. On a busy machine much text comes between two looks, so text alone does not do."""
        _, characters, done = seen[-1]
        return done or (characters >= 4 * STOP_AFTER and steps({"seen": seen}) >= STEPS)

    async with opened(on.browser, on.chat) as tab:
        asked = await on.asked(tab, STORY)
        end_s = time.monotonic() + LOOK_LIMIT_S
        while time.monotonic() < end_s and not (seen and enough()):
            done = asked.done  # before the look at the screen
            seen.append((round(1e3 * (time.monotonic() - asked.began_s)), len(await tab.answer()), done))
            await asyncio.sleep(0.05)
        picture = base64.b64encode(await tab.picture()).decode()
    return {"sent": STORY in str(asked.body), "seen": seen, "picture": picture}


def steps(raw: Raw) -> int:
    """How many different lengths of the answer were on the screen while the engine was still writing."""
    return len({characters for _, characters, done in raw["seen"] if characters and not done})


async def remembers(on: Target) -> Raw:
    """A second question: what of the first is sent again with it?"""
    on.relay.script = lambda: pieces(f"I am a {NAME}, and that is all.")
    async with opened(on.browser, on.chat) as tab:
        first = await on.asked(tab, FIRST)
        await until(lambda: first.ended_s)
        await tab.answer_of(len(NAME) + 20)
        await tab.rest(LOOK_LIMIT_S)
        await asyncio.sleep(0.5)  # a page without a stop button needs a moment to take note of the end
        return {"sent": str((await on.asked(tab, "Say that again.")).body)[:2000]}


async def stop(on: Target) -> Raw:
    """Stop a long answer of the real engine.

    The engine decides how long its answer gets. One that was over before the button could be pressed proves nothing,
    so it is asked for once more.
    """
    found = await stop_once(on)
    return found if found["pressed"] or found["writing"] else await stop_once(on)


async def stop_once(on: Target) -> Raw:
    """One try of the stop. A second request, past the page, shows whether the engine's only seat is free."""
    async with opened(on.browser, on.chat) as tab:
        asked = await on.asked(tab, STORY)
        before = await tab.answer_of(STOP_AFTER)
        writing = not asked.done
        clicked_s = await tab.stop()
        second_ms = await second(on)
        if clicked_s is not None:  # the stop goes through the page's server, and may take a while to get here
            await until(lambda: asked.ended_s, NEXT_LIMIT_S)
        unfinished, characters = not asked.done, len(await tab.answer())
        await asyncio.sleep(0.5)
        later = len(await tab.answer())
        left = asked.left and asked.ended_s is not None and clicked_s is not None
    on.relay.cut()
    return {
        "pressed": clicked_s is not None, "writing": writing, "unfinished": unfinished, "left": left,
        "left_ms": round(1e3 * (asked.ended_s - clicked_s), 1) if left else None,  # type: ignore[operator]
        "second_ms": second_ms, "idle_ms": await second(on), "characters": [len(before), characters, later],
    }  # fmt: skip


async def second(on: Target) -> float | None:
    """How long one token takes, asked of the engine itself, in ms; None if it did not come in time."""
    body = {"model": on.engine.served_name, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
    began_s = time.monotonic()
    try:
        async with httpx.AsyncClient(timeout=NEXT_LIMIT_S, trust_env=False) as client:
            (await client.post(f"{on.engine.url}/api/generate", json=body)).raise_for_status()
    except httpx.HTTPError:
        return None
    return round(1e3 * (time.monotonic() - began_s), 1)


async def reload(on: Target) -> Raw:
    """Load the page again in the middle of an answer."""
    async with opened(on.browser, on.chat) as tab:
        await on.asked(tab, STORY)
        before = await tab.answer_of(2 * STOP_AFTER)  # its beginning is compared: what comes last may change its look
        await tab.page.reload()
        await tab.be_ready()
        after = await tab.answer_of(2 * STOP_AFTER, limit_s=AFTER_RELOAD_S)
        await asyncio.sleep(1)
        later = await tab.answer()
    same = " ".join(after.split())[:STOP_AFTER] == " ".join(before.split())[:STOP_AFTER]
    return {"same": bool(after) and same, "characters": [len(one) for one in (before, after, later)]}


async def scripts(on: Target) -> Raw:
    """The whole corpus of injections as one simulated answer, and one of them as a question.

    Only an answer that was on the screen to its end proves something, so one that wasn't is asked for once more.
    """
    found = await shown_scripts(on)
    return found if found["shown"] else await shown_scripts(on)


async def shown_scripts(on: Target) -> Raw:
    on.relay.script = lambda: pieces("\n\n".join([*ALL, THE_END]), 40)
    async with opened(on.browser, on.chat) as tab:
        await on.asked(tab, ALL[0])
        end = time.monotonic() + LOOK_LIMIT_S
        while THE_END not in (text := await tab.answer()) and time.monotonic() < end:
            await asyncio.sleep(0.1)
        shown, foreign = THE_END in text, sorted(set(tab.foreign))[:20]
        with contextlib.suppress(Exception):  # a link that leads away ends this
            await tab.page.evaluate(CLICK, f"{on.chat.answer} a")
        await asyncio.sleep(0.5)
        hits = await tab.page.evaluate("window.hits")
        return {"vectors": len(ALL), "shown": shown, "characters": len(text), "ran": len(hits), "foreign": foreign}


def to_others(raw: Raw) -> str:
    count = len(raw["foreign"])
    return f"{count} request{'s' * (count != 1)} to other servers"


def stopped(raw: Raw) -> str:
    waited, idle = (
        f"{raw[one]:,.0f} ms" if raw[one] else f"more than {NEXT_LIMIT_S} s" for one in ("second_ms", "idle_ms")
    )
    what = "the engine went on"
    if not raw["pressed"]:
        what = "it has no stop button" if raw["writing"] else "the answer was over before a stop could be pressed"
    if raw["left"]:
        what = f"the connection to the engine was closed {raw['left_ms']:,.0f} ms after the click"
    return f"{what}; the second request took {waited}, and {idle} on a free engine"


ANY: Mapping[str, Check] = {
    "streams": Check(
        "a long answer, watched while it comes", streams, lambda raw: raw["sent"] and steps(raw) >= STEPS,
        lambda raw: f"{steps(raw)} steps on the screen before the engine had finished",
    ),
    "remembers": Check(
        "a second question", remembers, lambda raw: NAME in raw["sent"] and FIRST in raw["sent"],
        lambda raw: f"the first answer was {'' if NAME in raw['sent'] else 'not '}sent again with it", simulated=True,
    ),
    "stop": Check(
        "stop in the middle of an answer, then a second request to the engine's only seat", stop,
        lambda raw: raw["writing"] and raw["left"] and raw["unfinished"] and raw["second_ms"] is not None,
        stopped,
    ),
    "reload": Check(
        "a reload in the middle of an answer", reload, lambda raw: raw["same"],
        lambda raw: f"{raw['characters'][0]} characters before, {raw['characters'][1]} after it, "
        f"{raw['characters'][2]} a second later",
    ),
    "scripts": Check(
        f"{len(ALL)} injections in an answer", scripts, lambda raw: raw["shown"] and not raw["ran"],
        lambda raw: f"{raw['ran']} scripts ran"
        + ("" if raw["shown"] else f"; {raw['characters']} characters of the answer were shown, and not its end")
        + (f"; {to_others(raw)}" if raw["foreign"] else ""), simulated=True,
    ),
}  # fmt: skip
