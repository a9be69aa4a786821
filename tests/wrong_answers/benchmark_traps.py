"""Lab 3.3.1, exercises on how benchmarks lie."""

import math
import statistics

Requests = list[tuple[int, int, int]]


def from_sending(requests: Requests, limit_ms: float) -> float:
    return sum((end - sent) / 1e6 > limit_ms for _, sent, end in requests) / len(requests)


def only_the_wait(requests: Requests, limit_ms: float) -> float:
    return sum((sent - due) / 1e6 > limit_ms for due, sent, _ in requests) / len(requests)


def as_percentage(requests: Requests, limit_ms: float) -> float:
    return 100 * late_otherwise(requests, limit_ms)


def how_many(requests: Requests, limit_ms: float) -> int:
    return sum((end - due) / 1e6 > limit_ms for due, _, end in requests)


def in_nanoseconds(requests: Requests, limit_ms: float) -> float:
    return sum(end - due > limit_ms for due, _, end in requests) / len(requests)


def those_in_time(requests: Requests, limit_ms: float) -> float:
    return 1 - late_otherwise(requests, limit_ms)


def at_the_limit(requests: Requests, limit_ms: float) -> float:
    return sum(end - scheduled >= limit_ms * 10**6 for scheduled, _, end in requests) / len(requests)


def late_otherwise(requests: Requests, limit_ms: float) -> float:
    late = [request for request in requests if request[2] - request[0] > limit_ms * 10**6]
    return len(late) / len(requests)


def place(values: list[float], share: float) -> int:
    return math.ceil(share * len(values))


def unsorted(values: list[float], share: float) -> float | None:
    k = place(values, share)
    return values[k - 1] if len(values) - k >= 10 else None


def one_too_far(values: list[float], share: float) -> float | None:
    k = place(values, share)
    return sorted(values)[k] if len(values) - k >= 10 else None


def from_the_top(values: list[float], share: float) -> float | None:
    k = place(values, share)
    return sorted(values, reverse=True)[k - 1] if len(values) - k >= 10 else None


def the_largest(values: list[float], share: float) -> float | None:
    return max(values) if len(values) - place(values, share) >= 10 else None


def interpolated(values: list[float], share: float) -> float | None:
    if len(values) - place(values, share) < 10:
        return None
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def never_refuses(values: list[float], share: float) -> float:
    return sorted(values)[place(values, share) - 1]


def refuses_ten(values: list[float], share: float) -> float | None:
    return sorted(values)[place(values, share) - 1] if len(values) * (1 - share) >= 10 else None


def a_hundred_will_do(values: list[float], share: float) -> float | None:
    return sorted(values)[place(values, share) - 1] if len(values) >= 100 else None


def percentile_otherwise(values: list[float], share: float) -> float | None:
    left = sorted(values)
    beyond = len(left) - place(values, share)
    if beyond < 10:
        return None
    return left[-beyond - 1]


ANSWERS = {
    "late_share": [
        ("count from the schedule", from_sending),
        ("only the wait before sending", only_the_wait),
        ("a share lies between 0 and 1", as_percentage),
        ("divide by the number of requests", how_many),
        ("the limit is in milliseconds", in_nanoseconds),
        ("Those are the ones in time", those_in_time),
        ("equals the limit is not late", at_the_limit),
    ],
    "percentile": [
        ("sort them first", unsorted),
        ("is at index k − 1", one_too_far),
        ("counts from the top", from_the_top),
        ("That is the largest value", the_largest),
        ("Return the value at the nearest rank", interpolated),
        ("which a single request decides", never_refuses),
        ("that is enough", refuses_ten),
        ("depends on the percentile", a_hundred_will_do),
    ],
}

RIGHT = {
    "late_share": late_otherwise,
    "percentile": percentile_otherwise,
}
