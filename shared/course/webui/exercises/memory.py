"""The exercise `largest_context`: what OLLAMA_NUM_PARALLEL and num_ctx cost, by arithmetic."""

import random
from itertools import product

from shared.course.exercise import Exercise, Function, expect_each, whole_numbers

SHAPES = (  # layers, heads, kv_heads, head_dim, bytes of a value
    (30, 9, 3, 64, 2),  # SmolLM2-135M
    (36, 32, 8, 128, 2),  # Qwen3-8B
    (36, 32, 8, 128, 1),  # with OLLAMA_KV_CACHE_TYPE=q8_0, without its scales
)


def right(free: int, parallel: int, layers: int, heads: int, kv_heads: int, head_dim: int, value: int) -> int:
    return free // (parallel * 2 * layers * kv_heads * head_dim * value)


def largest_context(f: Function) -> None:
    free = [random.randrange(2**30, 16 * 2**30) for _ in range(2)]
    inputs = [(one, parallel, *shape) for one, parallel, shape in product(free, (1, 4), SHAPES)]

    expect_each(whole_numbers(f), inputs, right, {
        "Each token keeps a key and a value: two vectors per layer.":
            lambda free, p, n, h, k, d, b: free // (p * n * k * d * b),
        "Every one of the `parallel` seats has a context of its own.":
            lambda free, p, n, h, k, d, b: free // (2 * n * k * d * b),
        "Keys and values are kept per kv_head: several heads share one.":
            lambda free, p, n, h, k, d, b: free // (p * 2 * n * h * d * b),
        "Every layer has a cache of its own.": lambda free, p, n, h, k, d, b: free // (p * 2 * k * d * b),
        "A value takes `value_bytes` bytes.": lambda free, p, n, h, k, d, b: free // (p * 2 * n * k * d),
        "A part of a token can't be kept: return a whole number, rounded down.":
            lambda free, p, n, h, k, d, b: free / (p * 2 * n * k * d * b),
        "That is more than fits: round down.": lambda free, p, n, h, k, d, b: -(-free // (p * 2 * n * k * d * b)),
    })  # fmt: skip


CONTEXT = Exercise(
    "largest_context", "ex-largest-context", 1, 2, 6,
    "You can tell before the start what the KV cache of a context needs, and how much a second seat costs.",
    (
        "What does one token of one conversation leave in memory, in each layer?",
        "Bytes per token: 2 × layers × kv_heads × head_dim × value_bytes.",
        "num_ctx tokens in each of `parallel` seats: divide the free bytes by both, and round down.",
    ),
    largest_context,
)  # fmt: skip
