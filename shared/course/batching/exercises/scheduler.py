"""The scheduler of an engine that then runs (shared.course.batching.mini_engine), in five functions.

A test makes up cases, knows what each common mistake would do in them, and answers with the hint for that mistake.
"""

import random
from collections.abc import Sequence
from typing import Any

from shared.course.exercise import Exercise, Function, Wrong, expect, short


def up(tokens: int, size: int) -> int:
    return -(-tokens // size)


def needed(f: Function) -> None:
    source = random.Random()
    for _ in range(4):
        size = source.choice((8, 16, 32))
        whole = source.randrange(40, 60)
        tokens = whole * size + source.randrange(1, size)
        expect(
            f,
            (tokens, size),
            whole + 1,
            {
                "The last block is rarely full, and it is needed all the same: round up.": whole,
                "A block holds several tokens: divide.": tokens * size,
                "That is one block too many: the last one is only partly filled already.": whole + 2,
                "Half a block can't be owned: the number is whole, rounded up.": tokens / size,
                "That is the blocks' room in tokens. How many blocks are it?": (whole + 1) * size,
                "That is how far the last block is filled.": tokens % size,
            },
        )
        expect(
            f,
            (whole * size, size),
            whole,
            {
                "A length that fills its blocks exactly needs no further one.": whole + 1,
            },
        )
    expect(f, (0, 16), 0, {"No token needs no block.": 1})


def returned(f: Function) -> None:
    free, table = [4, 9], [7, 2, 5]
    got = f(table, free)
    if any(isinstance(block, list) for block in free):
        raise Wrong("append puts the whole table into `free` as one element. extend adds its blocks.")
    if sorted(free) == [4, 9]:
        if isinstance(got, list):
            raise Wrong(
                "The engine keeps using the list `free` itself: change it in place (extend), don't make a new one."
            )
        raise Wrong("The blocks did not come back: after the call `free` must hold them too.")
    if len(free) != len(set(free)):
        raise Wrong("A block is in `free` twice: two requests would write over each other's keys and values.")
    if table and sorted(free) == [2, 4, 5, 7, 9]:
        raise Wrong(
            "The table still names blocks that are free now. If it is given back again, each is free twice: "
            "empty it (clear)."
        )
    if 4 not in free or 9 not in free:
        raise Wrong("Blocks that were free before are gone: add to `free`, don't replace what is in it.")
    if sorted(free) != [2, 4, 5, 7, 9] or table:
        raise Wrong(
            f"From table [7, 2, 5] and free [4, 9] came table {table} and free {free}. (Removing from a list "
            "while walking through it skips every other element.)"
        )
    f(table, free)
    if sorted(free) != [2, 4, 5, 7, 9]:
        raise Wrong("Given back a second time, an empty table must change nothing.")


def admitted(lengths: Sequence[int], free: int, seats: int, size: int) -> int:
    count = 0
    for length in lengths[:seats]:
        free -= up(length, size)
        if free < 0:
            break
        count += 1
    return count


def admission(f: Function) -> None:
    size = 16
    cases: tuple[tuple[tuple[list[int], int, int, int], dict[str, Any]], ...] = (
        (([40, 40, 120, 40], 7, 8, size), {
            "The third request would take more blocks than are free.": 4,
            "Each admitted request takes its blocks: what the first ones took is no longer free for the next.": 3,
            "Return how many are admitted, not which.": [0, 1],
            "The first two fit: whoever doesn't must not keep out those before it.": 0,
        }),
        (([33, 33], 5, 8, size), {
            "33 tokens need three blocks: round up. Rounded down, a request gets too few and writes past its end.": 2,
        }),
        (([20, 20, 20, 20, 20], 50, 2, size), {
            "There are more blocks than that, but only so many seats: the batch has a largest size.": 5,
            "`seats` are those still free: admit up to that many.": 1,
        }),
        (([16, 160, 16, 16], 4, 8, size), {
            "The second doesn't fit, so nobody behind it may pass: whoever needs much would wait for ever "
            "(starvation). Stop at the first that doesn't fit.": 3,
            "The first fits: one big request must not keep out those before it.": 0,
        }),
        (([16, 16], 2, 8, size), {
            "Two blocks are free and two are needed: that fits exactly.": 1,
        }),
        (([32], 1, 4, size), {
            "It needs two blocks and one is free. Without blocks nobody is admitted, not even into an empty engine.": 1,
        }),
        (([], 9, 4, size), {"Nobody waits: 0.": None}),
    )  # fmt: skip
    for arguments, mistakes in cases:
        expect(f, arguments, admitted(*arguments), mistakes)
    source = random.Random()
    for _ in range(20):
        lengths = [source.randrange(1, 200) for _ in range(source.randrange(1, 9))]
        random_case = lengths, source.randrange(0, 40), source.randrange(0, 9), size
        expect(f, random_case, admitted(*random_case))


def listed(got: object, case: str) -> list[Any]:
    if got is None:
        raise Wrong(f"{case}: yours returned nothing. Is `return` missing? If nobody is meant, return an empty list.")
    try:
        return list(got)  # type: ignore[call-overload, no-any-return]
    except TypeError:
        raise Wrong(f"{case}: return a list; yours returned {short(got)}.") from None


def planned(pending: Sequence[int], budget: int) -> list[int]:
    plan = [int(p == 1) for p in pending]
    left = budget - sum(plan)
    for i, p in enumerate(pending):
        if p > 1:
            plan[i] = min(p, left)
            left -= plan[i]
    return plan


def planning(f: Function) -> None:
    def fails(pending: list[int], budget: int) -> None:
        plan = listed(f(list(pending), budget), f"plan_step({pending}, {budget})")
        if len(plan) != len(pending):
            raise Wrong(f"One number for each running request: {len(pending)} of them, yours gave {len(plan)}.")
        if any(got > asked for got, asked in zip(plan, pending, strict=True)):
            raise Wrong(f"No request can be given more tokens than it has pending: of {pending} you planned {plan}.")
        if any(got < 0 for got in plan):
            raise Wrong(
                f"Nobody can be given fewer than no tokens, and you planned {plan}: is the rest of the budget "
                "ever below 0?"
            )
        if any(asked == 1 and not got for got, asked in zip(plan, pending, strict=True)):
            raise Wrong(
                "A request that decodes got no token because of a prompt: every stream would stop until the "
                "prompt is done. First one token for each that has 1 pending, then prompts."
            )
        if sum(plan) > budget:
            raise Wrong(
                f"The step has {sum(plan)} tokens and its budget is {budget}: the decoding ones count too. "
                "A longer prompt goes in chunks, over several steps."
            )
        if sum(plan) < min(budget, sum(pending)):
            raise Wrong(
                f"Only {sum(plan)} of {budget} tokens are used though {sum(pending)} are pending: a prompt "
                "that doesn't fit whole gets the rest of the budget as a chunk."
            )
        if plan != planned(pending, budget):
            raise Wrong(
                f"Of {pending} within {budget} tokens you planned {plan}. Prompts get the rest in their order: "
                "the first as much as it can use, then the next. Shared out evenly, or the last first, the "
                "oldest would wait longer for its first token."
            )

    for pending, budget in (
        ([1, 1, 1], 8),
        ([200, 1, 1], 64),
        ([1, 300, 1, 200], 128),
        ([50, 30, 1], 256),
        ([40, 40, 40], 64),
        ([], 32),
        ([1, 90, 90], 33),
        ([500], 64),
    ):
        fails(pending, budget)
    source = random.Random()
    for _ in range(20):
        fails(
            [source.choice((1, 1, source.randrange(2, 300))) for _ in range(source.randrange(1, 12))],
            source.randrange(12, 256),
        )


def victims(held: Sequence[int], wants: Sequence[int], free: int) -> list[int]:
    out, last = [], len(held) - 1
    while sum(wants[: last + 1]) > free:
        free += held[last]
        out.append(last)
        last -= 1
    return out


def choosing(f: Function) -> None:
    def one(held: list[int], wants: list[int], free: int) -> None:
        right = victims(held, wants, free)
        case = f"Held {held}, wanted {wants}, {free} free"
        got = listed(f(list(held), list(wants), free), case)
        if len(set(got)) != len(got) or any(not 0 <= place < len(held) for place in got):
            raise Wrong(f"{case}: {got} are not places in the list of running requests, each once.")
        if sorted(got) == sorted(right):
            return
        if got and not right:
            raise Wrong(
                f"{case}: all that is wanted is free, so nobody has to go. Work that is thrown away must be done again."
            )
        stay = [place for place in range(len(held)) if place not in got]
        short_of = sum(wants[i] for i in stay) - free - sum(held[i] for i in got)
        if short_of > 0:
            raise Wrong(
                f"{case}: after {got} are gone, {short_of} blocks are still missing. The engine can't run the step."
            )
        if set(got) > set(right):
            raise Wrong(
                f"{case}: {got} are more than must go. Besides what it holds, whoever goes no longer wants "
                "anything in this step: count again after each."
            )
        if 0 in got:
            raise Wrong(
                f"{case}: {got} sends the oldest away. If the oldest can be evicted again and again, it may "
                "never end: take the youngest, at the end of the list."
            )
        raise Wrong(
            f"{case}: the youngest, {sorted(right)}, should go and not {sorted(got)}, even where another holds "
            "more: least work is lost, and the order of arrival is kept."
        )

    for held, wants, free in (
        ([3, 3], [1, 1], 2),
        ([3, 3, 3], [0, 1, 0], 2),
        ([3, 3, 3], [1, 1, 1], 2),
        ([3, 3, 3], [1, 1, 0], 0),
        ([9, 1, 1, 1], [1, 1, 1, 1], 0),
        ([4, 8, 2], [1, 1, 0], 0),
        ([1, 1, 1, 1], [1, 0, 1, 1], 1),
        ([5, 5], [0, 0], 0),
        ([], [], 3),
        ([2, 7, 2], [1, 0, 0], 0),
        ([6, 1, 1, 1], [3, 0, 0, 0], 0),
    ):
        one(held, wants, free)
    source = random.Random()
    for _ in range(20):
        count = source.randrange(1, 8)
        held, wants = [source.randrange(1, 9) for _ in range(count)], [source.randrange(2) for _ in range(count)]
        one(held, wants, max(source.randrange(-2, 6), 0) if count > 1 else 1)


EXERCISES = (
    Exercise(
        "blocks_needed", "ex-blocks-needed", 1, 3, 3,
        "Memory in blocks wastes at most one block less a token for each request, whatever its length.",
        ("How many blocks are full, and is there a rest?", "-(-tokens // block_size) rounds up."),
        needed,
    ),
    Exercise(
        "give_back", "ex-give-back", 1, 3, 5,
        "A block that is free twice goes to two requests, and each reads the other's conversation.",
        ("Two things change: `free` and `table`.", "free.extend(table), then table.clear()."),
        returned,
    ),
    Exercise(
        "admit", "ex-admit", 2, 3, 10,
        "First come, first served costs a little room and promises that everybody's turn comes.",
        ("Go through the queue in order. What does each request take away from those behind it?",
         "Three reasons to stop: no seat, too few blocks, nobody left.",
         "for length in lengths[:seats]: need = blocks, rounded up; if need > free_blocks: break; subtract, count."),
        admission,
    ),
    Exercise(
        "plan_step", "ex-plan-step", 3, 3, 15,
        "That is chunked prefill: no stream stops because somebody else has sent a book.",
        ("Who must get a token in every step, whatever else happens?",
         "Give 1 to each with one pending, subtract them from the budget, then serve prompts in order.",
         "For a prompt: min(pending, what is left of the budget)."),
        planning,
    ),
    Exercise(
        "choose_victims", "ex-choose-victims", 3, 2, 15,
        "Evicting the youngest loses the least work, and the oldest always gets on: so everything ends.",
        ("Who has the least to lose, and who would never end if it were sent away each time?",
         "Take the last one, then look again: what is free now, and what do the others still want?",
         "while sum(wants[:last + 1]) > free: free += held[last]; note last; last -= 1."),
        choosing,
    ),
)  # fmt: skip
