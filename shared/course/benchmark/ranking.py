"""Which engine was ahead, and which to choose for which use: from the ledger, with no winner where rounds overlap.

verdict(rounds(entries, "output_tok_s"), users=16, more_is_better=True)      # "**vLLM**: 1.9×"
guide(entries)                                                               # one row per use
"""

import itertools
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.engines import ENGINES
from shared.load.loads import users_text
from shared.metrics.spread import clear_ratio, number
from shared.report.table import Table
from shared.results.participants import missing
from shared.results.query import Rounds, rounds
from shared.results.reading import Entries, Entry


@dataclass(frozen=True)
class Use:
    """A use of an engine, and the figure that decides it."""

    what: str
    figure: str  # in words
    value: str
    unit: str
    prefix: str
    by: str = "users"
    most: bool = False  # at the largest load or the longest prompt, not the smallest
    more_is_better: bool = False


USES = (
    Use("One person chats", "time per output token", "tpot_ms", "ms", "load/"),
    Use("One person, short questions", "time to first token", "ttft_ms", "ms", "load/"),
    Use("One person, long prompts", "time to first token", "ttft_ms", "ms", "prompt/", "input_tokens", True),
    Use("Many users: most work done", "output throughput", "output_tok_s", "tok/s", "load/", most=True,
        more_is_better=True),
    Use("Many users: smooth reading", "time per output token", "tpot_ms", "ms", "load/", most=True),
)  # fmt: skip
ONCE = (  # measured once per engine: without a spread there is no winner, only the least value seen
    ("Starts and stops often", "start-up", "engine/", "startup_s", "s"),
    ("Little memory beside other programs", "memory of all processes", "memory/", "resident_gib", "GiB"),
)


def sound(entries: Entries) -> dict[str, Entry]:
    """Leave out loads with failed requests: an engine that drops requests is fast with the rest."""
    return {key: entry for key, entry in entries.items() if not entry["values"].get("failed")}


def ranked(data: Rounds, at: int, more_is_better: bool) -> tuple[list[str], dict[str, float]]:
    """Engines in the order of their medians, and the ratio to the best one where intervals do not overlap."""
    there = {engine: values for (engine, place), values in data.items() if place == at}
    sign = -1 if more_is_better else 1
    order = sorted((e for e in ENGINES if e in there), key=lambda e: sign * statistics.median(there[e]))
    behind = {e: ratio for e in order if (ratio := clear_ratio(there[order[0]], there[e])) is not None}
    return order, {e: ratio if more_is_better else 1 / ratio for e, ratio in behind.items()}


def level(order: Sequence[str], behind: Collection[str]) -> list[str]:
    """The best engine, and those that can't be told apart from it.

    None of them has a worse median than an engine that is clearly behind: its rounds would overlap with the best ones
    only because they scatter.
    """
    return list(itertools.takewhile(lambda engine: engine not in behind, order))


def verdict(data: Rounds, at: int, more_is_better: bool) -> str:
    """The fastest engines at this load and their lead, or "no winner" if all intervals overlap."""
    order, behind = ranked(data, at, more_is_better)
    if len(order) < 2:
        return "only one measured"
    if not behind:
        return "no winner"
    ahead = [f"**{ENGINES[e].title}**" for e in level(order, behind)]
    return f"{', '.join(ahead)}: {number(next(iter(behind.values())))}×"  # over the best engine behind them


def guide(entries: Entries) -> Table:
    """Which engine to choose for which use, on this machine and with this model."""
    header = ("use", "decided by", "choose", "its figure", "next best")
    return Table(
        "Which engine to choose, on this machine and with this model", header, [*decided(entries), *seen_once(entries)]
    )


def decided(entries: Entries) -> Iterator[tuple[str, ...]]:
    whole = sound(entries)
    for use in USES:
        data = rounds(whole, use.value, use.prefix, use.by)
        places = sorted({place for _, place in data})
        if not places:
            continue
        at = places[-1] if use.most else places[0]
        order, behind = ranked(data, at, use.more_is_better)
        where = users_text(at) if use.by == "users" else f"{at} tokens"
        decides = f"{use.figure}, {where}"
        chosen = level(order, behind)
        theirs = f"{' or '.join(number(statistics.median(data[e, at])) for e in chosen)} {use.unit}"
        if len(order) < 2:
            yield use.what, decides, f"{ENGINES[order[0]].title}, the only one measured", theirs, "–"
        elif not behind:
            yield use.what, decides, f"no winner: {titles(order)}", theirs, "within the spread"
        else:
            next_one = next(iter(behind))
            worse = f"{number(statistics.median(data[next_one, at]))} {use.unit}, {number(behind[next_one])}× apart"
            yield use.what, decides, titles(chosen), theirs, f"{ENGINES[next_one].title}: {worse}"


def seen_once(entries: Entries) -> Iterator[tuple[str, ...]]:
    for what, figure, prefix, value, unit in ONCE:
        seen = {
            name: float(values[value])
            for name, values in of_each(entries, prefix).items()
            if values.get(value) is not None
        }
        order = sorted(seen, key=lambda e: seen[e])
        if len(order) > 1:
            first, second = order[:2]
            least, next_one = (f"{number(seen[e])} {unit}" for e in (first, second))
            yield (
                what,
                f"{figure}, measured once",
                f"least seen: {ENGINES[first].title}",
                least,
                f"{ENGINES[second].title}: {next_one}",
            )


def titles(engines: list[str]) -> str:
    return " or ".join(ENGINES[e].title for e in engines)


def absent(entries: Entries) -> dict[str, str]:
    """Engines that took no part, by name, with the reason."""
    return {key.removeprefix("engine/"): why for key, why in missing(entries, "engine/").items()}


def of_each(entries: Entries, prefix: str) -> dict[str, Mapping[str, Any]]:
    """The values under this prefix by engine, without engines that took no part (an earlier run left those)."""
    left = absent(entries)
    found = {key.removeprefix(prefix): entry["values"] for key, entry in entries.items() if key.startswith(prefix)}
    return {name: values for name, values in found.items() if name not in left}
