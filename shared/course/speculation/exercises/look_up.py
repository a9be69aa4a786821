"""The exercise `look_up`: a draft from what followed the last tokens before."""

import random
from collections.abc import Sequence
from typing import Any

from shared.course.exercise import Exercise, Function, Wrong, expect, expect_each


def search(
    first: bool = False,
    shortest: bool = False,
    only: bool = False,
    matched: bool = False,
    shift: int = 0,
    limit: bool = True,
) -> Function:
    """A look-up with these mistakes; without any it is right."""

    def run(tokens: Sequence[int], k: int, longest: int = 3) -> list[int]:
        most = min(longest, len(tokens) - 1)
        lengths = list(range(1, most + 1) if shortest else range(most, 0, -1))
        for n in [longest] if only else lengths:
            starts = range(len(tokens) - n)
            for start in starts if first else reversed(starts):
                if tokens[start : start + n] == tokens[-n:]:
                    begin = start + (0 if matched else n) + shift
                    return list(tokens[max(0, begin) : begin + k if limit else len(tokens)])
        return []

    return run


found = search()


def looking_up(f: Function) -> None:
    inputs: list[tuple[Any, ...]] = [
        ([1, 2, 3, 4, 5, 6, 7, 1, 2, 3], 3, 3),
        ([1, 2, 3, 8, 8, 3, 9, 9, 1, 2, 3], 2, 3),  # the longest match is not the latest
        ([1, 2, 3, 7, 7, 1, 2, 3, 8, 8, 1, 2, 3], 4, 3),  # twice: the later one
        ([5, 3, 6, 6, 4, 3], 3, 3),  # only one token matches
        ([1, 2, 3, 4], 3, 3),
        ([4, 5, 4], 3, 3),  # fewer tokens follow than are asked for
        ([2, 2, 2, 2], 3, 2),
        ([7], 3, 3),
        ([], 3, 3),
        ([1, 2, 1], 0, 3),
        ([8, 1, 2, 9, 3, 2, 5, 1, 2], 2, 1),  # longest: 1
    ]

    def asked(tokens: Sequence[int], k: int, longest: int) -> Any:
        got = f(tokens, k, longest)
        if got is None:
            if found(tokens, k, longest):
                raise Wrong(
                    f"Yours returned nothing for {tokens}, whose last tokens occurred before. Is `return` missing?"
                )
            raise Wrong("Yours returned nothing for a text without an earlier match. Return an empty list.")
        return [int(token) for token in got] if hasattr(got, "__iter__") else got

    asked.__name__ = f.__name__
    if asked([1, 2, 3, 4, 1, 2, 3], 2, 3) == [] and asked([5, 6, 5], 2, 3) == []:
        raise Wrong(
            "Nothing was found, although the last tokens occurred before. If yours compares them with themselves: "
            "search only earlier places. A slice of a list equals only a list."
        )
    expect_each(
        asked,
        inputs,
        found,
        {
            "Among several matches yours takes the first one. The latest is the likeliest to go on in the same way.": (
                search(first=True)
            ),
            "A longer match knows more of the text: try `longest` tokens first, and fewer only if they don't occur.": (
                search(shortest=True)
            ),
            "If the last `longest` tokens don't occur earlier, fewer of them may: try these too.": search(only=True),
            "The draft begins with the matching tokens, which the text has already. Return what follows them.": search(
                matched=True
            ),
            "The draft begins one token too late.": search(shift=1),
            "The draft begins one token too early: its first token is the last of the match.": search(shift=-1),
            "Return at most k tokens.": search(limit=False),
        },
    )  # fmt: skip
    source = random.Random()
    for _ in range(20):
        tokens = [source.randrange(3) for _ in range(source.randrange(2, 14))]
        case = tokens, source.randrange(1, 5), source.randrange(1, 4)
        expect(asked, case, found(*case))


EXERCISE = Exercise(
    "look_up", "ex-look-up", 2, 2, 12,
    "This draft costs no pass at all, and where a text repeats itself it is often right.",
    ("Where did the last tokens occur before? What came behind them then?",
     "for n from `longest` down to 1, for each earlier place from the latest on: compare n tokens.",
     "An earlier place starts at most at len(tokens) - n - 1. Return tokens[start + n : start + n + k]."),
    looking_up,
)  # fmt: skip
