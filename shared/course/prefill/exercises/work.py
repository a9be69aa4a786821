"""Exercises of lab 3.3.3 on the work of a prefill: operations, intensity, attention against the MLP, parts of TTFT."""

import copy
import random

import numpy as np

from shared.course.exercise import Exercise, Function, Wrong, expect, expect_each

source = random.Random()


def layer() -> tuple[int, int, int, int, int]:
    """(hidden, heads, kv_heads, head_dim, mlp) of a made-up model with fewer KV heads than heads."""
    kv_heads, head_dim = source.choice((2, 4, 8)), source.choice((32, 64, 128))
    heads = kv_heads * source.choice((3, 4, 8))
    return heads * head_dim + 64 * source.randrange(1, 9), heads, kv_heads, head_dim, 64 * source.randrange(30, 200)


def flops(f: Function) -> None:
    inputs = [(source.randrange(50, 4000), *layer()) for _ in range(3)]

    def parts(tokens: int, hidden: int, heads: int, kv_heads: int, head_dim: int, mlp: int) -> dict[str, float]:
        return {
            "qkv": 2 * tokens * hidden * head_dim * (heads + 2 * kv_heads),
            "out, hidden": 2 * tokens * hidden * hidden,
            "pairs, hidden": 4 * hidden * tokens * (tokens + 1) / 2,
            "half of all pairs": 4 * heads * head_dim * tokens * tokens / 2,
            "pairs without its own": 4 * heads * head_dim * tokens * (tokens - 1) / 2,
            "qkv, all heads": 2 * tokens * hidden * head_dim * 3 * heads,
            "out": 2 * tokens * heads * head_dim * hidden,
            "pairs": 4 * heads * head_dim * tokens * (tokens + 1) / 2,
            "all pairs": 4 * heads * head_dim * tokens * tokens,
            "kv pairs": 4 * kv_heads * head_dim * tokens * (tokens + 1) / 2,
            "mlp": 2 * tokens * 3 * hidden * mlp,
        }

    def made_of(*names: tuple[str, ...], times: float = 1) -> Function:
        return lambda *given: [times * sum(parts(*given)[one] for one in part) for part in names]

    right = made_of(("qkv", "out"), ("pairs",), ("mlp",))
    expect_each(
        f,
        inputs,
        right,
        {
            "A multiplication and an addition are two operations.": made_of(
                ("qkv", "out"), ("pairs",), ("mlp",), times=0.5
            ),
            "Attention is causal: token t reads t keys, so there are T·(T+1)/2 pairs, not T².": made_of(
                ("qkv", "out"), ("all pairs",), ("mlp",)
            ),
            "A token also reads its own key: token t reads t keys, so there are T·(T+1)/2 pairs, not T²/2.": made_of(
                ("qkv", "out"), ("half of all pairs",), ("mlp",)
            ),
            "A token also reads its own key: token t reads t keys, so there are T·(T+1)/2 pairs, not T·(T−1)/2.": (
                made_of(("qkv", "out"), ("pairs without its own",), ("mlp",))
            ),
            "Attention is as wide as heads · head_dim, which need not be `hidden`.": made_of(
                ("qkv", "out"), ("pairs, hidden",), ("mlp",)
            ),
            "The output projection has heads · head_dim rows, which need not be `hidden`.": made_of(
                ("qkv", "out, hidden"), ("pairs",), ("mlp",)
            ),
            "The projections are half of what they should be: a multiplication and an addition are two operations.": (
                lambda *given: [right(*given)[0] / 2, *right(*given)[1:]]
            ),
            "The MLP is half of what it should be: a multiplication and an addition are two operations.": (
                lambda *given: [*right(*given)[:2], right(*given)[2] / 2]
            ),
            "Keys and values have fewer heads than queries: their matrices are smaller.": made_of(
                ("qkv, all heads", "out"), ("pairs",), ("mlp",)
            ),
            "Every query head computes scores; several of them share a KV head, but none is left out.": made_of(
                ("qkv", "out"), ("kv pairs",), ("mlp",)
            ),
            "The output projection of attention is missing.": made_of(("qkv",), ("pairs",), ("mlp",)),
            "The MLP has three matrices: gate, up and down.": lambda *given: [
                *right(*given)[:2],
                parts(*given)["mlp"] * 2 / 3,
            ],
            "Attention is half of what it should be. It has two products, queries with keys, then weights with values, "
            "and each multiplication comes with an addition.": lambda *given: [
                right(*given)[0],
                parts(*given)["pairs"] / 2,
                right(*given)[2],
            ],
            "Those are the operations of one token. Return those of the whole prompt.": lambda *given: [
                one / given[0] for one in right(*given)
            ],
        },
    )


def intensities(f: Function) -> None:
    inputs = []
    for tokens, bytes_per_weight in ((1, 2), (64, 4), (2000, 0.5)):
        weights = source.randrange(10**8, 10**10)
        inputs.append((tokens, weights, bytes_per_weight, source.randrange(10**4, 10**5)))

    def right(tokens: int, weights: int, bytes_per_weight: float, kv_bytes: int) -> float:
        return 2 * weights * tokens / (weights * bytes_per_weight + tokens * kv_bytes)

    expect_each(
        f,
        inputs,
        right,
        {
            "The weights are read once for the whole prompt, not once for each token.": lambda t, w, b, kv: (
                2 * w * t / (w * b * t + t * kv)
            ),
            "Each token adds keys and values to the bytes: they are written.": lambda t, w, b, kv: 2 * w * t / (w * b),
            "That is bytes for each operation. Turn it round.": lambda *given: 1 / right(*given),
            "Each weight is multiplied and added for each token: two operations.": lambda *given: right(*given) / 2,
            "The weights have `bytes_per_weight` bytes each.": lambda t, w, b, kv: 2 * w * t / (w + t * kv),
            "One token's operations: multiply them by the number of tokens.": lambda t, w, b, kv: (
                2 * w / (w * b + t * kv)
            ),
        },
    )


def overtakes(f: Function) -> None:
    inputs: list[tuple[int, int, int, int]] = []
    while len(inputs) < 3:
        hidden, heads, _, head_dim, _ = layer()
        mlp = source.randrange(2000, 12000)
        whole = 3 * hidden * mlp % (heads * head_dim) == 0  # then rounding makes no difference
        if not whole and 2 * hidden != 3 * heads * head_dim:  # else two of the mistakes give the same number
            inputs.append((hidden, heads, head_dim, mlp))

    def right(hidden: int, heads: int, head_dim: int, mlp: int) -> int:
        return -(-3 * hidden * mlp // (heads * head_dim)) - 1

    expect_each(
        f,
        inputs,
        right,
        {
            "Attention is causal: on average a token reads half of the prompt.": lambda h, n, d, m: (
                -(-3 * h * m // (2 * n * d))
            ),
            "The MLP has three matrices, so it computes 6·hidden·mlp operations for a token.": lambda h, n, d, m: (
                -(-2 * h * m // (n * d)) - 1
            ),
            "Attention is half of what it should be. It has two products for each pair, scores and the sum over "
            "values, and each multiplication comes with an addition.": lambda h, n, d, m: -(-6 * h * m // (n * d)) - 1,
            "Attention is as wide as heads × head_dim, which need not be `hidden`.": lambda h, n, d, m: 3 * m - 1,
            "One token more: in a prompt of this length the MLP still computes more.": lambda *given: right(*given) - 1,
            "That is one token too many: T·(T+1)/2 pairs are (T+1)/2 for each token.": lambda *given: right(*given) + 1,
            "That is no whole number of tokens. Which is the first with enough?": lambda h, n, d, m: (
                3 * h * m / (n * d) - 1
            ),
        },
    )
    exact = (576, 9, 64, 1536)  # the labs' small model
    late = "That is one token too many where the quotient is a whole number: rounding up leaves it as it is."
    expect(f, exact, right(*exact), {late: right(*exact) + 1})


def fitted(lengths: list[int], times: list[float], powers: tuple[int, ...]) -> list[float]:
    """Least squares of times against these powers of the length; 0 for the other powers."""
    table = np.array([[float(n) ** power for power in powers] for n in lengths])
    found = dict(zip(powers, np.linalg.lstsq(table, np.array(times), rcond=None)[0], strict=True))
    return [float(found.get(power, 0.0)) for power in (0, 1, 2)]


def ttft_parts(f: Function) -> None:
    inputs = []
    for _ in range(3):
        lengths = sorted(source.sample(range(32, 2048), 9))
        fixed, linear, square = source.uniform(5, 40), source.uniform(0.1, 0.5), source.uniform(2e-5, 2e-4)
        queue = [source.uniform(0, 300) for _ in lengths]
        times = [
            q + fixed + linear * n + square * n * n + source.uniform(-1, 1) for n, q in zip(lengths, queue, strict=True)
        ]
        inputs.append((lengths, times, queue))

    got = f(*copy.deepcopy(inputs[0]))
    if isinstance(got, tuple) and len(got) == 4:
        raise Wrong("numpy.linalg.lstsq returns four things, and the solution is the first: lstsq(…)[0].")
    if hasattr(got, "__len__") and len(got) != 3:
        raise Wrong(
            f"Yours returned {len(got)} numbers. Three are wanted: the constant, the part per token, and the part per "
            "token squared."
        )

    def without_queue(times: list[float], queue: list[float]) -> list[float]:
        return [t - q for t, q in zip(times, queue, strict=True)]

    def right(lengths: list[int], times: list[float], queue: list[float]) -> list[float]:
        return fitted(lengths, without_queue(times, queue), (0, 1, 2))

    expect_each(
        f,
        inputs,
        right,
        {
            "A request that waits has a longer TTFT: subtract its time in the queue first.": lambda n, t, q: fitted(
                n, t, (0, 1, 2)
            ),
            "Attention grows with the square of the length: fit a third term.": lambda n, t, q: fitted(
                n, without_queue(t, q), (0, 1)
            ),
            "Something takes the same time for every length (choosing a token, for example): fit a constant, too.": (
                lambda n, t, q: fitted(n, without_queue(t, q), (1, 2))
            ),
            "The order is constant, per token, per token squared. Yours is the other way round.": lambda *given: right(
                *given
            )[::-1],
            "The queue made it shorter? Subtract the waiting, don't add it.": lambda n, t, q: fitted(
                n, [a + b for a, b in zip(t, q, strict=True)], (0, 1, 2)
            ),
        },
    )


EXERCISES = (
    Exercise(
        "prefill_operations", "ex-operations", 2, 3, 15,
        "Only attention grows with the square of the length. Everything else is paid per token.",
        ("A product of a matrix with n weights and one token costs 2n operations. Which matrices has a layer?",
         "Attention has no weights: count pairs of a query and a key that it may see, for each head.",
         "Queries and output have heads · head_dim columns, keys and values kv_heads · head_dim. The pairs are "
         "1 + 2 + … + T, and each needs two products of head_dim numbers. The MLP has three matrices."),
        flops,
    ),
    Exercise(
        "operations_per_byte", "ex-intensity", 2, 3, 10,
        "One prompt token reads the weights as a decode step does. A thousand tokens share that reading.",
        ("How many operations does a prompt cost, and how many bytes must be moved at least?",
         "Each token is multiplied by every weight and added up. Which bytes grow with the prompt, and which don't?",
         "Weights are read once for the whole prompt; keys and values are written once for each token. Divide."),
        intensities,
    ),
    Exercise(
        "attention_overtakes", "ex-overtakes", 2, 2, 10,
        "Below this length the MLP computes more than attention. From it on attention computes at least as much.",
        ("Write both for one layer and the whole prompt, as in exercise 1.1.",
         "Divide both by T and solve for T. The answer is the shortest whole length that reaches it.",
         "After the division attention grows with T + 1, and the MLP is constant. Round up, and mind the 1."),
        overtakes,
    ),
    Exercise(
        "ttft_parts", "ex-ttft-parts", 3, 3, 20,
        "TTFT is no property of a prompt: only what is left without the queue can be predicted from its length.",
        ("Which part of each TTFT doesn't depend on the engine's speed? Subtract it.",
         "numpy.linalg.lstsq fits the columns 1, n and n² to the rest.",
         "numpy.vander makes these columns from floats; with increasing=True the constant comes first."),
        ttft_parts,
    ),
)  # fmt: skip
