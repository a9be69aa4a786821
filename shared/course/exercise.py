"""One exercise: a function that a student writes, and a test that recognises common mistakes.

    def half(f):                                      # the test of an exercise: it calls the student's function
        expect(f, (6,), 3, {"That is the double, not the half.": 12})

A test calls the function on inputs that it makes up, never on a notebook's variables, and raises `Wrong` with the hint
for the mistake that it recognises. Each judgement has a time limit, so a function that doesn't end is reported too.
"""

import contextlib
import copy
import functools
import io
import math
import numbers
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT_S = 5.0  # of one judgement; a right answer passes its test within milliseconds
PROGRAM_LIMIT_S = 60.0  # of one that starts another program (node), which has a limit of its own
NEAR = 1e-6  # relative: allows for another order of operations, not for another formula

Function = Callable[..., Any]


class Wrong(Exception):
    """The answer is wrong. Its text is the hint for the student."""


class TooSlow(BaseException):
    """The function did not return in time. No Exception, so that a student's `except Exception` can't catch it."""


@dataclass(frozen=True)
class Exercise:
    """A function for the student to write, with its hints and its test."""

    function: str  # its name
    cell: str  # the notebook's cell that defines it, `ex-…`; for a function in a file the cell above its check
    difficulty: int  # 1 to 3
    importance: int  # 1 to 3
    minutes: int
    why: str  # one sentence shown for a right answer: why it matters
    hints: tuple[str, ...]  # shown one by one on request, from a nudge to almost the answer
    test: Callable[[Function], None]  # raises Wrong
    file: str = ""  # of starter code, such as gateway/relay.py, if it has the function and not the notebook
    within: str = ""  # the class whose method it is

    @property
    def place(self) -> str:
        """Where the student writes it."""
        return f"the file `{self.file}`" if self.file else f"the cell `{self.cell}`"

    def header(self) -> str:
        """The line above the exercise in the notebook."""
        return f"difficulty {dots(self.difficulty)} · importance {dots(self.importance)} · {self.minutes} minutes"


@dataclass(frozen=True)
class Judgement:
    """The outcome (not attempted, incorrect or correct), and a sentence for the student."""

    outcome: str
    text: str


def dots(count: int) -> str:
    return "●" * count + "○" * (3 - count)


def judge(exercise: Exercise, function: object) -> Judgement:
    """Test the student's function. Whatever it raises becomes part of the judgement, except KeyboardInterrupt."""
    if not callable(function):
        return Judgement("not attempted", f"{exercise.function} is not a function. Run {exercise.place} again.")
    limit_s = PROGRAM_LIMIT_S if exercise.file.endswith(".js") else LIMIT_S
    try:
        with time_limit(limit_s), contextlib.redirect_stdout(io.StringIO()), single_errors():
            exercise.test(function)
    except NotImplementedError as e:
        still_open = traceback.extract_tb(e.__traceback__)[-1].name
        if still_open != exercise.function:
            return Judgement("incorrect", f"{exercise.function} calls {still_open}, which is not written yet.")
        return not_attempted(exercise)
    except Wrong as hint:
        return Judgement("incorrect", str(hint))
    except TooSlow:
        return Judgement("incorrect", f"{exercise.function} did not return within {limit_s:g} s. Does every loop end?")
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # a student's function may raise anything, SystemExit included
        return Judgement("incorrect", raised(exercise, e))
    return Judgement("correct", exercise.why)


@contextlib.contextmanager
def single_errors() -> Iterator[None]:
    """Raise one error of a group, which is what an asyncio.TaskGroup raises: a hint if there is one, else the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        one: BaseException = group.subgroup(Wrong) or group
        while isinstance(one, BaseExceptionGroup):
            one = one.exceptions[0]
        raise one from None


def not_attempted(exercise: Exercise) -> Judgement:
    then = "Save the file" if exercise.file else "Run that cell"
    return Judgement(
        "not attempted",
        f"Write the body of {exercise.function} in place of the TODO in {exercise.place}. "
        f"{then}, then run this one again.",
    )


def raised(exercise: Exercise, e: BaseException) -> str:
    """The error of a student's function in one sentence, with the line that raised it."""
    inside = [f for f in traceback.extract_tb(e.__traceback__) if f.name == exercise.function]
    line = f", in the line `{inside[-1].line}`" if inside and inside[-1].line else ""
    return f"{exercise.function} raised {type(e).__name__}: {e}{line}."


def expect(
    function: Function, arguments: tuple[Any, ...], right: Any, mistakes: Mapping[str, Any] | None = None
) -> None:
    """Call the function; raise Wrong unless it returns `right`.

    `mistakes` maps each hint to the value that its mistake would return. A mistake that returns the right value for
    these arguments is skipped. Numbers are compared within a relative 1e-6, sequences element by element.
    """
    got = function(*copy.deepcopy(arguments))
    if same(got, right):
        return
    for hint, value in (mistakes or {}).items():
        if same(got, value):
            raise Wrong(hint)
    if got is None:
        raise Wrong(f"{call(function, arguments)} returned nothing. Is `return` missing?")
    wanted, yours, rounded = short(right), short(got), ""
    if wanted == yours and isinstance(got, float):
        wanted, yours, rounded = str(float(right)), str(float(got)), " Is it rounded? Return all digits."
    raise Wrong(f"{call(function, arguments)} should return {wanted}; yours returned {yours}.{rounded}")


def expect_each(
    function: Function, inputs: Sequence[tuple[Any, ...]], right: Function, mistakes: Mapping[str, Function]
) -> None:
    """Like `expect`, for mistakes that one input can't tell apart: a mistake must match on all inputs.

    `right` and the mistakes are functions of the same arguments.
    """
    got = [function(*copy.deepcopy(arguments)) for arguments in inputs]
    for hint, mistake in mistakes.items():
        if all(same(one, mistake(*arguments)) for one, arguments in zip(got, inputs, strict=True)):
            raise Wrong(hint)
    for arguments in inputs:
        expect(function, arguments, right(*arguments))


def whole_numbers(function: Function) -> Function:
    """The function, made to raise Wrong where it returns a float such as 3.0.

    `same` takes 3.0 for 3, but code that counts with it fails: range(3.0) is an error.
    """

    @functools.wraps(function)
    def checked(*arguments: Any) -> Any:
        got = function(*arguments)
        if isinstance(got, numbers.Real) and not isinstance(got, numbers.Integral) and float(got).is_integer():
            raise Wrong(f"{call(function, arguments)} returned {float(got)}. Return a whole number (int).")
        return got

    return checked


def same(got: Any, right: Any) -> bool:
    """Whether two answers are equal. None, truth values and texts must be identical, numbers close."""
    if right is None or isinstance(right, bool | str) or got is None or isinstance(got, str):
        return type(got) is type(right) and bool(got == right)
    if isinstance(right, list | tuple):
        try:
            return len(got) == len(right) and all(same(g, r) for g, r in zip(got, right, strict=True))
        except TypeError:
            return False
    try:
        return not isinstance(got, bool) and math.isclose(float(got), float(right), rel_tol=NEAR)
    except (TypeError, ValueError, OverflowError):
        return False


def call(function: Function, arguments: tuple[Any, ...]) -> str:
    """The call as Python writes it, with long arguments cut: `half(6)`."""
    return f"{getattr(function, '__name__', 'it')}({', '.join(short(one) for one in arguments)})"


def short(value: Any) -> str:
    """A value as it is shown in a sentence: at most 160 characters."""
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 160 else text[:157] + "…"


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow inside the block when it takes longer. No limit outside the main thread: signals don't reach it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again every 0.5 s, in case the function catches one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
