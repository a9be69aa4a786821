"""Which results count as evidence, and for what.

    evidence = Evidence("3.3.1")
    evidence.of("load/")        # the entries under this prefix that can be believed
    evidence.refused            # the others, each with the reason

An entry is believed if it was measured, says on what machine, is the same as the copy beside its raw data, follows
from that raw data when it is computed again, and was made by the code that is here now. Evidence from another
machine counts, and is marked.
"""

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.course import attempts
from shared.errors import LabError
from shared.metrics.summary import summarise
from shared.results import ledger, provenance
from shared.results.reading import Entry

# What reading an entry raises that is JSON, but not of the form that the labs write.
NONSENSE = (LabError, TypeError, LookupError, ValueError, ArithmeticError, AttributeError)
NAMED = ("time", "host", "processor", "code_sha256")  # what an entry says that `results.record` wrote here


@dataclass
class Evidence:
    """The believable part of one lab's ledger; remembers what a claim has looked at."""

    lab: str
    any_code: bool = False  # for an instructor, whose checkout may be newer than the student's
    refused: dict[str, str] = field(default_factory=dict)
    seen: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        for key, entry in ledger.load_results(self.lab).items():
            reason = doubt(self.lab, entry, self.any_code)
            if reason:
                self.refused[key] = reason
            else:
                self.entries[key] = entry

    def of(self, prefix: str) -> dict[str, Entry]:
        found = {key: entry for key, entry in self.entries.items() if key.startswith(prefix)}
        self.seen += found.values()
        return found

    def raw(self, key: str) -> Any:
        return ledger.load_raw(self.lab, key)

    def judged(self, holds: bool, text: str) -> tuple[bool, str]:
        """The outcome of a claim that compares speeds: it needs results of the full size.

        Loads of the quick size are too short to decide one on a busy machine. They are recorded, and not judged.
        """
        if any(entry["provenance"].get("size") != "full" for entry in self.seen):
            return True, f"not judged at the quick size: {text}"
        return holds, text


Test = Callable[[Evidence], tuple[bool, str]]  # whether it holds, and by what; or what is missing


@dataclass(frozen=True)
class Claim:
    """One thing to be able to say with evidence."""

    text: str
    test: Test
    needs: tuple[str, ...] = ()  # prefixes of results: if one there is refused, so is the claim
    exercises: tuple[str, ...] = ()  # functions of the student that its numbers went through


@dataclass(frozen=True)
class ClaimResult:
    """A claim, tested."""

    text: str
    ok: bool
    evidence: str


def test_claim(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Test one claim: what it rests on must be believable, then it must hold."""
    bad = {key: why for key, why in evidence.refused.items() if key.startswith(claim.needs)} if claim.needs else {}
    if bad:
        key, why = next(iter(sorted(bad.items())))
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        return ClaimResult(claim.text, False, f"refused: {key}: {why}{more}: run its cell again")
    evidence.seen.clear()
    try:
        ok, found = claim.test(evidence)
    except NONSENSE as e:
        return ClaimResult(
            claim.text, False, f"refused: its results are not as the lab's cells write them ({error_line(e)})"
        )
    return ClaimResult(
        claim.text, ok, found + (origin(evidence.seen) + by_reference(evidence.lab, claim) if ok else "")
    )


def error_line(e: Exception) -> str:
    """An error in one line, whatever it carries."""
    return (str(e) if isinstance(e, LabError) else f"{type(e).__name__}: {e}").splitlines()[0]


def doubt(lab: str, entry: Entry, any_code: bool = False) -> str:
    """Why an entry can't be believed; "" if it can."""
    source = entry["provenance"]
    missing = [name for name in NAMED if not isinstance(source.get(name), str)]
    if missing:
        return f"it doesn't say its {', '.join(missing)}: nothing that was measured here lacks that"
    beside = ledger.stored_copy(lab, entry["key"])
    if beside is None:
        return "its raw data is missing or torn"
    if beside != entry:
        return "it differs from the copy beside its raw data"
    if not any_code and source["code_sha256"] != provenance.code_sha256(lab):
        return "the code that measured it has changed since"
    try:
        raw = ledger.load_raw(lab, entry["key"])
        if "output_tok_s" not in entry["values"] or "requests" not in entry["values"]:
            return ""
        again = summarise(ledger.run_of(entry, raw)).values()
    except NONSENSE as e:
        return f"its figures can't be computed again from its raw traces ({error_line(e)})"
    wrong = [name for name in again if again[name] != entry["values"].get(name)]
    return f"{', '.join(wrong)} doesn't follow from the raw traces" if wrong else ""


def origin(entries: list[Entry]) -> str:
    """When and on which machine, for the end of a sentence."""
    if not entries:
        return ""
    times = sorted(e["provenance"]["time"][:16].replace("T", " ") for e in entries)
    when = times[0] if times[0] == times[-1] else f"{times[0]} to {times[-1]}"
    hosts = sorted({(e["provenance"]["host"], e["provenance"]["processor"]) for e in entries})
    where = "; ".join(
        "this machine" if host == platform.node() else f"ANOTHER MACHINE, {host} ({processor})"
        for host, processor in hosts
    )
    return f" [{when}; {where}]"


def by_reference(lab: str, claim: Claim) -> str:
    """Which of the claim's functions were not the student's own."""
    done: Mapping[str, Any] = attempts.read_attempts(lab)
    theirs = [name for name in claim.exercises if done.get(name, {}).get("uses") != "own"]
    return f" (with the reference: {', '.join(theirs)})" if theirs else ""
