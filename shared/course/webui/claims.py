"""Lab 3.3.6: the claims of its milestone, and the test of each claim on the results."""

from typing import Any

from shared.course.evidence import Claim, Evidence
from shared.course.webui import browser_checks, ollama_api, open_webui_experiments, render_lag
from shared.course.webui.in_chromium.any_page import ANY
from shared.metrics.spread import Spread

PAGE = ("whole_lines", "stop", "lines", "pacer", "refusal")
STOP_GOAL_MS = 200
PLAIN_LACKS = ("stop", "reload")


def checked(evidence: Evidence, page: str) -> dict[str, Any] | str:
    """The raw evidence of a page's checks, or what is wrong with it; "" if there is none."""
    key = browser_checks.PREFIX + page
    entry = evidence.of(key).get(key)
    if entry is None:
        return ""
    raw: dict[str, Any] = evidence.raw(key)
    return raw if browser_checks.values(raw) == entry["values"] else f"{key} doesn't follow from its raw data"


def passes(evidence: Evidence) -> tuple[bool, str]:
    plain, mine = checked(evidence, "plain"), checked(evidence, "webui")
    for raw in (plain, mine):
        if isinstance(raw, str):
            return False, raw
    assert isinstance(plain, dict)
    assert isinstance(mine, dict)
    if missing := browser_checks.CHECKS.keys() - mine:
        return False, f"browser/webui lacks checks: {', '.join(sorted(missing))}"
    failed = {page: [name for name, one in raw.items() if not browser_checks.passed(name, one)]
              for page, raw in (("plain", plain), ("webui", mine))}  # fmt: skip
    text = (
        f"{len(mine) - len(failed['webui'])} of {len(mine)} checks passed; the plain page fails {len(failed['plain'])}"
    )
    if failed["webui"]:
        seen = "; ".join(f"{name} ({browser_checks.came(name, mine[name])})" for name in failed["webui"])
        return False, f"{text}; yours fails: {seen}"
    return set(PLAIN_LACKS) <= set(failed["plain"]), f"{text} of {len(ANY)}: {', '.join(failed['plain'])}"


def stop_frees(evidence: Evidence) -> tuple[bool, str]:
    plain, mine = checked(evidence, "plain"), checked(evidence, "webui")
    if isinstance(plain, str) or isinstance(mine, str):
        return False, next(raw for raw in (plain, mine) if isinstance(raw, str))
    text = "; ".join(f"{page}: {browser_checks.came('stop', raw['stop'])}"
                     for page, raw in (("plain page", plain), ("mine", mine)))  # fmt: skip
    if not browser_checks.passed("stop", mine["stop"]):
        return False, text
    return evidence.judged(mine["stop"]["left_ms"] <= STOP_GOAL_MS, text)


def keeps_up(evidence: Evidence, name: str) -> tuple[bool, str]:
    """Whether this page keeps up with the stream that the naive page does not keep up with."""
    entries, found = evidence.of(render_lag.PREFIX), {}
    for page in (render_lag.NAIVE, name):
        key = render_lag.PREFIX + page
        if key not in entries:
            return False, ""
        found[page] = render_lag.values(evidence.raw(key))
        if found[page] != entries[key]["values"]:
            return False, f"{key} doesn't follow from its raw data"
    if len({str(entries[render_lag.PREFIX + page]["provenance"].get("simulated_stream")) for page in found}) > 1:
        return False, "the pages got different streams: run the cells `render-before`, `render-page` and `render-yours`"
    naive, mine = found[render_lag.NAIVE], found[name]
    text = "; ".join(
        f"{title}: lag p99 {one['lag_p99_ms']:,.0f} ms, main thread {one['busy_percent']:.0f} % busy"
        for title, one in (("innerHTML +=", naive), ("mine", mine))
    )
    if mine["drawn"] < mine["sent"]:
        return False, f"{text}; {mine['sent'] - mine['drawn']} words were never drawn"
    return evidence.judged(render_lag.good(mine) and not render_lag.good(naive), f"{text} (simulated stream)")


def page_keeps_up(evidence: Evidence) -> tuple[bool, str]:
    return keeps_up(evidence, "webui")


def renderer_keeps_up(evidence: Evidence) -> tuple[bool, str]:
    return keeps_up(evidence, "yours")


def seats(evidence: Evidence) -> tuple[bool, str]:
    entries, waits, sizes = evidence.of("parallel/"), {}, evidence.of("ollama/memory/")
    for count in (1, 4):
        rounds = [one["values"] for key, one in entries.items() if key.startswith(f"parallel/{count}/")]
        waits[count] = Spread.of(one["ttft_ms"]["median"] for one in rounds if one["ttft_ms"])
        if waits[count] is None or f"ollama/memory/{count}" not in sizes:
            return False, ""
    one, four = (sizes[f"ollama/memory/{count}"]["values"]["size_bytes"] / 2**20 for count in (1, 4))
    first, last = waits[1], waits[4]
    assert first is not None
    assert last is not None
    text = (
        f"four users wait {first} ms for a first token at one seat and {last} ms at four; the model takes {one:,.0f} "
        f"and {four:,.0f} MiB"
    )
    return evidence.judged(last.median < first.median and four > one, text)


def leaves_memory(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("ollama/keep-alive").get("ollama/keep-alive")
    if entry is None:
        return False, ""
    found = ollama_api.read_keep_alive(evidence.raw("ollama/keep-alive"))
    if found != entry["values"]:
        return False, "ollama/keep-alive doesn't follow from its raw data"
    text = (
        f"loading took {found['cold_load_ms']:,.0f} ms after the model had left, {found['warm_load_ms']:,.0f} ms while "
        "it was loaded"
    )
    if not found["unloaded"]:
        return False, f"the model was still loaded after its time; {text}"
    return evidence.judged(found["cold_load_ms"] > found["warm_load_ms"], text)


def fits_schema(evidence: Evidence) -> tuple[bool, str]:
    entry = evidence.of("ollama/structured").get("ollama/structured")
    if entry is None:
        return False, ""
    found = ollama_api.read_structured(evidence.raw("ollama/structured"))
    if found != entry["values"]:
        return False, "ollama/structured doesn't follow from its raw data"
    text = f"of {found['asked']} answers {found['valid_with']} fit with the schema, {found['valid_without']} without"
    return found["valid_with"] == found["asked"] or found["valid_with"] > found["valid_without"], text


def open_webui(evidence: Evidence) -> tuple[bool, str]:
    entries, found = evidence.of(open_webui_experiments.PREFIX), {}
    for name, read in (
        ("tools", open_webui_experiments.read_tools), ("hidden", open_webui_experiments.read_hidden),
        ("settings", open_webui_experiments.read_settings),
    ):  # fmt: skip
        key = open_webui_experiments.PREFIX + name
        if key not in entries:
            return False, ""
        found[name] = read(evidence.raw(key))
        if found[name] != entries[key]["values"]:
            return False, f"{key} doesn't follow from its raw data"
    tools, hidden, settings = found["tools"], found["hidden"], found["settings"]
    text = (
        f"a message in its page was {'' if tools['answered_after'] else 'not '}answered after the fix, and "
        f"{'' if tools['answered_before'] else 'not '}before; {sum(hidden['on'])} requests for {len(hidden['on'])} "
        f"messages, {sum(hidden['off'])} without titles, tags and follow-ups; {settings['right']} of {settings['of']} "
        f"settings predicted, {len(settings['ignored'])} changed variables ignored"
    )
    mended = tools["answered_after"] and not tools["answered_before"]
    holds = mended and sum(hidden["on"]) > sum(hidden["off"]) and settings["right"] == settings["of"]
    return bool(holds and settings["ignored"]), text


CHECKED = {"browser/plain": "plain-checks", "browser/webui": "your-checks"}
CLAIMS = (
    Claim("My page streams, stops, survives a reload and runs no script; the plain page lacks some of it",
          passes, CHECKED, PAGE),
    Claim("My stop button frees the engine's only seat at once", stop_frees, CHECKED, ("stop", "lines")),
    Claim("My page keeps up with 200 tokens a second in a long chat, and `innerHTML +=` does not", page_keeps_up,
          {"render/naive": "render-before", "render/webui": "render-page"}, ("pacer",)),
    Claim("The renderer that I wrote keeps up with this stream, too", renderer_keeps_up,
          {"render/naive": "render-before", "render/yours": "render-yours"}),
    Claim("Four seats shorten the wait of four users, and cost memory", seats,
          {"parallel/": "parallel", "ollama/memory/": "parallel"}, ("largest_context",)),
    Claim("A model leaves memory when its keep_alive is over, and the next request pays for that", leaves_memory,
          {"ollama/keep-alive": "keep-alive"}),
    Claim("With a JSON schema all answers fit, or more than without it", fits_schema,
          {"ollama/structured": "structured"}),
    Claim("I found Open WebUI's hidden requests and both of its traps", open_webui,
          {"open-webui/tools": "open-webui-tools", "open-webui/hidden": "open-webui-hidden",
           "open-webui/settings": "open-webui-settings"}, ("in_force", "switched_off")),
)  # fmt: skip
