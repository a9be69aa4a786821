"""The exercise on how many engines a group of users needs: think time, Little's law, head-room, rounding."""

import math
import random

from shared.course.exercise import Exercise, Function, expect, expect_each


def right(users: float, think_s: float, answer_s: float, at_once: float, headroom: float) -> int:
    return math.ceil(users * answer_s / (answer_s + think_s) / (at_once * (1 - headroom)))


def mistake(under_way: Function, places: Function, rounded: Function = math.ceil) -> Function:
    """The function with these parts in place of the right ones."""

    def wrong(users: float, think_s: float, answer_s: float, at_once: float, headroom: float) -> float:
        return rounded(under_way(users, think_s, answer_s) / places(at_once, headroom))  # type: ignore[no-any-return]

    return wrong


def waiting(users: float, think_s: float, answer_s: float) -> float:
    return users * answer_s / (answer_s + think_s)


def to_fill(at_once: float, headroom: float) -> float:
    return at_once * (1 - headroom)


MISTAKES = {
    "Users don't wait for an answer all the time: between two requests they think. Which share of the time does a user "
    "wait?": mistake(lambda users, think_s, answer_s: users, to_fill),
    "That counts the users who think. The engine works for those who wait for an answer.": mistake(
        lambda users, think_s, answer_s: users * think_s / (answer_s + think_s), to_fill
    ),
    "How long is it from one request of a user to the next? The answer itself takes time, too.": mistake(
        lambda users, think_s, answer_s: users * answer_s / think_s, to_fill
    ),
    "That is a rate, in requests per second, divided by places. By Little's law, how many requests are in flight is "
    "the rate × the time that each takes.": mistake(
        lambda users, think_s, answer_s: users / (answer_s + think_s), to_fill
    ),
    "Without head-room an engine that is full on average is over its limit half of the time. How many of its places "
    "may be taken on average?": mistake(waiting, lambda at_once, headroom: at_once),
    "That fills the places that should stay free. `headroom` is their share.": mistake(
        waiting, lambda at_once, headroom: at_once * headroom
    ),
    "`headroom` is a share of the engine's places, not of the requests: 20 % more requests don't leave 20 % of the "
    "places free.": mistake(waiting, lambda at_once, headroom: at_once / (1 + headroom)),
    "Rounded down, the last engine's users find no place: round up.": mistake(waiting, to_fill, math.floor),
    "Rounded to the nearest whole number, the last engine may be missing: round up.": mistake(waiting, to_fill, round),
    "Only whole engines can be started: round up.": mistake(waiting, to_fill, float),
    "A mean need not be a whole number: round once, at the end.": mistake(
        lambda *given: math.ceil(waiting(*given)), to_fill
    ),
    "An engine's places that are taken on average need not be a whole number: round once, at the end.": mistake(
        waiting, lambda *given: math.floor(to_fill(*given))
    ),
}
# Made-up inputs may not show what rounding at the wrong place or to the wrong side changes. These do, in any order.
TELLING = (
    (84, 19.0, 1.0, 2, 0.25),  # 4.2 / 1.5 = 2.8: 3 engines; 4 if 4.2 is rounded up first, 5 if 1.5 is rounded down
    (66, 19.0, 1.0, 2, 0.25),  # 3.3 / 1.5 = 2.2: 3 engines; 2 if rounded to the nearest
    (400, 12.0, 8.0, 9, 0.25),  # 160 / 6.75 = 23.7: 24 engines; 23 if a quarter is added to the requests
)


def engines(f: Function) -> None:
    source = random.Random()
    inputs = list(TELLING)
    while len(inputs) < 16:
        made = (
            source.randrange(40, 900), source.uniform(4, 90), source.uniform(1, 30), source.randrange(2, 40),
            source.choice((0.1, 0.2, 0.25, 0.3, 0.4)),
        )  # fmt: skip
        needed = waiting(*made[:3]) / to_fill(*made[3:])
        if needed > 1 and 0.02 < needed % 1 < 0.98:  # else a rounding error could decide
            inputs.append(made)
    expect_each(f, inputs, right, MISTAKES)
    expect(
        f,
        (90, 0.0, 7.0, 10, 0.4),
        15,
        {"Users who don't think wait all the time: with a think time of 0 all requests are in flight.": 0},
    )


EXERCISES = (
    Exercise(
        "engines_needed", "ex-engines", 2, 3, 10,
        "The same engine serves a few users who never pause, or many who read and type.",
        ("From one request of a user to the next it takes answer_s + think_s. How much of that does the user wait?",
         "Requests in flight = rate × time = users / (answer_s + think_s) × answer_s. Of its places an engine may have "
         "at_once × (1 − headroom) taken on average.",
         "Divide the first by the second, and round up once, at the end."),
        engines,
    ),
)  # fmt: skip
