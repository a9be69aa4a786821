"""Exercises of lab 3.3.1 on arithmetic: the floor of a pass, the step time, and what can't be a fixed cost."""

import random
from collections.abc import Callable

from shared.course.exercise import Exercise, Function, expect, expect_each

source = random.Random()


def pass_floor(f: Function) -> None:
    """Test with passes that reading limits (1 and 8 tokens, on any of these machines) and computing limits (4096)."""
    inputs = []
    for tokens in (8, 4096, 60, 1500, 1):
        parameters = source.randrange(10**8, 10**10)
        size = int(parameters * source.uniform(2.2, 4))  # with 2 bytes a weight, bytes could be taken for operations
        inputs.append((tokens, parameters, size, source.uniform(20, 100), source.uniform(2, 20)))

    def read(tokens: int, parameters: int, size: int, gb_s: float, tflop_s: float) -> float:
        return size / gb_s / 1e6

    def compute(tokens: int, parameters: int, size: int, gb_s: float, tflop_s: float) -> float:
        return 2 * parameters * tokens / tflop_s / 1e9

    def right(*given: float) -> float:
        return max(read(*given), compute(*given))  # type: ignore[arg-type]

    expect_each(
        f,
        inputs,
        right,
        {
            "Reading and computing can overlap: the floor is the longer of the two, not their sum.": lambda *given: (
                read(*given) + compute(*given)
            ),
            "With many tokens, computing takes longer than reading the weights: count their operations as well.": read,
            "Few tokens are computed before all weights are read, but every weight must still be read.": compute,
            "A pass is never faster than the slower of the two: take the longer time.": lambda *given: min(
                read(*given), compute(*given)
            ),
            "Each weight is multiplied and added: two operations for each weight and token.": lambda *given: max(
                read(*given), compute(*given) / 2
            ),
            "Your result is in seconds; the function must return ms.": lambda *given: right(*given) / 1e3,
            "The weights are read once for the whole pass, not once for each token.": lambda *given: max(
                given[0] * read(*given), compute(*given)
            ),
        },
    )


def step(f: Function) -> None:
    """Test with one user, where reading dominates, and with many, where computing does."""
    inputs = []
    for users in (1, 8, 32):
        parameters = source.randrange(10**8, 10**10)
        inputs.append(
            (
                users,
                source.uniform(1, 20),
                int(parameters * source.uniform(1, 1.8)),  # with 2 bytes a weight, bytes could be taken for operations
                source.randrange(10**6, 10**7),
                parameters * 2.0,
                source.uniform(50, 100),
                source.uniform(0.5, 0.8),
            )
        )

    def made_of(once: str, each: str) -> Function:
        """Return a step time of these parts: o overhead, w weights, k KV cache, c computing. Users pay for `each`."""

        def total(n: int, overhead: float, weights: int, kv: int, operations: float, gb_s: float, rate: float) -> float:
            ms = {"o": overhead, "w": weights / gb_s / 1e6, "k": kv / gb_s / 1e6, "c": operations / rate / 1e9}
            return sum(ms[part] for part in once) + n * sum(ms[part] for part in each)

        return total

    expect_each(
        f,
        inputs,
        made_of("ow", "kc"),
        {
            "One step reads the weights once, however many users share it.": made_of("o", "wkc"),
            "Every user has a KV cache of their own: count its reading once per user.": made_of("owk", "c"),
            "`operations` is for one user's token. A step computes one for each user.": made_of("owc", "k"),
            "The overhead is per step, not per user.": made_of("w", "okc"),
            "The overhead is missing.": made_of("w", "kc"),
            "Reading is missing: divide the bytes of weights and KV caches by the bandwidth.": made_of("o", "c"),
            "Computing is missing: divide the operations of all users by the rate.": made_of("ow", "k"),
            "Add the three times: nothing overlaps in this model.": lambda *given: (
                given[1] + max(made_of("w", "k")(*given), made_of("", "c")(*given))
            ),
        },
    )


def not_fixed(f: Function) -> None:
    """Test with a form that bounds the fixed cost, which is not always the one with the fewest bytes."""

    def rest(step_ms: float, read: float, gb_s: float) -> float:
        return step_ms - read / gb_s / 1e6

    def right(unexplained: float, steps: list[tuple[float, int]], gb_s: float) -> float:
        return max(0.0, unexplained - max(0.0, min(rest(step, read, gb_s) for step, read in steps)))

    def over(by: Callable[[list[tuple[float, int]], float], float]) -> Function:
        """The mistake of bounding the fixed cost by another number than the smallest rest."""
        return lambda unexplained, steps, gb_s: max(0.0, unexplained - max(0.0, by(steps, gb_s)))

    inputs = []
    for order in ((2, 1, 0), (2, 0, 1), (1, 2, 0)):  # which form leaves the smallest rest, and which the largest
        size, gb_s = source.randrange(10**8, 3 * 10**8), source.uniform(30, 90)
        rests_ms = (source.uniform(2, 3), source.uniform(7, 8), source.uniform(9, 12))
        sizes = (size, int(size * 0.53), int(size * 0.34))
        steps = [(read / gb_s / 1e6 + rests_ms[place], read) for read, place in zip(sizes, order, strict=True)]
        inputs.append((source.uniform(13, 20), steps, gb_s))
    expect_each(
        f,
        inputs,
        right,
        {
            "Each form's step also reads its weights: a fixed cost must fit into the rest of the step.": over(
                lambda steps, gb_s: min(step for step, _ in steps)
            ),
            "Every form's step has to hold the fixed cost, so the smallest rest is the limit, not the largest.": over(
                lambda steps, gb_s: max(rest(step, read, gb_s) for step, read in steps)
            ),
            "The form with the fewest bytes does not always leave the smallest rest: compare all forms.": over(
                lambda steps, gb_s: min((read, rest(step, read, gb_s)) for step, read in steps)[1]
            ),
            "That is the most that a fixed cost can be. How much of the unexplained time is more?": lambda u, s, g: min(
                rest(step, read, g) for step, read in s
            ),
            "The bandwidth is in GB/s: 10⁶ bytes in a millisecond.": over(
                lambda steps, gb_s: min(step - read / gb_s / 1e9 for step, read in steps)
            ),
            "BF16's own step is not the only one that must hold the fixed cost.": over(
                lambda steps, gb_s: rest(steps[0][0], steps[0][1], gb_s)
            ),
        },
    )
    size, gb_s = 10**8, 50.0
    enough = "If the whole unexplained time fits into every step, nothing is proven: return 0, not a negative number."
    expect(f, (1.5, [(2.0 + 4.0, size), (1.0 + 3.0, size // 2)], gb_s), 0.0, {enough: 1.5 - 3.0})
    none = "A form that is read faster than the bandwidth leaves no room: none of the unexplained time is a fixed cost."
    expect(f, (1.5, [(2.0 + 4.0, size), (0.5, size // 2)], gb_s), 1.5, {none: 1.5 + 0.5})


EXERCISES = (
    Exercise(
        "pass_floor_ms", "ex-pass-floor", 2, 3, 12,
        "Memory limits a pass over few tokens, arithmetic one over many. No engine beats either limit.",
        ("Two things must happen: every weight is read once, and every token is multiplied by every weight.",
         "Compute both times in ms. Which one decides if they overlap perfectly?",
         "max(weight_bytes / bandwidth, 2 * parameters * tokens / peak), after converting GB/s and TFLOP/s."),
        pass_floor,
    ),
    Exercise(
        "step_ms", "ex-step", 2, 3, 15,
        "The three terms show what would make a step shorter: faster memory, faster arithmetic, or neither.",
        ("What is paid once per step, and what once per user?",
         "Once per step: the overhead and reading the weights. Per user: reading a KV cache and computing a token.",
         "overhead_ms + (weight_bytes + users * kv_bytes) / (bandwidth_gb_s * 1e6) + users * operations / "
         "(peak_tflop_s * 1e9)"),
        step,
    ),
    Exercise(
        "not_fixed_ms", "ex-not-fixed", 2, 3, 12,
        "A fit gives a name to what it can't explain. Another measurement shows whether the name is right.",
        ("A fixed cost is paid in every step, whatever the form of the weights. Which step leaves least room?",
         "Subtract from each form's step the time for reading its bytes. The smallest rest is the limit.",
         "max(0, unexplained_ms - max(0, room_ms)), where room_ms is the smallest step_ms - read / "
         "(bandwidth_gb_s * 1e6)"),
        not_fixed,
    ),
)  # fmt: skip
