"""Each exercise catches the mistakes that people make with the hint for it, and passes what is right in other words."""

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from shared.course import checks, exercise, registry
from shared.course.benchmark.exercises import figures
from shared.course.exercise import Exercise, expect, judge
from tests.wrong_answers import (
    batching_capacity,
    benchmark_arithmetic,
    benchmark_figures,
    benchmark_load_generator,
    benchmark_traps,
    chat_ui,
    continuous_batching,
    open_webui,
    production_gateway,
    speculative_decoding,
    tensorrt_prefill,
)

LABS = {
    "3.3.1": (benchmark_load_generator, benchmark_figures, benchmark_arithmetic, benchmark_traps),
    "3.3.2": (continuous_batching, batching_capacity),
    "3.3.3": (tensorrt_prefill,),
    "3.3.4": (speculative_decoding,),
    "3.3.5": (production_gateway,),
    "3.3.6": (chat_ui, open_webui),
}
ANSWERS = {
    lab: {name: wrong for module in modules for name, wrong in module.ANSWERS.items()} for lab, modules in LABS.items()
}
RIGHT = {lab: {name: f for module in modules for name, f in module.RIGHT.items()} for lab, modules in LABS.items()}
ALSO_RIGHT = [  # of some exercises, further answers that are right
    (lab, name, answer)
    for lab, modules in LABS.items()
    for module in modules
    for name, answers in getattr(module, "ALSO_RIGHT", {}).items()
    for answer in answers
]
TRIES = 20  # a test makes up its inputs: the hint must not depend on luck

EXERCISES = [pytest.param(lab, e, id=e.function) for lab in registry.LABS.values() for e in lab.exercises]
WRONG = [
    pytest.param(e, hint, answer, id=f"{e.function}-{answer.__name__}")
    for lab in registry.LABS.values()
    for e in lab.exercises
    for hint, answer in ANSWERS[lab.number][e.function]
]


def test_every_written_lab_has_exercises_enough() -> None:
    for lab in registry.LABS.values():
        if lab.claims:
            assert len(lab.exercises) >= 4
            assert 4 <= len(lab.claims) <= 8


@pytest.mark.parametrize(("asked", "hint", "answer"), WRONG)
def test_a_wrong_answer_gets_the_hint_meant_for_it(asked: Exercise, hint: str, answer: Callable[..., Any]) -> None:
    for _ in range(TRIES):
        found = judge(asked, answer)
        assert found.outcome == "incorrect"
        assert hint in found.text


@pytest.mark.parametrize(("lab", "asked"), EXERCISES)
def test_right_answers_pass_however_they_are_written(lab: registry.Lab, asked: Exercise) -> None:
    assert len(ANSWERS[lab.number][asked.function]) >= 3
    assert len(asked.hints) >= 2
    for _ in range(TRIES):
        for answer in (checks.reference(lab, asked), RIGHT[lab.number][asked.function]):
            found = judge(asked, answer)
            assert (found.outcome, found.text) == ("correct", asked.why)


@pytest.mark.parametrize(("lab", "name", "answer"), ALSO_RIGHT)
def test_further_right_answers_pass(lab: str, name: str, answer: Callable[..., Any]) -> None:
    [asked] = [e for e in registry.find_lab(lab).exercises if e.function == name]
    for _ in range(TRIES):
        found = judge(asked, answer)
        assert (found.outcome, found.text) == ("correct", asked.why)


@pytest.mark.parametrize(("lab", "asked"), EXERCISES)
def test_the_notebook_says_what_an_exercise_costs(lab: registry.Lab, asked: Exercise) -> None:
    cells = checks.notebook(lab)["cells"]
    [place] = [i for i, cell in enumerate(cells) if cell["id"] == asked.cell]
    if asked.file:  # the function is in a file that the cell links to; starting the package takes it from there
        assert asked.header() in cells[place]["source"]
        assert f"[`{asked.file}`]({asked.file})" in cells[place]["source"]
        assert cells[place + 1]["source"] == f'check("{asked.function}")'
        after = "\n".join(c["source"] for c in cells[place + 2 :] if c["cell_type"] == "code")
        assert re.search(rf"student_{lab.starter}\.(start|running)\(lab", after), "its answer is used nowhere"
        return
    assert asked.header() in cells[place - 1]["source"]
    assert cells[place + 1]["source"] == f"check({asked.function})"
    after = "\n".join(c["source"] for c in cells[place + 2 :] if c["cell_type"] == "code")
    assert f"check.use({asked.function})" in after, "its answer is used nowhere"


@pytest.fixture
def asked() -> Exercise:
    def test(f: Any) -> None:
        expect(f, ([3, 4], "x"), 7, {"that is a product": 12})

    return Exercise("answer", "ex-answer", 1, 1, 1, "because", ("first", "second"), test)


def test_an_open_exercise_is_not_attempted(asked: Exercise) -> None:
    def answer(numbers: list[int], name: str) -> int:
        raise NotImplementedError("ex-answer: add them")

    found = judge(asked, answer)
    assert found.outcome == "not attempted"
    assert "`ex-answer`" in found.text
    assert judge(asked, 7).outcome == "not attempted"


def test_an_answer_that_calls_an_open_exercise_names_it(asked: Exercise) -> None:
    def helper() -> int:
        raise NotImplementedError

    def answer(numbers: list[int], name: str) -> int:
        return helper()

    found = judge(asked, answer)
    assert (found.outcome, found.text) == ("incorrect", "answer calls helper, which is not written yet.")


def test_a_wrong_value_is_shown_beside_the_right_one(asked: Exercise) -> None:
    def answer(numbers: list[int], name: str) -> float:
        return 6.5

    assert judge(asked, answer).text == "answer([3, 4], 'x') should return 7; yours returned 6.5."

    def silent(numbers: list[int], name: str) -> None:
        print(sum(numbers))

    assert judge(asked, silent).text == "silent([3, 4], 'x') returned nothing. Is `return` missing?"
    assert judge(asked, lambda numbers, name: 12).text == "that is a product"


def test_a_rounded_value_is_not_shown_as_the_right_one() -> None:
    with pytest.raises(exercise.Wrong, match=r"should return 10\.00014; yours returned 10\.0001\. Is it rounded"):
        expect(lambda: 10.0001, (), 10.00014)


def test_what_a_function_raises_is_told_with_its_line(asked: Exercise) -> None:
    def answer(numbers: list[int], name: str) -> int:
        return numbers[7]

    assert judge(asked, answer).text == (
        "answer raised IndexError: list index out of range, in the line `return numbers[7]`."
    )

    def leave(numbers: list[int], name: str) -> int:
        raise SystemExit(3)

    assert "SystemExit" in judge(asked, leave).text
    assert "takes 0 positional arguments" in judge(asked, lambda: 7).text


def test_an_endless_loop_is_ended_even_if_it_catches_everything(
    asked: Exercise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exercise, "LIMIT_S", 0.3)

    def endless(numbers: list[int], name: str) -> int:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    began = time.monotonic()
    assert "answer did not return within 0.3 s. Does every loop end?" in judge(asked, endless).text
    assert time.monotonic() - began < 20


def test_a_coroutine_that_never_awaits_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take a core from every measurement until the notebook ends."""
    monkeypatch.setattr(exercise, "LIMIT_S", 0.3)
    [loop] = [e for e in registry.find_lab("3.3.1").exercises if e.function == "closed_loop"]

    async def busy(users: int, requests: int, send: Any) -> list[Any]:
        while True:
            pass

    async def busy_and_catching(users: int, requests: int, send: Any) -> list[Any]:
        while True:
            with contextlib.suppress(Exception):
                send(0).close()

    before = set(threading.enumerate())  # of which one may end meanwhile
    for answer in (busy, busy_and_catching):
        assert "closed_loop did not return within 0.3 s. Does every loop end?" in judge(loop, answer).text
        assert set(threading.enumerate()) <= before


def test_of_a_group_of_errors_the_hint_is_told(asked: Exercise) -> None:
    def answer(numbers: list[int], name: str) -> int:
        raise ExceptionGroup("two", [KeyError("x"), ExceptionGroup("one", [exercise.Wrong("send it once")])])

    assert judge(asked, answer).text == "send it once"

    def broken(numbers: list[int], name: str) -> int:
        raise BaseExceptionGroup("two", [SystemExit(3), KeyError("x")])

    assert judge(asked, broken).text.startswith("answer raised SystemExit: 3")


def test_a_function_that_changes_its_inputs_harms_nobody(asked: Exercise) -> None:
    def answer(numbers: list[int], name: str) -> int:
        total = 0
        while numbers:
            total += numbers.pop()
        return total

    for _ in range(2):
        assert judge(asked, answer).outcome == "correct"


@pytest.mark.parametrize(
    ("got", "right", "same"),
    [
        (7.0000001, 7, True),
        (7.1, 7, False),
        (None, 7, False),
        (None, None, True),
        (0, None, False),
        ("7", 7, False),
        (True, 1, False),
        ((1, 2.0), [1, 2], True),
        ([1], [1, 2], False),
        (3, [3], False),
        (float("nan"), 7, False),
        ("a", "a", True),
        (object(), 7, False),
        (10**400, 7.0, False),
    ],
)
def test_what_counts_as_the_same_answer(got: object, right: object, same: bool) -> None:
    assert exercise.same(got, right) is same


def test_no_two_requests_of_an_exercise_begin_or_end_at_one_moment() -> None:
    """A mistake that takes the time from one's beginning to another's end would divide by zero."""
    for seed in range(500):
        traces = figures.load(random.Random(seed), 7)
        assert len({moment for t in traces for moment in (t.sent_ns, t.end_ns)}) == 2 * len(traces), seed


def test_the_loads_of_an_exercise_tell_its_mistakes_apart() -> None:
    """The mean of the requests' speeds is never all tokens over all durations: each mistake has its own hint."""
    for seed in range(3000):
        traces = figures.load(random.Random(seed), 1)
        took_s = [(t.end_ns - t.sent_ns) / 1e9 for t in traces]
        tokens = [t.output_tokens or 0 for t in traces]
        speeds = [n / s for n, s in zip(tokens, took_s, strict=True)]
        assert sum(speeds) / 3 != pytest.approx(sum(tokens) / sum(took_s), rel=1e-6), seed
