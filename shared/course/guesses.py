"""A student's predictions: recorded before a measurement, and shown beside its result.

    my_guess = lab.guess(growth=8)                          # in the student's notebook: growth=...
    show(lab.guess_beside_result("load/", growth=7.6))

Each guess is a result in the ledger: its key is `guess/growth`, its kind "guessed". It keeps the time at which its
number was first recorded, so a guess made after the measurement is recognised and marked.
"""

from collections.abc import Mapping

from shared.errors import LabError
from shared.metrics.spread import number
from shared.report.table import Table
from shared.results import ledger

GUESSED = "guessed"
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
        elif isinstance(guess, bool) or not isinstance(guess, int | float):
            raise LabError(
                f"The guess {name} is {guess!r}, which is not a number.", f"give a number: lab.guess({name}=8)"
            )
        else:
            given[name] = guess
            before = there.get(key_of(name))
            if before is None or before["values"]["guess"] != guess:
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
    times = [e["provenance"]["time"] for key, e in ledger.load_results(lab).items() if key.startswith(measured_under)]
    rows = []
    for name, result in results.items():
        text, entry = OPEN, guesses.get(key_of(name))
        if entry:
            late = bool(times) and entry["provenance"]["time"] > min(times)
            text = number(entry["values"]["guess"]) + (" (typed after the measurement)" if late else "")
        rows.append((words(name), text, number(result) if isinstance(result, int | float) else str(result)))
    return Table("Your guess beside the result", ("", "your guess", "result"), rows)


def key_of(name: str) -> str:
    return f"guess/{name}"


def words(name: str) -> str:
    return name.replace("_", " ")
