"""Which results count as evidence, and how a claim is tested on them.

    evidence = Evidence("3.3.1")
    evidence.of("load/")        # the believed entries under this prefix
    evidence.refused            # the other entries' keys, each with the reason

An entry is believed if it was measured, names its machine and code, equals the copy beside its raw data, follows from
that raw data when it is computed again, and was made by the lab's present code. Evidence from another machine counts
and is marked.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shared.course import attempts
from shared.errors import LabError
from shared.metrics.summary import summarise
from shared.results import ledger, provenance
from shared.results.participants import missing
from shared.results.reading import Entry

# What reading raises for an entry that is valid JSON, but has another form than the labs write.
NONSENSE = (LabError, TypeError, LookupError, ValueError, ArithmeticError, AttributeError)
NAMED = ("time", "host", "processor", "code_sha256")  # `results.record` writes these into every entry
HOLDS, FAILS, NOT_RUN = "holds", "does not hold", "not run here"
SIGNS = {HOLDS: "✔", FAILS: "✘", NOT_RUN: "○"}


class NotRunHere(Exception):
    """Raised by a claim's test: this machine could not run what the claim needs. Its text is the reason."""


@dataclass
class Evidence:
    """The believed entries of one lab's ledger. Records which of them a claim has read."""

    lab: str
    any_code: bool = False  # believe results of other code: an instructor's checkout may be newer than the student's
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
        """The believed results whose key starts with `prefix`, by key. A reason in place of a result is left out."""
        reasons = missing(self.entries, prefix)
        found = {key: e for key, e in self.entries.items() if key.startswith(prefix) and key not in reasons}
        self.seen += found.values()
        return found

    def raw(self, key: str) -> Any:
        """The raw data of one entry."""
        return ledger.load_raw(self.lab, key)

    def judged(self, holds: bool, text: str) -> tuple[bool, str]:
        """The outcome of a claim that compares speeds.

        Only results of the full size decide it. Loads of the quick size are too short for that on a busy machine:
        the claim then holds as soon as they are recorded, and its evidence begins with "not judged at the quick size".
        """
        if any(entry["provenance"].get("size") != "full" for entry in self.seen):
            return True, f"not judged at the quick size: {text}"
        return holds, text

    def raise_if_not_run(self, *prefixes: str) -> None:
        """Raise NotRunHere if the ledger holds the reason why a result under a prefix could not be measured.

        `lab.start_engines` records such reasons under "engine/vllm" and the like, `lab.attempt` under the key that it
        is given. A claim's test calls this where its results are missing. (For the prefixes in the claim's `needs`,
        it happens without a call where the test returns no evidence.)

            if not (loads := evidence.of("load/users-16/vllm/")):
                evidence.raise_if_not_run("engine/vllm")
                return False, ""
        """
        for prefix in prefixes:
            for key, reason in missing(self.entries, prefix).items():
                self.seen.append(self.entries[key])
                raise NotRunHere(reason.rstrip("."))


Test = Callable[[Evidence], tuple[bool, str]]  # whether the claim holds, and its evidence or what is missing


@dataclass(frozen=True)
class Claim:
    """One sentence that a student can support with evidence after the lab.

    `test` returns (True, the evidence), or (False, what is missing or contradicts the claim). Where nothing is recorded
    it may return (False, ""): the cells in `needs` are then named, or the reason why the machine could not run them.
    It may raise NotRunHere itself, too.
    """

    text: str
    test: Test
    # Prefixes of the results it rests on: if one of those is refused, so is the claim. Each may name the cell that
    # measures it: {"load/": "run-load"}.
    needs: tuple[str, ...] | Mapping[str, str] = ()
    exercises: tuple[str, ...] = ()  # the student's functions that computed its numbers

    def cell_of(self, key: str) -> str:
        """The cell that measures this result, by the longest prefix in `needs`; "" if `needs` names no cells."""
        if not isinstance(self.needs, Mapping):
            return ""
        return self.needs[max((prefix for prefix in self.needs if key.startswith(prefix)), key=len)]


@dataclass(frozen=True)
class ClaimResult:
    """A tested claim."""

    text: str
    outcome: str  # HOLDS, FAILS or NOT_RUN
    evidence: str

    @property
    def ok(self) -> bool:
        return self.outcome == HOLDS

    @property
    def not_run(self) -> bool:
        return self.outcome == NOT_RUN

    @property
    def sign(self) -> str:
        return SIGNS[self.outcome]


def test_claim(claim: Claim, evidence: Evidence) -> ClaimResult:
    """Test one claim. It fails without being tested if a result that it rests on is refused."""
    if reason := refusal(claim, evidence):
        return ClaimResult(claim.text, FAILS, reason)
    evidence.seen.clear()
    try:
        ok, found = claim.test(evidence)
        if not ok and not found:
            evidence.raise_if_not_run(*claim.needs)
    except NotRunHere as e:
        return ClaimResult(claim.text, NOT_RUN, f"not run here: {e}{origin(evidence.seen)}")
    except NONSENSE as e:
        what = f"refused: a result has an unexpected format ({error_line(e)})"
        return ClaimResult(claim.text, FAILS, f"{what}: {cells_to_run(claim)} again")
    if ok:
        return ClaimResult(claim.text, HOLDS, found + origin(evidence.seen) + by_reference(evidence.lab, claim))
    return ClaimResult(claim.text, FAILS, found or nothing_recorded(claim))


def refusal(claim: Claim, evidence: Evidence) -> str:
    """Why a result that the claim rests on is refused, and how many others are; "" if none is."""
    bad = sorted(key for key in evidence.refused if key.startswith(tuple(claim.needs)))
    if not bad:
        return ""
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    cell = claim.cell_of(bad[0])
    run = f"run the cell `{cell}` again" if cell else "run its cell again"
    return f"refused: {bad[0]}: {evidence.refused[bad[0]]}{more}: {run}"


def nothing_recorded(claim: Claim) -> str:
    """For a claim whose test found nothing and gave no reason."""
    return f"nothing recorded: {cells_to_run(claim)}"


def cells_to_run(claim: Claim) -> str:
    """Which cells to run for the results that the claim rests on, as an action."""
    if not isinstance(claim.needs, Mapping) or not claim.needs:
        return "run the lab's cells"
    *others, last = dict.fromkeys(f"`{cell}`" for cell in claim.needs.values())
    return "run the cell" + (f"s {', '.join(others)} and" if others else "") + f" {last}"


def measure_again(key: str, cell: str) -> str:
    """How to replace one recorded result: without `set_aside`, its cell would use it again."""
    return f'run lab.set_aside("{key}"), then the cell `{cell}` again'


def count(results: Sequence[ClaimResult], unit: str = "") -> str:
    """How many claims hold: "7 of 8 hold, 1 not run here", with the unit after the 8."""
    held, not_run = sum(one.ok for one in results), sum(one.not_run for one in results)
    return f"{held} of {len(results)}{unit} hold" + (f", {not_run} not run here" if not_run else "")


def error_line(e: Exception) -> str:
    """The first line of an error's text, with its type unless it is a LabError."""
    return (str(e) if isinstance(e, LabError) else f"{type(e).__name__}: {e}").splitlines()[0]


def doubt(lab: str, entry: Entry, any_code: bool = False) -> str:
    """Why an entry isn't believed; "" if it is."""
    source = entry["provenance"]
    lacking = [name for name in NAMED if not isinstance(source.get(name), str)]
    if lacking:
        return f"it lacks {', '.join(lacking)}, which every measured result has"
    beside = ledger.stored_copy(lab, entry["key"])
    if beside is None:
        return "its raw data is missing or damaged"
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
    """When and on which machine these entries were measured, for the end of a sentence."""
    if not entries:
        return ""
    times = sorted(e["provenance"]["time"][:16].replace("T", " ") for e in entries)
    day, first, last = times[0][:11], times[0], times[-1]
    when = first if first == last else f"{first} to {last.removeprefix(day)}"
    hosts = sorted({(e["provenance"]["host"], e["provenance"]["processor"]) for e in entries})
    where = "; ".join(
        "this machine" if host == platform.node() else f"ANOTHER MACHINE, {host} ({processor})"
        for host, processor in hosts
    )
    return f" [{when}; {where}]"


def by_reference(lab: str, claim: Claim) -> str:
    """Names the claim's functions for which the reference solution was used; "" if all were the student's own."""
    done: Mapping[str, Any] = attempts.read_attempts(lab)
    theirs = [name for name in claim.exercises if done.get(name, {}).get("uses") != "own"]
    return f" (using the reference solution of {', '.join(theirs)})" if theirs else ""
