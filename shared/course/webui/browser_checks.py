"""What a chat page must do, tried in Chromium, each with what was done and what came.

    browser_checks.run(lab, server.chat_page, relay, ollama)        # any ChatPage whose Ollama is the relay
    show(tables.browser(lab))

The plain page that the lab starts from goes through the same checks, which shows that they can fail.
"""

from collections.abc import Callable, Mapping
from typing import Any

from shared.course.labs import OpenLab
from shared.course.webui.in_chromium import chromium
from shared.course.webui.in_chromium.any_page import ANY, Check, Raw, Target
from shared.course.webui.in_chromium.chat_page import ChatPage
from shared.course.webui.in_chromium.ollama_relay import OllamaRelay
from shared.course.webui.in_chromium.own_page import OWN
from shared.launch.running import Engine

PREFIX = "browser/"
CHECKS: Mapping[str, Check] = {**ANY, **OWN}


async def every(on: Target) -> dict[str, Raw]:
    """The evidence of every check that applies to the page, one after the other."""
    found: dict[str, Raw] = {}
    for name, check in (CHECKS if on.chat.ours else ANY).items():
        try:
            found[name] = await check.probe(on)
        except Exception as e:  # a page on which a check can't be done must not end the run
            found[name] = {"failed": (str(e) or type(e).__name__).splitlines()[0]}
        on.relay.script = None
        on.relay.cut()  # the next check finds the engine free
    return found


def values(found: Mapping[str, Raw]) -> dict[str, Any]:
    """The verdicts, computed from the evidence."""
    verdicts = {name: passed(name, raw) for name, raw in found.items()}
    return {"passed": sum(verdicts.values()), "checks": len(verdicts), "verdicts": verdicts}


def passed(name: str, raw: Raw) -> bool:
    return "failed" not in raw and bool(CHECKS[name].passed(raw))


def came(name: str, raw: Raw) -> str:
    """What came, in a few words."""
    return f"not done: {raw['failed']}" if "failed" in raw else CHECKS[name].came(raw)


def run(lab: OpenLab, chat: ChatPage, relay: OllamaRelay, ollama: Engine) -> dict[str, Any]:
    """All checks on this page, recorded under `browser/<its name>`.

    `ollama` is the engine behind the relay, with OLLAMA_NUM_PARALLEL=1. A page whose code the lab doesn't know
    (`made_of` is empty) is recognised by its address: after a change of it, `lab.set_aside("browser/<its name>")`.
    Raises LabError where no browser is found.
    """

    return recorded(lab, chat.name, chat.identity(), lambda: chat, relay, ollama)


def recorded(
    lab: OpenLab, name: str, page: Mapping[str, Any], chat: Callable[[], ChatPage], relay: OllamaRelay, ollama: Engine
) -> dict[str, Any]:
    """The same for a page that `chat` starts, only if it isn't checked yet. page: what it is made of."""

    def measured() -> tuple[dict[str, Any], dict[str, Raw]]:
        there = chat()
        found = chromium.run(lambda browser: every(Target(there, relay, ollama, browser)))
        return values(found), found

    result: dict[str, Any] = lab.measure(PREFIX + name, measured, engine=ollama, page=page)
    return result
