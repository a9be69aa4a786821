"""How long each lab keeps a DGX Spark busy: predicted, not verified on hardware.

minutes("3.3.2")     # download + start-ups + measuring, each worked out from the assumptions below

What reading and exercises take is not in it: that is what the outline's hours leave.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.catalogue import LLAMA_8B, Source

# Lab by lab in the published outline: module 3.3 of the public DGX Spark AI curriculum (Trosfy on GitHub), in its
# version with these six labs, read 2026-11-24. They make 14 hours; its headline says 10-12.
OUTLINE_HOURS: Mapping[str, float] = {"3.3.1": 3, "3.3.2": 2, "3.3.3": 3, "3.3.4": 2, "3.3.5": 2, "3.3.6": 2}
OUTLINE_HEADLINE_HOURS = (10, 12)

# What a lab loads, by the keys of a model's sources and drafts. One model for all labs, so that a later lab
# fetches only what no earlier one had.
LOADS: Mapping[str, tuple[str, ...]] = {
    "3.3.1": ("hf BF16", "gguf BF16"),
    "3.3.2": ("hf BF16",),
    "3.3.3": ("hf BF16", "hf NVFP4"),
    "3.3.4": ("hf BF16", "gguf BF16", "sglang EAGLE-3", "vllm EAGLE-3", "llamacpp draft model"),
    "3.3.5": ("hf BF16",),
    "3.3.6": ("gguf BF16",),
}

# Assumptions, the author's unless a source is named.
DOWNLOAD_MB_S = 50  # a line of 400 Mbit/s
IMAGE_GB = {"vllm": 15, "sglang": 15, "trtllm": 15, "llamacpp": 4, "ollama": 4}  # SGLang's for amd64: 14.1 GiB
UNKNOWN_GB = 1  # an EAGLE-3 head or draft whose size was not found; a disk listing shows one of 0.8 GB
START_S = {"vllm": 180, "sglang": 180, "trtllm": 180, "llamacpp": 60, "ollama": 60}  # loading, compiling kernels
READ_GB_S = 231  # measured by an owner, of 273 in the data sheet
ROUNDS = 5  # of each measurement


@dataclass(frozen=True)
class Plan:
    """What a lab does on the machine. A decode step hands each user one token and takes as long for 1 as for 16."""

    starts: Mapping[str, int]  # engine → how often it is started
    steps: int  # decode steps in one round, over all engines and loads
    why: str  # where `steps` comes from


PLANS: Mapping[str, Plan] = {
    "3.3.1": Plan(
        dict.fromkeys(IMAGE_GB, 1),
        5 * (4 + 2 + 2) * 64,
        "5 engines; 4 requests in turn, then 2 waves of 4 and 2 of 16 users; 64 tokens each",
    ),
    "3.3.2": Plan({"vllm": 6}, 6 * 5 * 2 * 128, "6 settings; 1, 4, 8, 16, 32 users; 2 waves of 128 tokens"),
    "3.3.3": Plan({"trtllm": 4, "vllm": 1}, 5 * 6 * 4 * 16, "5 settings; 6 prompt lengths; 4 prompts; 16 tokens"),
    "3.3.4": Plan(
        {"sglang": 4, "vllm": 4, "llamacpp": 4}, 12 * 3 * 2 * 128, "12 settings; 1, 4, 16 users; 2 waves of 128 tokens"
    ),
    "3.3.5": Plan({"vllm": 3}, 3 * 4 * 2 * 128, "3 gateways or faults; 1, 8, 32, 64 users; 2 waves of 128 tokens"),
    "3.3.6": Plan({"ollama": 3}, 20 * 200, "a conversation of 20 turns, 200 tokens each"),
}


def step_s() -> float:
    """One decode step with BF16 weights: every weight but the embedding's table read once; 65 ms."""
    return (LLAMA_8B.parameters - LLAMA_8B.lookup) * 2 / (READ_GB_S * 1e9)


def download_gb(lab: str) -> float:
    """Weights and images that no earlier lab fetched."""
    labs = list(PLANS)
    earlier = labs[: labs.index(lab)]
    had = {key for other in earlier for key in LOADS[other]}
    pulled = {engine for other in earlier for engine in PLANS[other].starts}
    there: Mapping[str, Source] = {**LLAMA_8B.sources, **LLAMA_8B.drafts}
    weights = sum((there[key].bytes or UNKNOWN_GB * 1e9) / 1e9 for key in LOADS[lab] if key not in had)
    return weights + sum(IMAGE_GB[engine] for engine in PLANS[lab].starts if engine not in pulled)


def parts(lab: str) -> dict[str, float]:
    """Minutes of downloading, of starting engines, of measuring."""
    plan = PLANS[lab]
    return {
        "download": download_gb(lab) * 1000 / DOWNLOAD_MB_S / 60,
        "starts": sum(START_S[engine] * times for engine, times in plan.starts.items()) / 60,
        "measuring": ROUNDS * plan.steps * step_s() / 60,
    }


def minutes(lab: str) -> float:
    """Predicted minutes of the machine, for the first run of the labs in their order."""
    return sum(parts(lab).values())


LAB_MINUTES: Mapping[str, int] = {lab: round(minutes(lab)) for lab in PLANS}  # predicted, not verified on hardware
