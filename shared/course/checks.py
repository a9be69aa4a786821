"""The checks of a lab's exercises, as a notebook uses them.

    check = checks.of("3.3.1")
    check(pass_floor_ms)            # not attempted, incorrect with the hint for this mistake, or correct
    check.hint(pass_floor_ms)       # the next hint
    check.reveal(pass_floor_ms)     # the solution; recorded
    check.use(pass_floor_ms)        # your function if it passes its check, else the reference solution

Because of `use`, a lab always runs to its end with real numbers, however many exercises are open.

A function in a file of starter code is given by its name, as in check("pass_on"): it is read from the file each time.
"""

import functools
import html
import json
import linecache
import re
from dataclasses import dataclass
from typing import Any

from shared import paths
from shared.course import attempts, registry, starter
from shared.course.exercise import Exercise, Function, Judgement, judge
from shared.course.registry import Lab
from shared.errors import LabError

SIGNS = {"correct": "✔", "incorrect": "✘", "not attempted": "○", "hint": "→", "solution": "→"}
COLOURS = {"correct": "#1a7f37", "incorrect": "#cf222e"}
MARKER = re.compile(r"^\s*(?:#|//) (BEGIN|END) SOLUTION.*\n?", re.M)


@dataclass(frozen=True, repr=False)
class Feedback:
    """What a check shows: a sign and a word, then a sentence."""

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
        found = self._judge(exercise, function)
        tried = found.outcome != "not attempted"
        attempts.add_attempt(self.lab.number, exercise.function, attempts=int(tried), outcome=found.outcome)
        return Feedback(found.outcome, found.text)

    def use(self, function: Function) -> Function:
        """The student's function if it passes its check. Else print the reason and return the reference solution."""
        exercise = self._exercise(function)
        found = judge(exercise, function)
        self._use(exercise, found)
        return function if found.outcome == "correct" else reference(self.lab, exercise)

    def hint(self, function: Function | str) -> Feedback:
        """The next hint. After the last one, the last one again."""
        exercise = self._exercise(function)
        given = attempts.read_attempts(self.lab.number).get(exercise.function, attempts.FRESH)["hints"]
        number = min(given + 1, len(exercise.hints))
        attempts.add_attempt(self.lab.number, exercise.function, hints=1)
        name = f'"{exercise.function}"' if exercise.file else exercise.function
        last = number == len(exercise.hints)
        rest = f" (This is the last hint. check.reveal({name}) shows the solution.)" if last else ""
        return Feedback("hint", f"{number} of {len(exercise.hints)}: {exercise.hints[number - 1]}{rest}")

    def reveal(self, function: Function | str) -> Feedback:
        """The solution. It is recorded that it was shown."""
        exercise = self._exercise(function)
        text = starter.reference_source(self.lab, exercise) if exercise.file else solution(self.lab, exercise)
        attempts.add_attempt(self.lab.number, exercise.function, revealed=True)
        return Feedback("solution", MARKER.sub("", text))

    def use_own(self) -> set[str]:
        """The names of the functions in files that pass their checks.

        For each other one, print that the reference solution is used. What is used is recorded.
        """
        own = set()
        for exercise in self.lab.exercises:
            if exercise.file:
                found = starter.judge_own(self.lab, exercise)
                self._use(exercise, found)
                if found.outcome == "correct":
                    own.add(exercise.function)
        return own

    def _judge(self, exercise: Exercise, function: Function | str) -> Judgement:
        return starter.judge_own(self.lab, exercise) if exercise.file else judge(exercise, function)

    def _use(self, exercise: Exercise, found: Judgement) -> None:
        """Record whether the student's function is used, and print the reason if it is not."""
        own, name = found.outcome == "correct", exercise.function
        attempts.add_attempt(self.lab.number, name, uses="own" if own else "reference", outcome=found.outcome)
        if not own:
            why = "not written yet" if found.outcome == "not attempted" else found.outcome
            print(f"Using the reference solution of {name}, because yours is {why}. Yours is used once it passes.")

    def _exercise(self, function: object) -> Exercise:
        name = function if isinstance(function, str) else getattr(function, "__name__", repr(function))
        for exercise in self.lab.exercises:
            if exercise.function == name:
                return exercise
        there = ", ".join(e.function for e in self.lab.exercises)
        raise LabError(f"Lab {self.lab.number} has no exercise {name!r}.", f"give one of these functions: {there}")


def of(number: str) -> Checker:
    """The checks of the lab with this number. Raises LabError if there is none."""
    return Checker(registry.find_lab(number))


@functools.cache
def solution(lab: Lab, exercise: Exercise) -> str:
    """The source of the exercise's cell in the solution notebook. Raises LabError if it has no such cell."""
    for cell in notebook(lab)["cells"]:
        if cell["id"] == exercise.cell:
            return str(cell["source"])
    raise LabError(f"{paths.show(lab.solution)} has no cell `{exercise.cell}`.", "git checkout solutions")


def reference(lab: Lab, exercise: Exercise) -> Function:
    """The solution's function, made by running its cell alone, or loaded from its file."""
    if exercise.file:
        return starter.reference(lab, exercise)
    names: dict[str, Any] = {}
    source, file = solution(lab, exercise), f"<solution {exercise.cell}>"
    exec(compile(source, file, "exec"), names)
    linecache.cache[file] = len(source), None, source.splitlines(True), file  # so that inspect can read its source
    function: Function = names[exercise.function]
    return function


@functools.cache
def notebook(lab: Lab) -> Any:
    """The solution notebook as JSON, each cell's source as one text. Raises LabError if it can't be read."""
    try:  # importing nbformat would take more than a second
        found = json.loads(lab.solution.read_bytes())
        for cell in found["cells"]:
            cell["source"] = "".join(cell["source"])
        return found
    except (OSError, ValueError, LookupError, TypeError) as e:
        raise LabError(f"{paths.show(lab.solution)} can't be read ({e}).", "git checkout solutions") from None
