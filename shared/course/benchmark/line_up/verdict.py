"""A student's verdict on a line-up, tested on the ledger alone.

    line_up.judge(lab, my_number, "B", "provenance.cores")

The evidence is a field of a result, written as `values.…` or `provenance.…`. It must be a field in which the named run
differs from the three others, and one that is set or observed apart from the engine's speed: a slow run is the reason
to look, not the evidence.
"""

import difflib
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from shared.course.benchmark.line_up.runs import CACHE, CLIENT, CORES, NAMES, PRECISION
from shared.course.labs import OpenLab
from shared.errors import LabError
from shared.metrics.spread import number as shown
from shared.report.table import Table
from shared.results.reading import Entries, Entry

VERDICT = "line-up/verdict"  # the result that holds it
# What proves each way, by the beginning of a field's name.
PROOFS = {
    PRECISION: ("provenance.precision", "provenance.model_sha256"),
    CORES: ("provenance.cores",),
    CACHE: ("values.cached_tokens", "values.counted.cached_tokens"),
    CLIENT: ("values.client_lag_ms.p50", "values.client_lag_ms", "values.client_bottleneck"),
}
# These fields are measurements, which are never exactly equal: one stands out if it is many times the others, and at
# least this many tokens (of a cache), or ms (by which the client's event loop wakes up late).
LEAST = {CACHE: 50.0, CLIENT: 5.0}
MANY_TIMES = 3.0
MEANING = {
    PRECISION: "it read other weights",
    CORES: "its engine had fewer cores",
    CACHE: "a cache supplied a part of its prompts",
    CLIENT: "its client was blocked and stamped late",
}


def keys(number: int) -> dict[str, str]:
    return {name: f"line-up/{number}/{name}" for name in NAMES}


def runs(entries: Entries, number: int) -> dict[str, Entry]:
    """The four runs by name. Raises LabError if one is missing."""
    found = {name: entries[key] for name, key in keys(number).items() if key in entries}
    if len(found) < len(NAMES):
        raise LabError(f"Line-up {number} is not measured yet.", "run the cell `run-line-up`")
    return found


def figures(lab: OpenLab, number: int) -> Table:
    """What a report would show of the four runs."""
    rows = [
        (name, *(shown(e["values"][figure]["median"]) for figure in ("ttft_ms", "tpot_ms")),
         shown(e["values"]["output_tok_s"]))
        for name, e in runs(lab.results(), number).items()
    ]  # fmt: skip
    return Table(f"Line-up {number}: which run is unfair?", ("run", "TTFT, ms", "TPOT, ms", "throughput, tok/s"), rows)


def fields(entry: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a result as (`values.ttft_ms.median`, its value)."""
    for name, value in entry.items():
        if isinstance(value, Mapping):
            yield from fields(value, f"{before}{name}.")
        elif before:
            yield before + name, value


def unfair_ways(found: Mapping[str, Entry]) -> dict[str, str]:
    """{way: run} for every way in which one run differs from the three others, by the fields that prove it."""
    seen = {name: dict(fields(entry)) for name, entry in found.items()}
    ways = {}
    for way, proofs in PROOFS.items():
        values = {name: seen[name].get(proofs[0]) for name in found}
        if way in LEAST:
            odd = [name for name in found if outstanding(values, name, LEAST[way])]
        else:
            odd = [name for name in found if list(values.values()).count(values[name]) == 1]
        if len(odd) == 1:
            ways[way] = odd[0]
    return ways


def outstanding(values: Mapping[str, Any], name: str, least: float) -> bool:
    """Whether this run's number is at least `least`, and many times that of the others."""
    others = [float(value or 0) for one, value in values.items() if one != name]
    return float(values[name] or 0) > max(least, MANY_TIMES * statistics.median(others))


def solved(lab: OpenLab, number: int) -> tuple[str, str]:
    """For instructors: the unfair run of this line-up, and a field that proves it."""
    [(way, name), *_] = unfair_ways(runs(lab.results(), number)).items()
    return name, PROOFS[way][0]


def found_it(entries: Entries, number: int, suspect: str, evidence: str) -> tuple[bool, str]:
    """Whether the suspect is the unfair run and the evidence proves it, and a sentence about what is missing."""
    found = runs(entries, number)
    ways = unfair_ways(found)
    mine = {way for way, name in ways.items() if name == suspect}
    if not mine:
        return False, f"run {suspect} was measured as the others were: compare precision, cache, cores and client"
    each = [dict(fields(found[name])).get(evidence) for name in NAMES]
    if all(value == each[0] for value in each):
        return False, f"{evidence} is the same in all four runs: it proves nothing"
    proven = [way for way in mine if evidence.startswith(PROOFS[way])]
    if proven:
        return True, f"run {suspect}: {MEANING[proven[0]]}"
    return False, f"{evidence} is an effect, or differs by chance: name the field that shows what was set differently"


def judge(lab: OpenLab, number: int, suspect: str, evidence: str) -> Table | None:
    """Test a verdict, record it, and return it as a table; None if it is still open.

    Raises LabError if there is no such run or no such field.
    """
    if not suspect or not evidence:
        print("Still open: name a run and a field of its result.")
        return None
    found = runs(lab.results(), number)
    if suspect not in NAMES:
        raise LabError(f"There is no run {suspect!r}.", f"name one of {', '.join(NAMES)}")
    there = {name: dict(fields(entry)) for name, entry in found.items()}
    if evidence not in there[suspect]:
        close = difflib.get_close_matches(evidence, there[suspect], 3, 0.3)
        raise LabError(
            f"The result of run {suspect} has no field {evidence!r}.",
            f"name one such as {', '.join(close)}" if close else "write it as provenance.… or values.…",
        )
    right, why = found_it(lab.results(), number, suspect, evidence)
    lab.record(VERDICT, {"number": number, "suspect": suspect, "evidence": evidence})
    rows = [tuple(text(there[name].get(evidence)) for name in NAMES)]
    return Table(f"{'✔ Found' if right else '✘ Not yet'}: {why}", tuple(f"{evidence} of {one}" for one in NAMES), rows)


def text(value: object) -> str:
    return shown(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)[:60]
