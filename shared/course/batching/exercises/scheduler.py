"""Exercises on the scheduler of shared.course.batching.mini_engine: five functions.

Each test makes up cases, computes what each common mistake would return, and answers with the hint for that mistake.
"""

import random
from collections.abc import Sequence
from typing import Any

from shared.course.exercise import Exercise, Function, Wrong, expect, short, whole_numbers


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
                "The last block is rarely full, but it is needed: round up.": whole,
                "A block holds several tokens: divide by block_size.": tokens * size,
                "That is one block too many: the partly filled last block is already counted.": whole + 2,
                "A request owns whole blocks: round up to a whole number.": tokens / size,
                "That is the number of tokens that the blocks hold. How many blocks are there?": (whole + 1) * size,
                "That is the number of tokens in the last block.": tokens % size,
            },
        )
        exact = {"A length that fills its blocks exactly needs no further block.": whole + 1}
        expect(f, (whole * size, size), whole, exact)
    expect(f, (0, 16), 0, {"0 tokens need 0 blocks.": 1})


def returned(f: Function) -> None:
    free, table = [4, 9], [7, 2, 5]
    got = f(table, free)
    if any(isinstance(block, list) for block in free):
        raise Wrong("append puts the whole table into `free` as one element. extend adds its blocks.")
    if sorted(free) == [4, 9]:
        if isinstance(got, list):
            raise Wrong("The engine keeps using the list `free`: change it in place (extend), don't make a new list.")
        raise Wrong("The blocks did not come back: after the call `free` must contain them.")
    if len(free) != len(set(free)):
        raise Wrong("A block is in `free` twice: two requests would write over each other's keys and values.")
    if table and sorted(free) == [2, 4, 5, 7, 9]:
        raise Wrong(
            "The table still lists blocks that are free now. Given back a second time, each would be free twice: "
            "empty the table (clear)."
        )
    if 4 not in free or 9 not in free:
        raise Wrong("Blocks that were free before are gone: add to `free`, don't replace its contents.")
    if sorted(free) != [2, 4, 5, 7, 9] or table:
        raise Wrong(
            f"With table [7, 2, 5] and free [4, 9], the result is table {table} and free {free}. Does the loop remove "
            "elements from the list that it walks through? That skips every other element."
        )
    f(table, free)
    if sorted(free) != [2, 4, 5, 7, 9]:
        raise Wrong("Giving back an empty table must change nothing.")


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
            "All of them together need more blocks than are free: stop at the first that doesn't fit.": 4,
            "Each admitted request takes its blocks, which are then no longer free for the next request.": 3,
            "Return how many requests are admitted, not which.": [0, 1],
            "The first two fit: admit them. Stop only when you reach the request that doesn't fit.": 0,
        }),
        (([48, 48, 48], 7, 8, size), {
            "Each admitted request takes its blocks, which are then no longer free for the next request.": 3,
        }),
        (([33, 33], 5, 8, size), {
            "33 tokens need three blocks: round up, for each request by itself. Rounded down, a request writes beyond "
            "its last block.": 2,
        }),
        (([20, 20, 20, 20, 20], 50, 2, size), {
            "There are enough blocks, but not enough seats: admit at most `seats` requests.": 5,
            "`seats` is the number of free seats: admit up to that many requests.": 1,
        }),
        (([16, 160, 16, 16], 4, 8, size), {
            "The second request doesn't fit, so no later one may pass it: otherwise a long request might wait "
            "for ever (starvation). Stop at the first that doesn't fit.": 3,
            "The first fits: admit it. Stop only when you reach the request that doesn't fit.": 0,
        }),
        (([16, 16], 2, 8, size), {
            "Two blocks are free and two are needed: that fits exactly.": 1,
        }),
        (([32], 1, 4, size), {
            "The request needs two blocks and one is free: without enough blocks no request is admitted, even if it is "
            "the first.": 1,
        }),
        (([], 9, 4, size), {"No request waits: return 0.": None}),
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
        raise Wrong(f"{case}: yours returned nothing. Is `return` missing? For no request, return an empty list.")
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
            raise Wrong(
                f"Return one number for each of the {len(pending)} running requests; yours returned {len(plan)}."
            )
        if any(got > asked for got, asked in zip(plan, pending, strict=True)):
            raise Wrong(f"A request can't get more tokens than it has pending: for {pending} yours planned {plan}.")
        if any(got < 0 for got in plan):
            raise Wrong(
                f"A request can't get fewer than 0 tokens; yours planned {plan}. Does the remaining budget "
                "fall below 0?"
            )
        if any(asked == 1 and not got for got, asked in zip(plan, pending, strict=True)):
            raise Wrong(
                "A request that decodes got no token because of a prompt: every stream would stop until the "
                "prompt is done. Give one token to each request with 1 pending first, then serve prompts."
            )
        if sum(plan) > budget:
            raise Wrong(
                f"The plan has {sum(plan)} tokens and its budget is {budget}. Decoding requests count too, and a "
                "longer prompt goes in chunks over several steps."
            )
        if sum(plan) < min(budget, sum(pending)):
            raise Wrong(
                f"Only {sum(plan)} of {budget} tokens are used, but {sum(pending)} are pending: a prompt "
                "that doesn't fit whole gets the remaining budget as a chunk."
            )
        if plan != planned(pending, budget):
            raise Wrong(
                f"For {pending} and a budget of {budget}, yours planned {plan}. The remaining budget goes to prompts, "
                "oldest first: the oldest gets as much as it can use, then the next. Otherwise the oldest prompt would "
                "wait longer for its first token."
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
        case = f"With held={held}, wants={wants} and free={free}"
        got = listed(f(list(held), list(wants), free), case)
        if len(set(got)) != len(got) or any(not 0 <= place < len(held) for place in got):
            raise Wrong(
                f"{case}: yours returned {got}. Return places in the list of running requests, each at most once."
            )
        if sorted(got) == sorted(right):
            return
        if got and not right:
            raise Wrong(f"{case}: enough blocks are free: no request has to be preempted. Preemption repeats work.")
        stay = [place for place in range(len(held)) if place not in got]
        short_of = sum(wants[i] for i in stay) - free - sum(held[i] for i in got)
        if short_of > 0:
            raise Wrong(
                f"{case}: without the requests {got}, {short_of} blocks are still missing, and the step can't run."
            )
        if set(got) > set(right):
            raise Wrong(
                f"{case}: preempting {got} frees more than is needed. A preempted request frees its blocks and also "
                "wants nothing in this step: count again after each."
            )
        if 0 in got:
            raise Wrong(
                f"{case}: {got} preempts the oldest request. If that happens again and again, it may never finish. "
                "Take the youngest, at the end of the list."
            )
        raise Wrong(
            f"{case}: preempt the youngest, {sorted(right)}, instead of {sorted(got)}, even if another holds more "
            "blocks. This keeps the order of arrival."
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
        "With blocks, each request wastes less than one block of memory, whatever its length.",
        ("How many blocks are full, and is there a remainder?", "-(-tokens // block_size) rounds up."),
        lambda f: needed(whole_numbers(f)),
    ),
    Exercise(
        "give_back", "ex-give-back", 1, 3, 5,
        "If a block were free twice, two requests would own it and read each other's conversation.",
        ("Two lists change: `free` and `table`.", "free.extend(table), then table.clear()."),
        returned,
    ),
    Exercise(
        "admit", "ex-admit", 2, 3, 10,
        "First come, first served leaves some room unused, but every request gets its turn.",
        ("Go through the queue in order. What does each request take from those behind it?",
         "There are three reasons to stop: no seat, too few blocks, an empty queue.",
         "for length in lengths[:seats]: need = blocks, rounded up; if need > free_blocks: break; subtract, count."),
        lambda f: admission(whole_numbers(f)),
    ),
    Exercise(
        "plan_step", "ex-plan-step", 3, 3, 15,
        "This is chunked prefill: no stream stops because another request has a long prompt.",
        ("Which requests must get a token in every step?",
         "Give 1 to each request with 1 pending, subtract that from the budget, then serve prompts in order.",
         "For a prompt: min(pending, what is left of the budget)."),
        planning,
    ),
    Exercise(
        "choose_victims", "ex-choose-victims", 3, 2, 15,
        "Preempting the youngest lets the oldest request always continue, so every request ends.",
        ("Which request has the least to lose? Which one would never end if it were preempted again and again?",
         "Take the last one, then count again: what is free now, and what do the others still want?",
         "while sum(wants[:last + 1]) > free: free += held[last]; note last; last -= 1."),
        choosing,
    ),
)  # fmt: skip
