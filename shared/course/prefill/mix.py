"""The lab's open task: engines for a mix of prompts, and what the mix costs on them.

A mix is a list of prompt lengths. Static engines take a prompt of their own length or a shorter one with padding; an
engine for any length takes every prompt as it is.
"""

import random
from collections.abc import Mapping, Sequence

from shared.course.prefill.curve import Runner, random_ids
from shared.errors import LabError

ANY = 0  # the key of an engine for prompts of any length
ROUNDS = 5  # of a mix, at both sizes: a round of three engines takes seconds

# Lengths in tokens, about a sixteenth of those of the workloads (choose.py): made up, not measured at anyone's server.
MIXES = {
    "chat": (24, 31, 36, 38, 42, 47, 55, 61, 64, 80, 96, 128),
    "summaries": (150, 168, 180, 204, 222, 256),
    "rag": (440, 470, 496, 512),
}


def key(name: str, recipes: Sequence[object]) -> str:
    """The ledger's key of a mix on the engines of these recipes, so that each try stays."""
    return f"mix/{name}/{'.'.join(map(str, recipes))}"


def place(tokens: int, engines: Mapping[int, Runner]) -> int:
    """The engine that takes this prompt: the shortest that holds it, else the one for any length.

    Raises LabError if none takes it.
    """
    fitting = [length for length in engines if length >= tokens]
    if fitting:
        return min(fitting)
    if ANY in engines:
        return ANY
    raise LabError(
        f"No engine takes a prompt of {tokens} tokens: the lengths are {', '.join(map(str, sorted(engines)))}.",
        "build one for the longest prompt, or one for any length",
    )


def padded_share(lengths: Sequence[int], engines: Mapping[int, Runner]) -> float:
    """The share of computed tokens that is padding."""
    computed = sum(place(n, engines) or n for n in lengths)
    return 1 - sum(lengths) / computed


def rounds_ms(
    lengths: Sequence[int], ways: Mapping[str, Mapping[int, Runner]], rounds: int, vocabulary: int, seed: int = 0
) -> dict[str, list[float]]:
    """Milliseconds of a whole mix, one prompt after another, by way and round; the ways take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for engines in ways.values():
        for n in set(lengths):
            engines[place(n, engines)](random_ids(n, vocabulary, seed))
    draw = random.Random(seed)
    for number in range(rounds):
        order = list(ways)
        draw.shuffle(order)
        for name in order:
            took_s = 0.0
            for n in lengths:
                ids = random_ids(n, vocabulary, seed + 1 + number)
                took_s += ways[name][place(n, ways[name])].time_s(ids)[0]
            found[name].append(round(took_s * 1e3, 3))
    return found
