"""Compare two ledgers: a laptop's and a Spark's, or those of two classmates.

    make compare A=results B=~/from-a-classmate/results
    python -m shared.report.compare A B --html FILE      # the same as a page

Each is a results folder, or one lab's folder in it. Neither is changed. Results with the same key in both are compared,
all rounds of a key together. Where they differ in what they ran (model, precision, flags, length), their row is marked,
because such a ratio compares more than two machines. Where the intervals of the medians overlap, no ratio is shown.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.engines import ENGINES
from shared.errors import LabError, command
from shared.metrics.spread import clear_ratio, interval, number
from shared.metrics.summary import FIGURES
from shared.report.page import Section, as_html
from shared.report.table import Table
from shared.results.reading import Entries, Entry, read_ledger

LAB = re.compile(r"\d+\.\d+\.\d+")  # the name of a lab's folder; folders that were set aside have longer names
# The settings that both must share for a row to compare only machines and engines.
ALIKE = ("model", "model_sha256", "precision", "dtype", "flags", "prompts", "max_tokens", "load", "kind")

STUDENTS_OWN = ("guessed", "written")  # predictions and conclusions, which are not compared

Rounds = dict[str, list[Entry]]  # all entries of a measurement, by their key without its round


@dataclass(frozen=True)
class Side:
    """One of the two sides: a lab's ledger, or a folder of ledgers."""

    name: str
    place: Path
    labs: Mapping[str, Rounds]
    faults: tuple[str, ...]

    def entries(self) -> list[Entry]:
        return [entry for lab in self.labs.values() for rounds in lab.values() for entry in rounds]


def side(name: str, place: Path) -> Side:
    """Read a results folder, or one lab's folder in it. Raises LabError if there are no results."""
    place = place.expanduser()
    names = [place] if LAB.fullmatch(place.name) else sorted(place.glob("*")) if place.is_dir() else []
    labs: dict[str, Rounds] = {}
    faults: list[str] = []
    # An older version's index, "3.3.1.json", leads to its folder too, so that it appears among the faults.
    for folder in dict.fromkeys(one.with_name(one.name.removesuffix(".json")) for one in names):
        if LAB.fullmatch(folder.name):
            found = read_ledger(folder)
            faults += found.faults
            results = {key: entry for key, entry in found.entries.items() if entry["kind"] not in STUDENTS_OWN}
            if results:
                labs[folder.name] = by_measurement(results)
    if not labs:
        raise LabError(
            f"{paths.show(place)} holds no results{'; '.join(['', *faults])}.",
            "name a results folder, or one lab's folder in it: make compare A=results B=other/results",
        )
    return Side(name, place, labs, tuple(faults))


def by_measurement(entries: Entries) -> Rounds:
    found: Rounds = {}
    for key, entry in entries.items():
        found.setdefault(re.sub(r"/round-\d+$", "", key), []).append(entry)
    return found


def side_by_side(a: Side, b: Side) -> list[Section]:
    """The sections of the comparison: both ledgers, a table per lab and figure, and what is not compared."""
    sections = [Section("The two ledgers", "\n".join([*described(a), *described(b)]))]
    for lab in sorted(a.labs.keys() & b.labs.keys()):
        sections += compared(lab, a.labs[lab], b.labs[lab])
    rest = [
        f"- in both, but without one of these figures: {lab}: {key}"
        for lab in sorted(a.labs.keys() & b.labs.keys())
        for key in shared_keys(a.labs[lab], b.labs[lab])
        if not figured(a.labs[lab][key], b.labs[lab][key])
    ]
    alone = [
        f"- only in {one.name}: {lab}: {key}"
        for one, other in ((a, b), (b, a))
        for lab, measurements in sorted(one.labs.items())
        for key in sorted(measurements.keys() - other.labs.get(lab, {}).keys())
    ]
    return [*sections, Section("What is not compared", "\n".join(alone + rest) or "Everything is compared.")]


def described(one: Side) -> list[str]:
    """Lines with the machine, the engines' versions and the times, from the entries themselves."""
    sources = [entry["provenance"] for entry in one.entries()]
    machines = {
        f"{s['processor']}, {s.get('cores', '?')} of {s.get('machine_cores', '?')} cores, "
        f"{s.get('memory_gib', '?')} GiB, GPU {s.get('gpu') or 'none'}, profile {s.get('profile', '?')}"
        for s in sources
        if "processor" in s and "engine" in s
    } or {f"{s.get('processor', 'unknown machine')}" for s in sources}
    versions = {f"{title(s['engine'])} {s.get('engine_version', '?')}" for s in sources if "engine" in s}
    times = sorted(s["time"][:16].replace("T", " ") for s in sources)
    lines = [
        f"- {one.name}: {paths.show(one.place)}, {len(sources)} results, {times[0]} to {times[-1]}",
        *(f"- {one.name} ran on {one_line(machine)}" for machine in sorted(machines)),
        f"- {one.name}'s engines: {one_line(', '.join(sorted(versions)) or 'none')}",
    ]
    return [*lines, *(f"- {one.name}: {one_line(fault)}" for fault in one.faults)]


def compared(lab: str, a: Rounds, b: Rounds) -> list[Section]:
    """One section per figure, with a row for each measurement of which both sides have the figure."""
    there = [key for key in shared_keys(a, b) if figured(a[key], b[key])]
    notes: list[str] = []
    marks = {key: mark(difference(a[key], b[key]), notes) for key in there}
    sections = []
    for value, name, unit, _ in FIGURES:
        rows = []
        for key in there:
            ours, theirs = numbers(a[key], value), numbers(b[key], value)
            if ours and theirs:
                rows.append((*place(key, a[key][0]), spread(ours), spread(theirs), ratio(theirs, ours), marks[key]))
        if rows:
            header = ("engine", "users", f"A, {unit}", f"B, {unit}", "B / A", "differs")
            text = "\n".join([*notes, "", Table("", header, rows).markdown()])
            sections.append(Section(f"{lab}: {name}", text))
    return sections


def shared_keys(a: Rounds, b: Rounds) -> list[str]:
    return sorted(a.keys() & b.keys(), key=order(a))


def figured(a: Sequence[Entry], b: Sequence[Entry]) -> bool:
    """Whether both name an engine, and both have at least one of the figures."""
    named = all("engine" in entry["provenance"] for entry in (*a, *b))
    return named and any(numbers(a, value) and numbers(b, value) for value, *_ in FIGURES)


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
    """B / A as text, or the reason why there is no ratio."""
    if min(len(theirs), len(ours)) < 2:
        return "only one round, so no interval"
    if min(*theirs, *ours) <= 0:
        return "no ratio, since a value is 0"
    found = clear_ratio(theirs, ours)
    return "no clear difference" if found is None else f"{number(found)}×"


def spread(values: Sequence[float]) -> str:
    return f"{interval(values)}, n={len(values)}"


def difference(a: Sequence[Entry], b: Sequence[Entry]) -> str:
    """What differs between them besides machine and version; "" if nothing does."""
    differing = []
    for name in ALIKE:
        ours, theirs = distinct_values(a, name), distinct_values(b, name)
        if ours != theirs or len(ours) > 1:
            differing.append(f"{name} {' and '.join(ours)} in A, {' and '.join(theirs)} in B")
    failed = [sum(int(v) for e in one for v in numbers([e], "failed")) for one in (a, b)]
    if any(failed):
        differing.append(f"failed requests: {failed[0]} in A, {failed[1]} in B")
    return "; ".join(differing)


def distinct_values(entries: Sequence[Entry], name: str) -> list[str]:
    """The distinct values of these entries, as printable text."""
    values = (entry["kind"] if name == "kind" else entry["provenance"].get(name) for entry in entries)
    return sorted({one_line(flags(value) if isinstance(value, dict) else str(value)) for value in values})


def flags(value: Mapping[str, Any]) -> str:
    return " ".join(f"{name} {given}" for name, given in sorted(value.items())) or "none"


def mark(difference: str, notes: list[str]) -> str:
    """A mark such as "[1]" for this difference, added to `notes`. Rows with the same difference share a mark."""
    if not difference:
        return ""
    found = [i for i, note in enumerate(notes, 1) if note == f"- [{i}] {difference}"]
    if not found:
        notes.append(f"- [{len(notes) + 1}] {difference}")
    return f"[{found[0] if found else len(notes)}]"


def numbers(entries: Sequence[Entry], value: str) -> list[float]:
    """The figure in each round that has it; the median if it is a spread."""
    found = [entry["values"].get(value) for entry in entries]
    single = [one.get("median") if isinstance(one, dict) else one for one in found]
    # Not a measured number: NaN, or one beyond a float's range.
    return [float(v) for v in single if isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e15]


def place(key: str, entry: Entry) -> tuple[str, str]:
    """The engine (with the rest of the key, such as a flag that was swept), and the number of users."""
    engine, users = entry["provenance"]["engine"], entry["values"].get("users", "")
    rest = [part for part in key.split("/")[1:] if part not in (engine, f"users-{users}")]
    return one_line(f"{title(engine)}{' ' if rest else ''}{' '.join(rest)}"), one_line(str(users))


def order(rounds: Rounds) -> Any:
    """A sort key: by the first word, then engines in the course's order, then the number of users."""

    def by(key: str) -> tuple[str, int, float, str]:
        entry = rounds[key][0]
        names = list(ENGINES)
        engine = entry["provenance"].get("engine")
        users = numbers([entry], "users")
        return key.split("/")[0], names.index(engine) if engine in names else 99, users[0] if users else 0, key

    return by


def title(engine: Any) -> str:
    return ENGINES[engine].title if isinstance(engine, str) and engine in ENGINES else str(engine)


def one_line(text: str) -> str:
    """Text from another person's ledger as one line of printable characters, 200 at most."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable if len(printable) <= 200 else printable[:199] + "…"


@command
def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m shared.report.compare", description="Compare two ledgers.")
    parser.add_argument("a", type=Path, help="a results folder, or one lab's folder in it")
    parser.add_argument("b", type=Path, help="the other one")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the comparison as an HTML page")
    asked = parser.parse_args(arguments)
    sections = side_by_side(side("A", asked.a), side("B", asked.b))
    for section in sections:
        print(f"\n{section.title}\n\n{section.text}")
    if asked.html:
        escaped = [Section(s.title, escape(s.text, quote=False)) for s in sections]  # another person's text
        source = f"A: {paths.show(asked.a)} · B: {paths.show(asked.b)}"
        files.write(asked.html.expanduser(), as_html("Two ledgers side by side", source, escaped).encode())
        print(f"\nWrote {paths.show(asked.html)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
