"""What a student writes into a lab: predictions before a measurement, and a conclusion at the end.

    my_guess = lab.guess(growth=8)                          # in the student's notebook: growth=...
    show(lab.guess_beside_result("load/", growth=7.6))
    lab.conclude("llama.cpp, because ...", "load/users-16/llamacpp", "precision/")

Each guess is a result in the ledger: its key is `guess/growth`, its kind "guessed". It keeps the time at which its
number was first recorded, so a guess made after the measurement is recognised and marked.

The conclusion is a result, too: its key is `conclusion`, its kind "written". No program judges the words. What is
checked is that the results exist on which it rests. The milestone shows it.
"""

import difflib
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import TypeGuard

from shared.errors import LabError
from shared.metrics.spread import number
from shared.report.table import Table
from shared.results import ledger
from shared.results.reading import Entry

GUESSED, WRITTEN = "guessed", "written"
CONCLUSION = "conclusion"
OPEN = "no guess"


def record_guesses(lab: str, guesses: Mapping[str, object]) -> dict[str, float]:
    """Record each number under its name, and print the names that are still open (`...`). Returns the numbers by name.

    A guess that is already recorded with the same number keeps its time. Raises LabError for anything else.
    """
    there = ledger.load_results(lab, GUESSED)
    given: dict[str, float] = {}
    still_open = []
    for name, guess in guesses.items():
        if guess is ... or guess is None:
            still_open.append(name)
        elif not is_number(guess):
            raise LabError(
                f"The guess {name} is {guess!r}, which is not a number.", f"give a number: lab.guess({name}=8)"
            )
        else:
            given[name] = guess
            before = there.get(key_of(name))
            if before is None or before["values"].get("guess") != guess:
                ledger.record(lab, key_of(name), {"guess": guess}, kind=GUESSED)
    if still_open:
        print(f"Still open: {', '.join(still_open)}. Type your number in place of each ... and run this cell again.")
    if given:
        print("Your guess is recorded: " + ", ".join(f"{words(name)} {number(guess)}" for name, guess in given.items()))
    return given


def guess_beside_result(lab: str, measured_under: str, results: Mapping[str, object]) -> Table:
    """Each result with the guess of the same name.

    `measured_under` is the prefix of the measurements that the results were computed from: a guess recorded after the
    first of them is marked. A result is a number, a Spread, or a text with its unit.
    """
    guesses = ledger.load_results(lab, GUESSED)
    there = ledger.load_results(lab).items()
    times = [at_s for key, e in there if key.startswith(measured_under) and (at_s := moment_s(e)) is not None]
    rows = []
    for name, result in results.items():
        text, entry = OPEN, guesses.get(key_of(name))
        if entry and is_number(guess := entry["values"].get("guess")):  # else it is no file of the labs
            late = bool(times) and (moment_s(entry) or 0) > min(times)
            text = number(guess) + (" (typed after the measurement)" if late else "")
        rows.append((words(name), text, number(result) if isinstance(result, int | float) else str(result)))
    return Table("Your guess beside the result", ("", "your guess", "result"), rows)


def is_number(guess: object) -> TypeGuard[float]:
    """Whether it is a number of a float's range: no NaN, which is recorded as a new guess each time."""
    return isinstance(guess, int | float) and not isinstance(guess, bool) and abs(guess) <= sys.float_info.max


def moment_s(entry: Entry) -> float | None:
    """When the entry was made, in seconds since 1970; None if its time is none.

    The texts don't compare: each autumn the clocks are set back, and a container may have another time zone.
    """
    try:
        return datetime.fromisoformat(entry["provenance"]["time"]).timestamp()
    except (ValueError, OverflowError):
        return None


def key_of(name: str) -> str:
    return f"guess/{name}"


def words(name: str) -> str:
    return name.replace("_", " ")


def conclude(lab: str, text: str, evidence: tuple[str, ...]) -> Table | None:
    """Record the conclusion, and return it as a table beside the results that it rests on; None if it is empty.

    Each of `evidence` is the beginning of a key in the ledger. Raises LabError if none is given, or if no result has
    such a key.
    """
    if not text.strip():
        print("There is no conclusion yet. Write it in the cell above, and name the results that it rests on.")
        return None
    keys = sorted(set(ledger.load_results(lab, None)) - {CONCLUSION})
    if not evidence:
        raise LabError(
            "The conclusion names no result that it rests on.",
            f"name some by their keys: lab.conclude(my_conclusion, {', '.join(map(repr, keys[:2])) or '...'})",
        )
    found = {begin: [key for key in keys if key.startswith(begin)] for begin in evidence}
    if missing := [begin for begin, those in found.items() if not those]:
        close = difflib.get_close_matches(missing[0], keys, 3, 0.3) or keys[:3]
        raise LabError(
            f"No result of lab {lab} has a key that begins with {missing[0]!r}.",
            f"name another one, such as {', '.join(close)}" if close else "measure first",
        )
    ledger.record(lab, CONCLUSION, {"text": text.strip(), "evidence": list(evidence)}, kind=WRITTEN)
    rows = [(begin, f"{len(those)} result{'s' * (len(those) > 1)}") for begin, those in found.items()]
    return Table(f"Your conclusion: {' '.join(text.split())}", ("it rests on", "in the ledger"), rows)


def conclusion(lab: str) -> str:
    """The recorded conclusion, or ""."""
    entry = ledger.load_results(lab, WRITTEN).get(CONCLUSION)
    text = entry["values"].get("text") if entry else None
    return text if isinstance(text, str) else ""
