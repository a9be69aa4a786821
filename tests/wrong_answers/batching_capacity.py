"""Lab 3.3.2, the exercise on how many engines a group of users needs."""

import math
from fractions import Fraction


def no_thinking(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return math.ceil(users / (at_once * (1 - headroom)))


def thinkers(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return math.ceil(users * (think_s / (think_s + answer_s)) / (at_once * (1 - headroom)))


def answer_per_think(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return math.ceil(users * (answer_s / think_s) / (at_once * (1 - headroom)))


def only_a_rate(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    requests_per_s = users / (think_s + answer_s)
    return math.ceil(requests_per_s / (at_once * (1 - headroom)))


def no_headroom(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return math.ceil(users * answer_s / (think_s + answer_s) / at_once)


def headroom_filled(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return math.ceil(users * answer_s / (think_s + answer_s) / (at_once * headroom))


def more_requests(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return math.ceil(users * answer_s / (think_s + answer_s) * (1 + headroom) / at_once)


def rounded_down(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return int(users * answer_s / (think_s + answer_s) / (at_once * (1 - headroom)))


def rounded_to_nearest(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    return round(users * answer_s / (think_s + answer_s) / (at_once * (1 - headroom)))


def a_fraction(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> float:
    return users * answer_s / (think_s + answer_s) / (at_once * (1 - headroom))


def whole_requests_first(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    under_way = math.ceil(users * answer_s / (think_s + answer_s))
    return math.ceil(under_way / (at_once * (1 - headroom)))


def whole_places_first(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    places = int(at_once * (1 - headroom))
    return math.ceil(users * answer_s / (think_s + answer_s) / places)


def idle_without_thinking(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    if not think_s:
        return 0
    return math.ceil(users * answer_s / (think_s + answer_s) / (at_once * (1 - headroom)))


ANSWERS = {
    "engines_needed": [
        ("between two requests they think", no_thinking),
        ("That counts the users who think", thinkers),
        ("The answer itself takes time, too", answer_per_think),
        ("That is a rate", only_a_rate),
        ("Without head-room", no_headroom),
        ("the places that should stay free", headroom_filled),
        ("a share of the engine's places, not of the requests", more_requests),
        ("Rounded down", rounded_down),
        ("Rounded to the nearest", rounded_to_nearest),
        ("Only whole engines", a_fraction),
        ("A mean need not be a whole number", whole_requests_first),
        ("An engine's places that are taken on average", whole_places_first),
        ("with a think time of 0 all requests are in flight", idle_without_thinking),
    ],
}


def engines_otherwise(users: int, think_s: float, answer_s: float, at_once: int, headroom: float) -> int:
    """One engine more, until the mean leaves enough places free."""
    rate_per_s = Fraction(users) / (Fraction(think_s) + Fraction(answer_s))
    engines = 1
    while rate_per_s * Fraction(answer_s) / engines > at_once - at_once * headroom:
        engines += 1
    return engines


RIGHT = {"engines_needed": engines_otherwise}
