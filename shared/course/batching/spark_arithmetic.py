"""Arithmetic about machines that are not measured here: users that fit into a DGX Spark, and what a second one adds.

Shapes are those of the config.json of Llama-3.1-8B and Llama-3.1-70B. A Spark's figures are quoted.
"""

from collections.abc import Callable, Mapping
from typing import Any

from shared.report.table import Table

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
LLAMA_70B = {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192}
MODELS = {"8B": (LLAMA_8B, 8.03e9), "70B": (LLAMA_70B, 70.6e9)}  # the config, and the number of parameters
CONTEXTS = {4096: "4k", 32768: "32k", 131072: "128k"}

SPARK_GB = 128
RESERVE_GIB = 20  # what owners of a Spark keep free for the system
SPARK_READS_GB_S = 273  # NVIDIA's data sheet
LINK_GB_S = 25  # 200 Gbit/s, NVIDIA's data sheet
SOURCE = (
    f"quoted from NVIDIA's data sheet: {SPARK_READS_GB_S} GB/s of memory bandwidth for each Spark, and a link of "
    f"{8 * LINK_GB_S} Gbit/s"
)


def usable_bytes() -> int:
    """Bytes of one Spark's memory for weights and KV cache."""
    return SPARK_GB * 10**9 - RESERVE_GIB * 2**30


def users_that_fit(kv_bytes_per_token: Callable[..., Any], max_users: Callable[..., Any]) -> Table:
    """Users that fit into one Spark by context length, computed by the student's two functions."""
    rows = []
    for name, (config, parameters) in MODELS.items():
        for precision, size in (("BF16", 2), ("FP8", 1)):
            each = kv_bytes_per_token(config, size)
            fits = (f"{max_users(usable_bytes(), parameters * size, each, tokens):.0f}" for tokens in CONTEXTS)
            rows.append((f"{name} {precision}", f"{each / 1024:.0f} KiB", *fits))
    header = ("weights and cache", "KV cache per token", *(f"users with {text}" for text in CONTEXTS.values()))
    return Table(f"How many users fit into {SPARK_GB} GB, by arithmetic", header, rows)


def decode_step_ms(
    config: Mapping[str, int], weight_gb: float, *, users: int, machines: int, link_latency_us: float
) -> float:
    """Milliseconds of a decode step under tensor parallelism, by arithmetic.

    Each machine reads its share of the weights. In every layer all machines add up their results twice, by a ring
    that sends each part 2 × (machines - 1) / machines times.
    """
    message_gb = users * config["hidden_size"] * 2 / 1e9
    ring_gb = message_gb * 2 * (machines - 1) / machines
    latency_ms = link_latency_us / 1e3 if machines > 1 else 0.0
    sums_ms = 2 * config["num_hidden_layers"] * (latency_ms + 1e3 * ring_gb / LINK_GB_S)
    return 1e3 * weight_gb / machines / SPARK_READS_GB_S + sums_ms


def one_or_two_sparks(link_latency_us: float) -> Table:
    """A decode step on one Spark and on two, in BF16. A model that one can't hold has no time there."""
    rows = []
    for name, (config, parameters) in MODELS.items():
        weight_gb = 2 * parameters / 1e9
        fits = 1e9 * weight_gb < usable_bytes()
        for users in (1, 32):
            one, two = (
                decode_step_ms(config, weight_gb, users=users, machines=machines, link_latency_us=link_latency_us)
                for machines in (1, 2)
            )
            alone = (f"{one:.0f}", f"{one / two:.2f}") if fits else (f"does not fit ({weight_gb:.0f} GB)", "–")
            rows.append((f"{name} BF16", str(users), alone[0], f"{two:.0f}", alone[1]))
    header = ("model", "users", "one Spark, ms a step", "two Sparks, ms a step", "one / two")
    return Table("One Spark or two, by arithmetic (simulated)", header, rows)
