"""Arithmetic about a machine that is not measured here: how many users fit into a DGX Spark.

Shapes are those of the config.json of Llama-3.1-8B and Llama-3.1-70B. A Spark's figures are quoted.
"""

from collections.abc import Callable
from typing import Any

from shared.launch.memory import SPARK_RESERVE_GIB
from shared.report.table import Table

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}
LLAMA_70B = {"num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "hidden_size": 8192}
MODELS = {"8B": (LLAMA_8B, 8.03e9), "70B": (LLAMA_70B, 70.6e9)}  # the config, and the number of parameters
CONTEXTS = {4096: "4k", 32768: "32k", 131072: "128k"}

SPARK_GB = 128
SPARK_READS_GB_S = 273  # NVIDIA's data sheet
LINK_GB_S = 25  # 200 Gbit/s, NVIDIA's data sheet


def usable_bytes() -> int:
    """Bytes of one Spark's memory for weights and KV cache."""
    return SPARK_GB * 10**9 - int(SPARK_RESERVE_GIB * 2**30)


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
