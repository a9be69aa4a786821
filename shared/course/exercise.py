"""One exercise: a function that a student writes, and a test that knows the mistakes people make.

    def half(f):                                      # the test of an exercise: it calls the student's function
        expect(f, (6,), 3, {12: "halving is not doubling"})

A test calls the function on inputs of its own making, never looks at a notebook's variables, and raises `Wrong` with
the hint that is meant for this very mistake. It never sees a function hang: each judgement has a time limit.
"""

import contextlib
import copy
import io
import math
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIMIT_S = 5.0  # of one judgement: every test is done in milliseconds with a right answer
NEAR = 1e-6  # relative: another order of operations, not another formula

Function = Callable[..., Any]


class Wrong(Exception):
    """The answer is wrong, and this is the hint for it."""


class TooSlow(BaseException):
    """The function did not return in time. (No Exception, so that a student's `except Exception` can't catch it.)"""


@dataclass(frozen=True)
class Exercise:
    """What a student is asked for, and how it is judged."""

    function: str  # its name; the cell `ex-…` of the notebook defines it
    cell: str
    difficulty: int  # 1 to 3
    importance: int  # 1 to 3
    minutes: int
    why: str  # one sentence for a right answer: why it matters
    hints: tuple[str, ...]  # for who asks, from a nudge to almost the answer
    test: Callable[[Function], None]  # raises Wrong

    def header(self) -> str:
        """As it stands above the exercise in the notebook."""
        return f"difficulty {dots(self.difficulty)} · importance {dots(self.importance)} · {self.minutes} minutes"


@dataclass(frozen=True)
class Judgement:
    """not attempted, incorrect, or correct; and what to tell the student."""

    outcome: str
    text: str


def dots(count: int) -> str:
    return "●" * count + "○" * (3 - count)


def judge(exercise: Exercise, function: object) -> Judgement:
    """Test the student's function. Never raises for what the function does (but for Ctrl-C)."""
    if not callable(function):
        return Judgement("not attempted", f"{exercise.function} is no function: run the cell `{exercise.cell}` again.")
    try:
        with time_limit(LIMIT_S), contextlib.redirect_stdout(io.StringIO()):
            exercise.test(function)
    except NotImplementedError as e:
        still_open = traceback.extract_tb(e.__traceback__)[-1].name
        if still_open != exercise.function:
            return Judgement("incorrect", f"{exercise.function} calls {still_open}, which is still to be written.")
        return Judgement(
            "not attempted",
            f"Write the body of {exercise.function} in the cell `{exercise.cell}`, "
            "where it says TODO, run it, then run this cell again.",
        )
    except Wrong as hint:
        return Judgement("incorrect", str(hint))
    except TooSlow:
        return Judgement("incorrect", f"{exercise.function} had not returned after {LIMIT_S:.0f} s: does a loop end?")
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # a student's function may raise anything, SystemExit included
        return Judgement("incorrect", raised(exercise, e))
    return Judgement("correct", exercise.why)


def raised(exercise: Exercise, e: BaseException) -> str:
    """The error of a student's function in one sentence, with the line that raised it."""
    inside = [f for f in traceback.extract_tb(e.__traceback__) if f.name == exercise.function]
    line = f" in `{inside[-1].line}`" if inside and inside[-1].line else ""
    return f"{exercise.function} raised {type(e).__name__}: {e}{line}."


def expect(
    function: Function, arguments: tuple[Any, ...], right: Any, mistakes: Mapping[str, Any] | None = None
) -> None:
    """Call the function; raise Wrong unless it returns `right`.

    `mistakes` maps a hint to what its mistake would return; a mistake that returns the right value here is skipped.
    Numbers agree within a relative 1e-6, sequences element by element.
    """
    got = function(*copy.deepcopy(arguments))
    if same(got, right):
        return
    for hint, value in (mistakes or {}).items():
        if same(got, value):
            raise Wrong(hint)
    if got is None:
        raise Wrong(f"{call(function, arguments)} returned nothing: is `return` missing?")
    raise Wrong(f"{call(function, arguments)} is {short(right)}; yours gave {short(got)}.")


def expect_each(
    function: Function, inputs: Sequence[tuple[Any, ...]], right: Function, mistakes: Mapping[str, Function]
) -> None:
    """As `expect`, for mistakes that look alike on one input: a mistake is recognised by what it makes of all.

    `right` and the mistakes are functions of the same arguments.
    """
    got = [function(*copy.deepcopy(arguments)) for arguments in inputs]
    for hint, mistake in mistakes.items():
        if all(same(one, mistake(*arguments)) for one, arguments in zip(got, inputs, strict=True)):
            raise Wrong(hint)
    for arguments in inputs:
        expect(function, arguments, right(*arguments))


def same(got: Any, right: Any) -> bool:
    """Equal as an answer: None and truth values are themselves, numbers need be near."""
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
    return f"{getattr(function, '__name__', 'it')}({', '.join(short(one) for one in arguments)})"


def short(value: Any) -> str:
    """A value as a sentence can carry it."""
    text = f"{value:.6g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 160 else text[:157] + "…"


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TooSlow inside the block when it takes longer; Python's signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)  # again and again, should the function swallow one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
