"""Lab 3.3.1's exercises on arithmetic: what a machine can do at best, what a step is made of, what fewer bits buy."""

import random

from shared.course.exercise import Exercise, Function, expect, expect_each

source = random.Random()


def prefill_floor(f: Function) -> None:
    """Some prompts are read longer than they are computed, some the other way round."""
    inputs = []
    for tokens in (8, 4096, 60, 1500):
        parameters = source.randrange(10**8, 10**10)
        inputs.append((tokens, parameters, parameters * 2, source.uniform(20, 300), source.uniform(2, 20)))

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
            "A long prompt takes longer to compute than the weights take to read: count its operations as well.": read,
            "A short prompt is computed sooner than the weights are read: they must be read all the same.": compute,
            "Nothing can be faster than the slower of the two: take the longer time.": lambda *given: min(
                read(*given), compute(*given)
            ),
            "Each weight is multiplied and added: two operations for each weight and token.": lambda *given: max(
                read(*given), compute(*given) / 2
            ),
            "That is in seconds; the name says ms.": lambda *given: right(*given) / 1e3,
            "The weights are read once for the whole prompt, not once for each token.": lambda *given: max(
                given[0] * read(*given), compute(*given)
            ),
        },
    )


def step(f: Function) -> None:
    """For one user reading takes longest, for many computing does."""
    inputs = []
    for users in (1, 8, 32):
        parameters = source.randrange(10**8, 10**10)
        inputs.append(
            (
                users,
                source.uniform(1, 20),
                parameters * 2,
                source.randrange(10**6, 10**7),
                parameters * 2.0,
                source.uniform(50, 100),
                source.uniform(0.5, 0.8),
            )
        )

    def made_of(once: str, each: str) -> Function:
        """The sum of these parts: o for overhead, w for weights, k for a KV cache, c for computing."""

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
            "Every user has a KV cache of their own: that is read once for each.": made_of("owk", "c"),
            "The operations are those of one user's token: a step computes one for each user.": made_of("owc", "k"),
            "The overhead is per step: scheduling one step costs about the same for all users together.": made_of(
                "w", "okc"
            ),
            "The overhead is missing.": made_of("w", "kc"),
            "Reading is missing: the weights and the KV caches, by the bandwidth.": made_of("o", "c"),
            "Computing is missing: the operations of all users, by the rate.": made_of("ow", "k"),
            "This model adds the three: nothing overlaps in it.": lambda *given: (
                given[1] + max(made_of("w", "k")(*given), made_of("", "c")(*given))
            ),
        },
    )


def quantized(f: Function) -> None:
    for _ in range(3):
        before = source.randrange(10**8, 10**10)
        after = int(before * source.uniform(0.25, 0.6))
        gb_s = source.uniform(20, 300)
        read, saved = before / gb_s / 1e6, (before - after) / gb_s / 1e6
        now = read + source.uniform(1, 10)
        expect(
            f,
            (now, before, after, gb_s),
            1e3 / (now - saved),
            {
                "Only the reading gets shorter: what else the step does still takes its time.": 1e3
                / now
                * before
                / after,
                "That is the new step in ms; asked for are tokens per second.": now - saved,
                "Fewer bytes make the step shorter: subtract what is saved.": 1e3 / (now + saved),
                "The step holds more than reading: that is the ceiling, not the prediction.": gb_s * 1e9 / after,
                "A step of 10 ms gives 100 tokens per second: divide 1000 by the ms.": 1 / (now - saved),
                "That is the speed as it was.": 1e3 / now,
                "What is saved is the difference of the bytes, not what is left of them.": 1e3
                / (now - after / gb_s / 1e6),
            },
        )


def bits(f: Function) -> None:
    for _ in range(3):
        speed, parameters, gb_s = source.uniform(5, 200), source.randrange(10**9, 10**11), source.uniform(100, 3000)
        most = gb_s * 1e9 / speed / parameters
        expect(
            f,
            (speed, parameters, gb_s),
            most * 8,
            {
                "Those are bytes: a byte has eight bits.": most,
                "That is the inverse: weights per bit.": 1 / most / 8,
                "Bandwidth is in GB/s: 10⁹ bytes each.": gb_s / speed / parameters * 8,
                "Bandwidth is given in GB/s, and a GB is 10⁹ bytes; 2³⁰ bytes are a GiB.": gb_s
                * 2**30
                / speed
                / parameters
                * 8,
                "That is how many bytes each token may read. How many bits is that for each weight?": gb_s
                * 1e9
                / speed,
                "That is how many bits each token may read, of all weights together.": gb_s * 1e9 / speed * 8,
                "The faster it is, the fewer bytes it can have read for each token: divide by the speed.": gb_s
                * 1e9
                * speed
                / parameters
                * 8,
            },
        )


EXERCISES = (
    Exercise(
        "prefill_floor_ms", "ex-prefill-floor", 2, 3, 10,
        "Short prompts wait for memory, long ones for arithmetic: no engine passes either, so know which one it is.",
        ("Two things must happen: every weight is read once, and every token is multiplied with every weight.",
         "Work out both times in ms. Which of them decides, if they can overlap perfectly?",
         "max(weight_bytes / bandwidth, 2 * parameters * prompt_tokens / peak), with GB/s and TFLOP/s made plain."),
        prefill_floor,
    ),
    Exercise(
        "step_ms", "ex-step", 2, 3, 15,
        "One line that says which engine gains from a faster memory, which from a faster processor, and which from "
        "neither.",
        ("What happens once in a step, and what once for each user?",
         "Once: the overhead, reading the weights. For each user: reading a KV cache, computing a token.",
         "overhead_ms + (weight_bytes + users * kv_bytes) / (bandwidth_gb_s * 1e6) + users * operations / "
         "(peak_tflop_s * 1e9)"),
        step,
    ),
    Exercise(
        "quantized_tok_s", "ex-quantized", 2, 2, 10,
        "Half the bytes is twice the speed only for a step that does nothing but read.",
        ("Which part of a step gets shorter when the weights have fewer bytes?",
         "The bytes that are saved, by the bandwidth, are the ms that are saved.",
         "1000 / (step_ms - (bytes_before - bytes_after) / (bandwidth_gb_s * 1e6))"),
        quantized,
    ),
    Exercise(
        "bits_per_weight", "ex-bits", 1, 3, 5,
        "A published speed without a precision can be checked: it tells how many bits were read at most.",
        ("In the time of one token, how many bytes can be read? How many weights are there to read?",
         "bandwidth in bytes per second / tokens per second = bytes per token.",
         "bandwidth_gb_s * 1e9 / decode_tok_s / parameters * 8"),
        bits,
    ),
)  # fmt: skip
