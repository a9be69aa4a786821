"""Exercises of lab 3.3.1 on arithmetic: prefill floor, step time, quantization, bits per weight."""

import random

from shared.course.exercise import Exercise, Function, expect, expect_each

source = random.Random()


def prefill_floor(f: Function) -> None:
    """Test with prompts that reading limits (8 tokens, on any of these machines) and that computing limits (4096)."""
    inputs = []
    for tokens in (8, 4096, 60, 1500):
        parameters = source.randrange(10**8, 10**10)
        inputs.append((tokens, parameters, parameters * 2, source.uniform(20, 100), source.uniform(2, 20)))

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
            "For a long prompt, computing takes longer than reading the weights: count its operations as well.": read,
            "A short prompt is computed before all weights are read, but every weight must still be read.": compute,
            "A prefill is never faster than the slower of the two: take the longer time.": lambda *given: min(
                read(*given), compute(*given)
            ),
            "Each weight is multiplied and added: two operations for each weight and token.": lambda *given: max(
                read(*given), compute(*given) / 2
            ),
            "Your result is in seconds; the function must return ms.": lambda *given: right(*given) / 1e3,
            "The weights are read once for the whole prompt, not once for each token.": lambda *given: max(
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
                parameters * 2,
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
                "Only the reading gets shorter. The rest of the step takes as long as before.": 1e3
                / now
                * before
                / after,
                "That is the new step in ms. Return tokens per second.": now - saved,
                "Fewer bytes make the step shorter: subtract what is saved.": 1e3 / (now + saved),
                "You left out the rest of the step: that is the ceiling, not the prediction.": gb_s * 1e9 / after,
                "A step of 10 ms gives 100 tokens per second: divide 1000 by the ms.": 1 / (now - saved),
                "That is the old speed. Subtract the time for the saved bytes.": 1e3 / now,
                "Saved bytes = bytes_before − bytes_after. You used bytes_after.": 1e3 / (now - after / gb_s / 1e6),
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
                "The bandwidth is in GB/s: multiply it by 10⁹.": gb_s / speed / parameters * 8,
                "Bandwidth is given in GB/s, and a GB is 10⁹ bytes; 2³⁰ bytes are a GiB.": gb_s
                * 2**30
                / speed
                / parameters
                * 8,
                "That is the number of bytes read per token. How many bits is that for each weight?": gb_s
                * 1e9
                / speed,
                "That is the number of bits read per token, of all weights together.": gb_s * 1e9 / speed * 8,
                "A faster engine can have read fewer bytes per token: divide by the speed.": gb_s
                * 1e9
                * speed
                / parameters
                * 8,
            },
        )


EXERCISES = (
    Exercise(
        "prefill_floor_ms", "ex-prefill-floor", 2, 3, 10,
        "Memory limits short prompts, arithmetic limits long ones. No engine beats either limit.",
        ("Two things must happen: every weight is read once, and every token is multiplied by every weight.",
         "Compute both times in ms. Which one decides if they overlap perfectly?",
         "max(weight_bytes / bandwidth, 2 * parameters * prompt_tokens / peak), after converting GB/s and TFLOP/s."),
        prefill_floor,
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
        "quantized_tok_s", "ex-quantized", 2, 2, 10,
        "Half the bytes give twice the speed only if the step does nothing but read.",
        ("Which part of a step gets shorter when the weights have fewer bytes?",
         "Divide the saved bytes by the bandwidth to get the saved ms.",
         "1000 / (step_ms - (bytes_before - bytes_after) / (bandwidth_gb_s * 1e6))"),
        quantized,
    ),
    Exercise(
        "bits_per_weight", "ex-bits", 1, 3, 5,
        "A published speed limits how many bits each weight can have had, even if the precision is not given.",
        ("How many bytes can be read in the time of one token? How many weights must be read?",
         "bandwidth in bytes per second / tokens per second = bytes per token.",
         "bandwidth_gb_s * 1e9 / decode_tok_s / parameters * 8"),
        bits,
    ),
)  # fmt: skip
