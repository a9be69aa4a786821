"""The lab's open task: engines for a mix of prompts, and what the mix costs on them.

A mix is a list of prompt lengths. Static engines take a prompt of their own length or a shorter one with padding; an
engine for any length takes every prompt as it is.
"""

import random
from collections.abc import Mapping, Sequence

from shared.course.prefill.ahead_of_time.build import Recipe
from shared.course.prefill.curve import Runner, random_ids
from shared.errors import LabError

ANY = 0  # the key of an engine for prompts of any length
ROUNDS = {"quick": 3, "full": 5}  # of a mix

# Lengths in tokens, about a sixteenth of those of the workloads (choose.py): made up, not measured at anyone's server.
MIXES = {
    "chat": (24, 31, 36, 38, 42, 47, 55, 61, 64, 80, 96, 128),
    "summaries": (150, 168, 180, 204, 222, 256),
    "rag": (440, 470, 496, 512),
}


def key(name: str, recipes: Sequence[Recipe]) -> str:
    """The ledger's key of a mix on the engines of these recipes, so that each try stays.

    Raises LabError for a mix that isn't there, and for recipes of which some prompt would have no engine or two.
    """
    if name not in MIXES:
        raise LabError(f"There is no mix {name!r}.", f"choose one of {', '.join(map(repr, MIXES))}")
    if not isinstance(recipes, list | tuple) or not all(isinstance(one, Recipe) for one in recipes):
        raise LabError(f"{recipes!r} is no list of recipes.", "wanted = [kit.recipe(compiler, 128)]")
    lengths = [one.length or ANY for one in recipes]
    if twice := [str(one) for one in recipes if lengths.count(one.length or ANY) > 1]:
        raise LabError(f"These engines are for the same length: {', '.join(twice)}.", "keep one engine of each length")
    place(max(MIXES[name]), dict.fromkeys(lengths))
    return f"mix/{name}/{'.'.join(map(str, recipes))}"


def place(tokens: int, engines: Mapping[int, object]) -> int:
    """The engine that takes this prompt: the shortest that holds it, else the one for any length.

    Raises LabError if none takes it.
    """
    fitting = [length for length in engines if length >= tokens]
    if fitting:
        return min(fitting)
    if ANY in engines:
        return ANY
    there = f"the lengths are {', '.join(map(str, sorted(engines)))}" if engines else "there is none"
    raise LabError(
        f"No engine takes a prompt of {tokens} tokens: {there}.",
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
