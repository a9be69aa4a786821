"""What a notebook says to a student about an exercise.

    check = checks.of("3.3.1")
    check(ceiling_tok_s)            # not attempted, incorrect with the hint for this mistake, or correct
    check.hint(ceiling_tok_s)       # one more hint, as often as you like
    check.reveal(ceiling_tok_s)     # the solution; noted
    check.use(ceiling_tok_s)        # yours once it passes its check, until then the solution's

`use` is why a lab always runs to its end with real numbers, however many exercises are open.
"""

import functools
import html
import json
import linecache
import re
from dataclasses import dataclass
from typing import Any

from shared import paths
from shared.course import attempts, registry
from shared.course.exercise import Exercise, Function, judge
from shared.course.registry import Lab
from shared.errors import LabError

SIGNS = {"correct": "✔", "incorrect": "✘", "not attempted": "○", "hint": "→", "solution": "→"}
COLOURS = {"correct": "#1a7f37", "incorrect": "#cf222e"}
MARKER = re.compile(r"^\s*# (BEGIN|END) SOLUTION.*\n?", re.M)


@dataclass(frozen=True, repr=False)
class Feedback:
    """What a check says: a sign and a word, then a sentence."""

    outcome: str
    text: str

    def __repr__(self) -> str:
        return f"{SIGNS[self.outcome]} {self.outcome}: {self.text}"

    def _repr_html_(self) -> str:
        colour = COLOURS.get(self.outcome, "#0969da")
        body = html.escape(self.text)
        if self.outcome == "solution":
            body = f"<pre>{body}</pre>"
        return (
            f'<div style="border-left: 4px solid {colour}; padding: .2em .8em"><b>{SIGNS[self.outcome]} '
            f"{self.outcome.capitalize()}.</b> {body}</div>"
        )


@dataclass(frozen=True)
class Checker:
    """The checks of one lab. Every method takes the student's function, or its name."""

    lab: Lab

    def __call__(self, function: Function | str) -> Feedback:
        exercise = self._exercise(function)
        found = judge(exercise, function)
        tried = found.outcome != "not attempted"
        attempts.add_attempt(self.lab.number, exercise.function, attempts=int(tried), outcome=found.outcome)
        return Feedback(found.outcome, found.text)

    def use(self, function: Function) -> Function:
        """The student's function if it passes its check now, else the solution's, with a line that says so."""
        exercise = self._exercise(function)
        found = judge(exercise, function)
        if found.outcome == "correct":
            attempts.add_attempt(self.lab.number, exercise.function, uses="own", outcome="correct")
            return function
        attempts.add_attempt(self.lab.number, exercise.function, uses="reference", outcome=found.outcome)
        why = "not written yet" if found.outcome == "not attempted" else found.outcome
        name = exercise.function
        print(f"Using the reference solution of {name}, because yours is {why}. Yours is used once it passes.")
        return reference(self.lab, exercise)

    def hint(self, function: Function | str) -> Feedback:
        """The next hint; after the last one the last again."""
        exercise = self._exercise(function)
        given = attempts.read_attempts(self.lab.number).get(exercise.function, attempts.FRESH)["hints"]
        number = min(given + 1, len(exercise.hints))
        attempts.add_attempt(self.lab.number, exercise.function, hints=1)
        rest = "" if number < len(exercise.hints) else f" (The last one. check.reveal({exercise.function}) shows more.)"
        return Feedback("hint", f"{number} of {len(exercise.hints)}: {exercise.hints[number - 1]}{rest}")

    def reveal(self, function: Function | str) -> Feedback:
        """The solution. That it was shown is noted."""
        exercise = self._exercise(function)
        text = solution(self.lab, exercise)
        attempts.add_attempt(self.lab.number, exercise.function, revealed=True)
        return Feedback("solution", MARKER.sub("", text))

    def _exercise(self, function: object) -> Exercise:
        name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        for exercise in self.lab.exercises:
            if exercise.function == name:
                return exercise
        there = ", ".join(e.function for e in self.lab.exercises)
        raise LabError(f"Lab {self.lab.number} has no exercise {name!r}.", f"hand over one of these functions: {there}")


def of(number: str) -> Checker:
    return Checker(registry.find_lab(number))


@functools.cache
def solution(lab: Lab, exercise: Exercise) -> str:
    """The exercise's cell as the solution notebook has it."""
    for cell in notebook(lab)["cells"]:
        if cell["id"] == exercise.cell:
            return str(cell["source"])
    raise LabError(f"{paths.show(lab.solution)} has no cell `{exercise.cell}`.", "git checkout solutions")


def reference(lab: Lab, exercise: Exercise) -> Function:
    """The solution's function: its cell, run by itself."""
    names: dict[str, Any] = {}
    source, file = solution(lab, exercise), f"<solution {exercise.cell}>"
    exec(compile(source, file, "exec"), names)
    linecache.cache[file] = len(source), None, source.splitlines(True), file  # so that its source can be read
    function: Function = names[exercise.function]
    return function


@functools.cache
def notebook(lab: Lab) -> Any:
    """The solution as its JSON, each cell's source as one text. Raises LabError if it is missing or no notebook."""
    try:  # (nbformat would take more than a second to load)
        found = json.loads(lab.solution.read_bytes())
        for cell in found["cells"]:
            cell["source"] = "".join(cell["source"])
        return found
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise LabError(f"{paths.show(lab.solution)} can't be read ({e}).", "git checkout solutions") from None
