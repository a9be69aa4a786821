"""What the lab measures of Open WebUI, each with its raw evidence. Nothing is simulated: its Ollama is the real one.

    relay = OllamaRelay(ollama.url).start()              # in front of Ollama, where requests are counted
    open_webui_experiments.tools(lab, relay, ollama, switched_off)
    open_webui_experiments.hidden(lab, relay, ollama)
    open_webui_experiments.added(lab, relay, ollama)
    open_webui_experiments.checks(lab, relay, ollama)
    open_webui_experiments.settings(lab, relay, ollama, in_force)

Each starts Open WebUI where it isn't running yet, and raises LabError with the command where it isn't installed.
"""

import json
import statistics
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shared.course.labs import OpenLab
from shared.course.webui import browser_checks, open_webui, render_lag
from shared.course.webui.in_chromium import chromium
from shared.course.webui.in_chromium.chat_page import opened, until
from shared.course.webui.in_chromium.ollama_relay import Asked, OllamaRelay
from shared.course.webui.open_webui import TASKS, OpenWebUI
from shared.course.webui.render_lag import Stream
from shared.engines.http import post_json
from shared.errors import LabError
from shared.launch.running import Engine
from shared.load.client import stream
from shared.load.loops import in_own_loop

if TYPE_CHECKING:
    from playwright.async_api import Browser

Raw = dict[str, Any]
Values = dict[str, Any]
PREFIX = "open-webui/"
QUESTIONS = ("Name three fruits.", "Name three animals.")
FEW_TOKENS = 24  # of an answer whose length does not matter
QUIET_S = 0.5  # so long after its last request, and with no task left in Open WebUI, a message is over
KINDS = {"title": '"title":', "tags": '"tags":', "follow-ups": '"follow_ups":'}  # what the prompt of each asks for


async def typed(browser: "Browser", webui: OpenWebUI, relay: OllamaRelay, texts: Sequence[str]) -> list[Raw]:
    """Type these messages into one chat. For each: the answer on the screen, and every request that reached Ollama."""
    found = []
    async with opened(browser, webui.chat_page) as tab:
        for number, text in enumerate(texts, 1):
            since = len(relay.asked)
            await tab.ask(text)
            if not await until(lambda at=since: len(relay.asked) > at, 60):  # type: ignore[misc]
                raise TimeoutError("the message did not reach Ollama")
            answers = tab.page.locator(webui.chat_page.answer)
            await until(lambda at=since: quiet(relay.asked[at:]) and not webui.tasks(), 240)  # type: ignore[misc]
            await answers.nth(number - 1).wait_for()
            await tab.rest(60)  # else it would not take the next message
            shown = await tab.answer_of(1, limit_s=30)  # an error comes on the screen later than its empty answer
            found.append({"shown": shown, "asked": [noted(one) for one in relay.asked[since:]]})
    return found


def quiet(asked: Sequence[Asked]) -> bool:
    ended = [one.ended_s for one in asked if one.ended_s]
    return len(ended) == len(asked) and time.monotonic() - max(ended) > QUIET_S


def noted(one: Asked) -> Raw:
    """What the evidence keeps of a request."""
    tools = one.body.get("tools") or []
    last = str(one.body["messages"][-1]["content"])
    return {
        "path": one.path, "answered": one.done, "last_message": last[:200], "kind": kind(last),
        "bytes": len(json.dumps(one.body)), "tools": len(tools), "bytes_of_tools": len(json.dumps(tools)),
    }  # fmt: skip


def kind(last_message: str) -> str:
    """What a request is for, by what the prompt asks for: "message" is what the user typed."""
    if not last_message.startswith("### Task:"):
        return "message"
    return next((name for name, asked in KINDS.items() if asked in last_message), "other")


def tools(
    lab: OpenLab, relay: OllamaRelay, ollama: Engine, switched_off: Callable[[Mapping[str, Any]], Sequence[str]]
) -> Values:
    """A message in its page, before and after what `switched_off` returns for this model is switched off."""

    def measured() -> tuple[Values, Raw]:
        webui = open_webui.before(relay.url)
        shown = post_json(f"{ollama.url}/api/show", {"model": ollama.served_name})
        off = list(switched_off({"capabilities": shown.get("capabilities", [])}))
        raw: Raw = {"capabilities": shown.get("capabilities"), "switched_off": off}

        async def both(browser: "Browser") -> None:
            for name, capabilities in (("before", []), ("after", off)):
                webui.switch_off(capabilities, FEW_TOKENS)
                [raw[name]] = await typed(browser, webui, relay, QUESTIONS[:1])

        chromium.run(both)
        return read_tools(raw), raw

    return _recorded(lab, "tools", measured, ollama, uses=(switched_off,))


def read_tools(raw: Raw) -> Values:
    before, after = raw["before"], raw["after"]
    return {
        "answered_before": any(one["answered"] for one in before["asked"]),
        "answered_after": any(one["answered"] for one in after["asked"]),
        "shown_before": before["shown"][:200], "shown_after": after["shown"][:200],
        "tools_before": before["asked"][0]["tools"], "tools_after": after["asked"][0]["tools"],
        "bytes_of_tools": before["asked"][0]["bytes_of_tools"],
    }  # fmt: skip


def hidden(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> Values:
    """How many requests two messages of a chat make, with title, tags and follow-ups switched off, and on."""

    def measured() -> tuple[Values, Raw]:
        webui = open_webui.before(relay.url)
        webui.switch_off(["builtin_tools", "vision"], FEW_TOKENS)
        raw: Raw = {}

        async def both(browser: "Browser") -> None:
            for name, tasks in (("off", ()), ("on", TASKS)):
                webui.set_tasks(tasks, FEW_TOKENS)
                raw[name] = await typed(browser, webui, relay, QUESTIONS)

        chromium.run(both)
        webui.set_tasks(())
        return read_hidden(raw), raw

    return _recorded(lab, "hidden", measured, ollama)


def read_hidden(raw: Raw) -> Values:
    """Requests of the first and of the second message; for "on" also of which kind, and how large."""
    counts = {name: [len(message["asked"]) for message in raw[name]] for name in ("off", "on")}
    extra = [[one["kind"] for one in message["asked"] if one["kind"] != "message"] for message in raw["on"]]
    size = [
        sum(one["bytes"] for message in raw["on"] for one in message["asked"] if (one["kind"] == "message") is typed)
        for typed in (True, False)
    ]
    return {**counts, "kinds": extra, "bytes_of_messages": size[0], "bytes_of_hidden": size[1]}


def added(lab: OpenLab, relay: OllamaRelay, ollama: Engine, rounds: int = 10) -> Values:
    """TTFT of its API beside Ollama's own, one after the other in turn, each prompt a new one."""

    def measured() -> tuple[Values, Raw]:
        webui = open_webui.before(relay.url)
        webui.models()  # it looks them up before its first answer
        raw: Raw = {"direct": [], "through": []}
        in_own_loop(_rounds(webui, relay, ollama, rounds, raw))
        return read_added(raw), raw

    return _recorded(lab, "added", measured, ollama, rounds=rounds)


async def _rounds(webui: OpenWebUI, relay: OllamaRelay, ollama: Engine, rounds: int, raw: Raw) -> None:
    targets = {
        "direct": (f"{relay.url}/v1/chat/completions", ""),
        "through": (f"{webui.url}/api/chat/completions", webui.token),
    }
    for number in range(rounds + 1):
        for name in sorted(targets, reverse=bool(number % 2)):
            url, key = targets[name]
            message = {"role": "user", "content": f"{uuid.uuid4()}. What is gravity?"}
            body = {"model": ollama.served_name, "messages": [message], "max_tokens": 8}
            trace = await stream(url, body, api_key=key)
            if trace.error:
                raise LabError(f"A request {name} failed: {trace.error}.", webui.advice())
            if number:  # the first round warms both up
                raw[name].append(trace.ttft_ms)


def read_added(raw: Raw) -> Values:
    more = [after - before for before, after in zip(raw["direct"], raw["through"], strict=True)]
    medians = [round(statistics.median(one), 1) for one in (raw["direct"], raw["through"], more)]
    return dict(zip(("direct_ms", "through_ms", "added_ms"), medians, strict=True)) | {"rounds": len(more)}


# The settings whose fate after a restart is measured: name -> (default, whether the first start copies it).
SETTINGS = {
    "ENABLE_FOLLOW_UP_GENERATION": ("True", True), "ENABLE_TAGS_GENERATION": ("True", True),
    "ENABLE_CHANNELS": ("False", True), "ENABLE_SIGNUP": ("True", True), "WEBUI_NAME": ("Open WebUI", False),
}  # fmt: skip
FIRST = {name: value for name, value in open_webui.NO_TASKS.items() if name in SETTINGS}
IN_PAGE = {"ENABLE_TAGS_GENERATION": "True", "ENABLE_SIGNUP": "False"}  # the first account closes sign-up
NOW = {"ENABLE_FOLLOW_UP_GENERATION": "True", "ENABLE_TAGS_GENERATION": "False", "ENABLE_CHANNELS": "True",
       "WEBUI_NAME": "Lab"}  # fmt: skip


def settings(lab: OpenLab, relay: OllamaRelay, ollama: Engine, in_force: Callable[..., Any]) -> Values:
    """Start it with other variables on two copies of its database, and compare what is in force with `in_force`."""

    def measured() -> tuple[Values, Raw]:
        webui = open_webui.before(relay.url)
        webui.set_tasks(("TAGS",))  # by its API, as its page does it
        raw: Raw = {"first": read(webui), "found": {}, "predicted": {}}
        ways = (True, False)
        restarted = webui.started_again(*({**NOW, "ENABLE_PERSISTENT_CONFIG": persistent} for persistent in ways))
        try:
            raw["found"] = {str(persistent): read(one) for persistent, one in zip(ways, restarted, strict=True)}
        finally:
            for one in restarted:
                one.end()
        for persistent in ways:
            raw["predicted"][str(persistent)] = {
                name: str(in_force(default, FIRST.get(name), IN_PAGE.get(name), NOW.get(name), copied, persistent))
                for name, (default, copied) in SETTINGS.items()
            }
        return read_settings(raw), raw

    return _recorded(lab, "settings", measured, ollama, uses=(in_force,))


def read(webui: OpenWebUI) -> dict[str, str]:
    """The values of SETTINGS that are in force."""
    found = {
        **webui.call("GET", "/api/v1/tasks/config"), **webui.call("GET", "/api/v1/auths/admin/config"),
        "WEBUI_NAME": webui.call("GET", "/api/config")["name"].removesuffix(" (Open WebUI)"),
    }  # fmt: skip
    return {name: str(found[name]) for name in SETTINGS}


def read_settings(raw: Raw) -> Values:
    """`ignored`: the variables whose new value is not in force after the restart with the database."""
    kept, predicted = raw["found"]["True"], raw["predicted"]
    right = [raw["found"][way][name] == predicted[way][name] for way in predicted for name in SETTINGS]
    return {
        "right": sum(right), "of": len(right), "ignored": [name for name, value in NOW.items() if kept[name] != value],
        "sign_up_open": {way: values["ENABLE_SIGNUP"] for way, values in raw["found"].items()},
    }  # fmt: skip


def connection(lab: OpenLab, relay: OllamaRelay, ollama: Engine, url: str, name: str = "gateway") -> Values:
    """Add the OpenAI-compatible server at `url`, and ask one of its models through Open WebUI."""

    def measured() -> tuple[Values, Raw]:
        webui = open_webui.before(relay.url)
        webui.connect(url, name)
        models = [one for one in webui.models() if one.startswith(f"{name}.")]
        if not models:
            raise LabError(f"Open WebUI found no model at {url}.", "check that GET /v1/models lists one there")
        body = {"model": models[0], "messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": FEW_TOKENS}
        trace = in_own_loop(stream(f"{webui.url}/api/chat/completions", body, api_key=webui.token))
        webui.disconnect()  # its page would prefer the new models
        return {"models": models, "text": trace.text[:200], "error": trace.error}, {"text": trace.text}

    return _recorded(lab, "connection", measured, ollama, connected=name)


def checks(lab: OpenLab, relay: OllamaRelay, ollama: Engine) -> Values:
    """The checks that any chat page must pass, recorded under `browser/open-webui`."""
    made_of = {"open_webui": open_webui.version()}
    return browser_checks.recorded(lab, open_webui.NAME, made_of, lambda: _plain(relay).chat_page, relay, ollama)


def render(lab: OpenLab, relay: OllamaRelay) -> Values:
    """How far its page is behind the simulated stream, recorded under `render/open-webui`."""

    def probe(stream: Stream) -> "Callable[[Browser], Awaitable[Raw]]":
        chat = _plain(relay).chat_page
        return lambda browser: render_lag.in_page(browser, chat, relay, stream)

    return render_lag.recorded(lab, open_webui.NAME, {"open_webui": open_webui.version()}, probe)


def _plain(relay: OllamaRelay) -> OpenWebUI:
    """It sends nothing but what is typed, also to a model without tools."""
    webui = open_webui.before(relay.url)
    webui.switch_off(["builtin_tools", "vision"])
    webui.set_tasks(())
    return webui


def _recorded(lab: OpenLab, name: str, measured: Callable[[], Any], ollama: Engine, **more: Any) -> Values:
    uses = more.pop("uses", ())
    version = open_webui.version()
    found: Values = lab.measure(PREFIX + name, measured, engine=ollama, uses=uses, open_webui=version, **more)
    return found
