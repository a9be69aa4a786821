"""Exercises of lab 3.3.1 on how benchmarks lie: uncounted waiting, percentiles of small samples."""

import math
import random

from shared.course.exercise import Exercise, Function, Wrong, expect, expect_each

MS = 1_000_000
BEYOND = 10
source = random.Random()


Requests = list[tuple[int, int, int]]


def late(f: Function) -> None:
    """Test with one connection, on which a stall delays later requests before they are sent."""
    inputs = []
    for _ in range(3):
        every, own, stalled = source.randrange(90, 120), source.randrange(30, 60), source.randrange(3, 6)
        now, requests = 0, []
        for number in range(21):  # an odd number: half of them late would look like half of them in time
            scheduled = number * every
            sent = max(scheduled, now)
            now = sent + own + (source.randrange(500, 700) if number == stalled else 0)
            requests.append((scheduled * MS + 7, sent * MS + 7, now * MS + 7))
        inputs.append((requests, 150.5))

    def share(requests: Requests, limit_ms: float, begin: int = 0, end: int = 2, unit: int = MS) -> float:
        return sum((one[end] - one[begin]) / unit > limit_ms for one in requests) / len(requests)

    expect_each(
        f,
        inputs,
        share,
        {
            "A user also waits before the client sends the request: count from the schedule.": lambda asked, limit: (
                share(asked, limit, begin=1)
            ),
            "That is only the wait before sending. Add the time of the answer.": lambda asked, limit: share(
                asked, limit, end=1
            ),
            "Your result is a percentage; a share lies between 0 and 1.": lambda *given: 100 * share(*given),
            "That is a count; divide by the number of requests.": lambda *given: len(given[0]) * share(*given),
            "The stamps are in nanoseconds and the limit is in milliseconds.": lambda asked, limit: share(
                asked, limit, unit=1
            ),
            "Those are the ones in time. Return the share of the late ones.": lambda *given: 1 - share(*given),
        },
    )

    expect(
        f,
        ([(0, 0, 150 * MS), (0, 0, 151 * MS)], 150),
        0.5,
        {
            "Count waits longer than the limit: a wait that equals the limit is not late.": 1.0,
        },
    )


def rank(f: Function) -> None:
    inputs = []
    for part, count in ((0.5, 101), (0.9, 150), (0.95, 400), (0.99, 1500)):
        inputs.append(([source.expovariate(1 / 50) for _ in range(count)], part))

    def at(values: list[float], share: float, further: int = 0) -> float:
        return sorted(values)[min(math.ceil(share * len(values)) - 1 + further, len(values) - 1)]

    expect_each(
        f,
        inputs,
        at,
        {
            "The values are in the order of measurement: sort them first.": lambda values, share: values[
                math.ceil(share * len(values)) - 1
            ],
            "The k-th smallest value is at index k − 1.": lambda values, share: at(values, share, 1),
            "That counts from the top: p99 is the value that 99 % stay below.": lambda values, share: sorted(values)[
                len(values) - math.ceil(share * len(values))
            ],
            "That is the largest value.": lambda values, share: max(values),
            "That interpolates between two values. Return the value at the nearest rank.": lambda values, share: (
                between(sorted(values), share)
            ),
        },
    )
    few = [source.expovariate(1 / 50) for _ in range(40)]
    if (got := f(list(few), 0.99)) is not None:
        luck = " Yours is the maximum, which a single request decides." if got == max(few) else ""
        raise Wrong(f"40 values are too few for p99: fewer than {BEYOND} lie beyond it.{luck} Return None.")
    if f([float(i) for i in range(1, 101)], 0.9) is None:
        raise Wrong(
            f"Of 100 values exactly {BEYOND} lie beyond p90: that is enough. Count them as len(values) − k, because "
            "100 * (1 - 0.9) is 9.999… in floating point."
        )
    for count, share in ((99, 0.9), (999, 0.99)):
        expect(
            f,
            ([float(i) for i in range(1, count + 1)], share),
            None,
            {
                f"Fewer than {BEYOND} of {count} values lie beyond p{100 * share:.0f}. The sample that is needed "
                "depends on the percentile: count the values beyond it.": float(math.ceil(share * count)),
            },
        )


def between(order: list[float], share: float) -> float:
    at = share * (len(order) - 1)
    low = math.floor(at)
    return order[low] + (at - low) * (order[min(low + 1, len(order) - 1)] - order[low])


EXERCISES = (
    Exercise(
        "late_share", "ex-late", 2, 3, 10,
        "One stall delays every request behind it. Latency from sending shows only one slow request.",
        ("When did this user start to wait?",
         "Compute each wait from `scheduled_ns` to `end_ns` in ms. How many are above the limit?",
         "sum((end_ns - scheduled_ns) / 1e6 > limit_ms for ...) / len(requests)"),
        late,
    ),
    Exercise(
        "percentile", "ex-percentile", 2, 3, 10,
        "p99 of forty requests is their maximum under another name: one unlucky request decides it.",
        ("Sort the values. How many of the smallest ones make up this share of all values?",
         f"k = math.ceil(share * len(values)); if fewer than {BEYOND} values lie beyond the k-th, return None.",
         f"None if len(values) - k < {BEYOND}, else sorted(values)[k - 1]"),
        rank,
    ),
)  # fmt: skip
