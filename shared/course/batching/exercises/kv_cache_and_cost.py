"""Exercises on the size of the KV cache, and on what a token costs."""

import random

from shared.course.exercise import Exercise, Function, expect

HOURS_A_YEAR = 365 * 24
CONFIGS = (
    {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 576},
    {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096},
    {
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 2560,
        "head_dim": 128,
    },
)  # SmolLM2-135M, Llama-3.1-8B, Qwen3-4B


def kv_bytes(f: Function) -> None:
    for config, size in ((CONFIGS[0], 4), (CONFIGS[1], 2), (CONFIGS[2], 2), (CONFIGS[1], 1)):
        heads = config["num_attention_heads"]
        kv_heads, layers = config["num_key_value_heads"], config["num_hidden_layers"]
        dim = config.get("head_dim", config["hidden_size"] // heads)
        derived = config["hidden_size"] // heads
        right = 2 * layers * kv_heads * dim * size
        expect(
            f,
            (config, size),
            right,
            {
                "Only KV heads are cached: several query heads share one (grouped-query attention).": 2
                * layers
                * heads
                * dim
                * size,
                "Both keys and values are cached.": right // 2,
                "Every layer has keys and values of its own.": right // layers,
                "The size of a head is `head_dim` where the config has one; otherwise it is hidden_size / heads.": 2
                * layers
                * kv_heads
                * derived
                * size,
                "That counts numbers, not bytes: each number takes `bytes_per_value`.": right // size,
                "That is in bits. Return bytes.": right * 8,
                "hidden_size is the size of all query heads together, and there are fewer KV heads.": 2
                * layers
                * config["hidden_size"]
                * size,
                "hidden_size is the size of all heads together: one head has hidden_size / heads.": 2
                * layers
                * kv_heads
                * config["hidden_size"]
                * size,
            },
        )


def users(f: Function) -> None:
    source = random.Random()
    for quarters in (1, 2, 3, 3):  # of one more user: three would be rounded up
        each, context = source.randrange(20_000, 200_000), 8192
        weights = each * context * source.randrange(3, 30) + source.randrange(each * context)
        memory = weights + each * context * source.randrange(4, 40) + quarters * each * context // 4
        right = (memory - weights) // (each * context)
        expect(
            f,
            (memory, weights, each, context),
            right,
            {
                "The weights are in the same memory: subtract them first.": memory // (each * context),
                "Only whole users can be served: round down.": (memory - weights) / (each * context),
                "The last user doesn't fit: round down, not up.": right + 1,
                "That is how many tokens fit. A user has `context_tokens` tokens.": (memory - weights) // each,
                "That is how many bytes a user needs, not how many users fit.": each * context,
                "The weights are in memory once, however many users share them.": memory // (weights + each * context),
            },
        )
    small = 10**9, 2 * 10**9, 50_000, 4096
    expect(
        f,
        small,
        0,
        {
            "If not even the weights fit, no user can be served: return 0, not a negative number.": (10**9 - 2 * 10**9)
            // (50_000 * 4096),
            "If the weights are larger than the memory, no user can be served: return 0, not a negative number.": int(
                (10**9 - 2 * 10**9) / (50_000 * 4096)
            )
            or -4,
        },
    )


def cost(f: Function) -> None:
    source = random.Random()
    for _ in range(4):
        tok_s, price = source.uniform(40, 4000), source.uniform(500, 9000)
        years, watts, kwh = source.uniform(2, 6), source.uniform(20, 400), source.uniform(0.08, 0.5)
        buy, power = price / (years * HOURS_A_YEAR), watts / 1000 * kwh  # USD an hour
        million = 1e6 / (tok_s * 3600)  # hours that a million tokens take
        expect(
            f,
            (tok_s, price, years, watts, kwh),
            (buy + power) * million,
            {
                "Watts are not kilowatts: 1000 W for an hour are one kWh.": (buy + watts * kwh) * million,
                "That is the cost of electricity alone: add the price of the machine.": power * million,
                "That is the cost of the machine alone: add its electricity.": buy * million,
                "That is the cost of one token. Return the cost of a million.": (buy + power) * million / 1e6,
                "That is the cost of a thousand tokens. Return the cost of a million.": (buy + power) * million / 1e3,
                "That is in USD an hour. How many hours do a million tokens take?": buy + power,
                "More tokens per second make each token cheaper: divide by tok_s.": (buy + power) * 1e6 * tok_s / 3600,
                "tok_s is per second and the costs are per hour: an hour has 3600 seconds.": (buy + power)
                * 1e6
                / tok_s,
                "That counts the whole price for each hour: spread it over the hours of its years.": (price + power)
                * million,
                "A year has 365 × 24 hours.": (price / (years * 365) + power) * million,
            },
        )


EXERCISES = (
    Exercise(
        "kv_bytes_per_token", "ex-kv-bytes", 1, 3, 5,
        "Multiplied by the context and the users, this often takes more memory than the weights do.",
        ("What is kept for each token? Of which heads, in which layers?",
         "2 (K and V) × layers × KV heads × head size × bytes.",
         "config.get('head_dim') or config['hidden_size'] // config['num_attention_heads'] is a head's size."),
        kv_bytes,
    ),
    Exercise(
        "max_users", "ex-max-users", 1, 2, 5,
        "The same memory serves many short conversations or a few long ones.",
        ("How much memory is left when the weights are loaded?",
         "Divide it by the bytes of one user's whole context, and round down.",
         "max(0, (memory_bytes - weight_bytes) // (kv_bytes * context_tokens))."),
        users,
    ),
    Exercise(
        "usd_per_million_tokens", "ex-cost", 2, 2, 10,
        "Cost per token is cost per hour divided by tokens per hour. Count only tokens delivered within the promise.",
        ("What does an hour cost? How many tokens does an hour produce?",
         "price / (years × 365 × 24) + watts / 1000 × usd_per_kwh is the cost of an hour.",
         "Divide by tok_s × 3600, multiply by a million."),
        cost,
    ),
)  # fmt: skip
