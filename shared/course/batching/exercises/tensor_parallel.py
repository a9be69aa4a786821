"""The exercise on tensor parallelism over a link: how long a decode step takes on several machines."""

import random
from collections.abc import Callable, Mapping

from shared.course.exercise import Exercise, Function, expect_each

Config = Mapping[str, int]
Arguments = tuple[Config, float, int, int, float, float, float]
BYTES = 2  # of each number of the hidden state, in BF16


def right_ms(
    config: Config, weight_gb: float, users: int, machines: int, read_gb_s: float, link_gb_s: float, latency_us: float
) -> float:
    """The step time, and the pattern from which the mistakes differ in one thing each."""
    return step(weight_gb / machines / read_gb_s, config, users, machines, link_gb_s, latency_us)


def step(
    reading_s: float,
    config: Config,
    users: int,
    machines: int,
    link_gb_s: float,
    latency_us: float,
    sums_per_layer: float = 2,
    size: float = BYTES,
    share: float | None = None,
) -> float:
    """Milliseconds of reading and of all sums. `share`: how often a machine sends each byte of a message."""
    if machines == 1:
        return 1e3 * reading_s
    share = 2 * (machines - 1) / machines if share is None else share
    moving_s = users * config["hidden_size"] * size * share / (link_gb_s * 1e9)
    return 1e3 * (reading_s + sums_per_layer * config["num_hidden_layers"] * (moving_s + latency_us / 1e6))


def mistake(**changed: float) -> Callable[..., float]:
    """A step in which one number is wrong."""

    def wrong(
        config: Config, weight_gb: float, users: int, machines: int, read: float, link: float, latency: float
    ) -> float:
        return step(weight_gb / machines / read, config, users, machines, link, latency, **changed)

    return wrong


def whole_weights(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    return step(weight / read, c, users, n, link, latency)


def no_latency(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    return step(weight / n / read, c, users, n, link, 0)


def latency_once(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    return step(weight / n / read, c, users, n, link, 0) + (latency / 1e3 if n > 1 else 0)


def microseconds_as_ms(c: Config, weight: float, users: int, n: int, read: float, link: float, us: float) -> float:
    return step(weight / n / read, c, users, n, link, 1e3 * us)


def one_user(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    return step(weight / n / read, c, 1, n, link, latency)


def reading_only(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    return 1e3 * weight / n / read


def in_seconds(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    return right_ms(c, weight, users, n, read, link, latency) / 1e3


def one_waits_too(c: Config, weight: float, users: int, n: int, read: float, link: float, latency: float) -> float:
    if n > 1:
        return right_ms(c, weight, users, n, read, link, latency)
    return 1e3 * weight / read + 2 * c["num_hidden_layers"] * latency / 1e3


MISTAKES: dict[str, Callable[..., float]] = {
    "The weights are split: each machine reads only its share of them.": whole_weights,
    "That is the reading alone. What do the machines exchange in every layer?": reading_only,
    "That has no latency: each sum also takes `latency_us`, however small its message is.": no_latency,
    "The latency is paid for each sum, not once in a step.": latency_once,
    "latency_us is in microseconds: 1000 of them are a millisecond.": microseconds_as_ms,
    "Each layer has two sums: one after the attention, one after the feed-forward part.": mistake(sums_per_layer=1),
    "The message has a hidden state for each user of the batch.": one_user,
    "The message is in bytes: each number of a hidden state takes 2 in BF16.": mistake(size=1),
    "In a ring of n machines each byte is sent 2 × (n - 1) / n times.": mistake(share=1),
    "That is in seconds. Return milliseconds.": in_seconds,
    "One machine has nothing to add up with another: it waits for no sum.": one_waits_too,
}


def step_time(f: Function) -> None:
    source = random.Random()
    inputs: list[Arguments] = []
    for machines in (1, 2, 4):
        config = {"num_hidden_layers": source.randrange(16, 96), "hidden_size": 128 * source.randrange(8, 128)}
        weight_gb, users = source.uniform(1, 200), source.randrange(3, 64)  # of 2, two mistakes give the same
        speeds = source.uniform(200, 300), source.uniform(10, 30), source.uniform(10, 100)
        inputs.append((config, weight_gb, users, machines, *speeds))
    expect_each(f, inputs, right_ms, MISTAKES)


EXERCISES = (
    Exercise(
        "tensor_parallel_step_ms", "ex-tensor-parallel", 2, 2, 10,
        "Splitting the weights shortens the reading. The sums are paid in every layer, however small the model is.",
        ("Which part of the weights does a machine read? How many sums does a step have?",
         "A sum takes its latency, and the time that its message needs on the link. The message has users × "
         "hidden_size numbers.",
         "reading = weight_gb / machines / read_gb_s; a sum = users × hidden_size × 2 bytes × 2 × (machines - 1) / "
         "machines / link_gb_s + latency; a step = reading + 2 × layers × sum. One machine has no sums."),
        step_time,
    ),
)  # fmt: skip
