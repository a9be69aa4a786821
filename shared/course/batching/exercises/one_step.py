"""The exercise on the step of shared.course.batching.mini_engine: the student's and the reference's run side by side.

Both engines get the same requests and a cache without a model, in which the token after n is n + 1. After each step
they are compared. The first difference shows which mistake was made.
"""

import random
from collections.abc import Sequence
from typing import Any, cast

from shared.course.batching.exercises.scheduler import admitted, listed, planned, up, victims
from shared.course.batching.mini_engine import MiniEngine, Request, Scheduler
from shared.course.exercise import Exercise, Function, Wrong, short

SPAN = 100  # the tokens of request i begin at SPAN × i, so a row shows whose it is
Rows = dict[int, tuple[list[int], int]]  # request → its new tokens, and how many were in the cache before


class Scripted:
    """A cache without a model. It notes the rows of a step."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks, self.block_size = blocks, block_size
        self.rows: list[Rows] = []  # of each call in this step

    def next_tokens(self, rows: Sequence[tuple[Sequence[int], int, Sequence[int]]]) -> list[int]:
        if any(not len(new) for new, _, _ in rows):
            raise Wrong(
                "A row without a token was passed to next_tokens. plan_step may give a request 0 tokens in this step: "
                "leave that request out of the rows."
            )
        for new, before, table in rows:
            if before + len(new) > len(table) * self.block_size:
                raise Wrong(
                    f"A block table of {len(table)} blocks of {self.block_size} tokens can't hold {before + len(new)} "
                    "tokens: engine.make_room() must come first, so that each running request has room for its newest "
                    "token."
                )
        self.rows.append({new[0] // SPAN: (list(new), before) for new, before, _ in rows})
        return [new[-1] + 1 for new, _, _ in rows]


def give_back(table: list[int], free: list[int]) -> None:
    free.extend(table)
    table.clear()


def right_step(engine: MiniEngine) -> list[Request]:
    engine.make_room()
    engine.admit_waiting()
    plan = engine.scheduler.plan_step([r.pending for r in engine.running], engine.token_budget)
    batch = [(r, count) for r, count in zip(engine.running, plan, strict=True) if count]
    tokens = engine.next_tokens([(r.tokens[r.cached : r.cached + count], r.cached, r.blocks) for r, count in batch])
    served = []
    for (request, count), token in zip(batch, tokens, strict=True):
        request.cached += count
        if not request.pending:
            request.output.append(token)
            served.append(request)
    for request in filter(engine.done, served):
        engine.running.remove(request)
        give_back(request.blocks, engine.free)
    return served


class Side:
    """One of the two engines, with its requests."""

    def __init__(
        self, step: Function, asked: Sequence[tuple[int, int]], blocks: int, running: int, budget: int
    ) -> None:
        scheduler = Scheduler(up, give_back, admitted, planned, victims, step)
        self.cache = Scripted(blocks, 4)
        self.engine = MiniEngine(cast(Any, self.cache), scheduler, max_running=running, token_budget=budget)
        self.requests = [Request(range(SPAN * i, SPAN * i + size), most) for i, (size, most) in enumerate(asked)]

    def step(self, arrived: Sequence[int]) -> Any:
        for i in arrived:
            self.engine.add(self.requests[i])
        self.cache.rows = []
        return self.engine.scheduler.step(self.engine)

    def places(self, requests: Sequence[Any]) -> list[int]:
        if odd := [one for one in requests if one not in self.requests]:
            raise Wrong(f"Return the requests themselves; yours returned {short(odd[0])} among them.")
        return [self.requests.index(one) for one in requests]


def stepping(f: Function) -> None:
    source = random.Random()
    for asked, blocks, running, budget in (
        ([(3, 3)], 8, 2, 8),
        ([(6, 4), (5, 2)], 8, 4, 8),
        ([(4, 1), (4, 1), (4, 1), (4, 3)], 16, 4, 64),
        ([(2, 12), (10, 2), (9, 2)], 16, 4, 4),
        ([(10, 2), (9, 2), (1, 3)], 16, 4, 4),  # a request without a row stands before one with a row
        ([(3, 6), (3, 6), (3, 2)], 3, 3, 16),
        ([(4, 9), (4, 9), (4, 9), (3, 2)], 6, 4, 16),
    ):
        compare(f, asked, blocks, running, budget)
    compare(f, [(3, 5), (2, 2)], 2, 2, 16, late=2)  # arrives when the first one needs the last block
    for _ in range(10):
        asked = [(source.randrange(1, 20), source.randrange(1, 9)) for _ in range(6)]
        blocks, running, budget = source.randrange(8, 20), source.randrange(1, 6), source.randrange(6, 24)
        compare(f, asked, blocks, running, budget, late=source.randrange(1, 6))


def compare(
    f: Function, asked: Sequence[tuple[int, int]], blocks: int, running: int, budget: int, late: int = 0
) -> None:
    """Run both until the reference is idle.

    asked: tokens of prompt and answer of each request. late: the number of steps after which the last of them arrives;
    the others are there from the beginning.
    """
    own, right = (Side(step, asked, blocks, running, budget) for step in (f, right_step))
    everyone = list(range(len(asked)))
    arrivals = {0: everyone[:-1], late: everyone[-1:]} if late else {0: everyone}
    number = 0
    while arrivals or not right.engine.idle:
        arrived, number = arrivals.pop(number, []), number + 1
        if not arrived and right.engine.idle:
            continue
        expected = right.places(right.step(arrived))
        got = own.step(arrived)
        same_rows(own, right)
        same_state(own, right)
        same_return(own, own.places(listed(got, "step(engine)")), expected)


def same_rows(own: Side, right: Side) -> None:
    if len(own.cache.rows) != 1:
        raise Wrong(
            f"engine.next_tokens was called {len(own.cache.rows)} times in one step. Call it once, with the rows of "
            "all requests: then the weights are read once for all of them."
        )
    mine, theirs = own.cache.rows[0], right.cache.rows[0]
    if own.engine.preemptions > right.engine.preemptions:
        raise Wrong(
            "A request was preempted although there were blocks enough. Running requests get their room first, and "
            "waiting ones are admitted from what is left."
        )
    if extra := sorted(mine.keys() - theirs.keys()):
        raise Wrong(f"Request {extra[0]} got a row in this step, but it is not running.")
    for i in sorted(theirs.keys() - mine.keys()):
        if own.requests[i] in own.engine.waiting:
            raise Wrong(
                "A request waits although a seat and enough blocks are free. Call engine.admit_waiting() before you "
                "plan."
            )
        raise Wrong(f"Request {i} is running, and the plan gives it tokens, but it got no row.")
    for i, (new, before) in mine.items():
        if (new, before) != theirs[i]:
            wrong_row(new, before, *theirs[i], own.requests[i])


def wrong_row(new: list[int], before: int, right_new: list[int], right_before: int, request: Request) -> None:
    if new == right_new:
        raise Wrong(
            f"A row's second part is the number of its request's tokens that are in the cache: {right_before} here; "
            f"yours is {before}."
        )
    if right_before and new[0] == request.prompt[0]:
        raise Wrong(
            f"A request has {right_before} tokens in the cache, and yours computes its text again from the beginning. "
            "A row begins with the first token that is not in the cache yet. Does `cached` grow after each step?"
        )
    if len(new) > len(right_new):
        raise Wrong(
            f"A row has {len(new)} tokens, but the plan gives its request {len(right_new)} in this step. The rest of "
            "its prompt goes into later steps."
        )
    raise Wrong(
        f"A row has {len(new)} tokens after {before} in the cache. It should have {len(right_new)} after "
        f"{right_before}."
    )


def same_state(own: Side, right: Side) -> None:
    left = own.engine.running
    finished = [i for i, r in enumerate(right.requests) if r.output and right.engine.done(r)]
    without_row = any(r in left and i not in own.cache.rows[0] for i, r in enumerate(own.requests))
    for mine, theirs in zip(own.requests, right.requests, strict=True):
        both = min(len(mine.output), len(theirs.output))
        if mine.output[:both] != theirs.output[:both] or (without_row and mine.output != theirs.output):
            raise Wrong(
                "A request did not get its own token. next_tokens returns one token for each row, in the order of the "
                "rows, and a request without a row has no token there. So pair the tokens with the rows, not with "
                "engine.running."
            )
        if len(mine.output) > len(theirs.output):
            raise Wrong(
                "A request whose prompt is not finished got a token. The model's token after a chunk is not part of "
                "the answer, because the prompt goes on: look at `pending` after the step."
            )
        if mine.output != theirs.output:
            raise Wrong("A request whose tokens are all computed did not get its next token: append it to `output`.")
        if mine.cached != theirs.cached:
            raise Wrong(
                f"After this step {theirs.cached} tokens of a request are in the cache, but `cached` is {mine.cached}. "
                "Add the number of tokens that the step computed for it."
            )
    staying = [i for i in finished if own.requests[i] in left]
    if staying and len(staying) < len(finished) and any(own.requests[i] not in left for i in new_ones(finished, own)):
        raise Wrong(
            "Of several answers that were complete, only some left engine.running. Does the loop remove elements from "
            "the list that it walks through? That skips every other element."
        )
    if staying:
        raise Wrong("A request whose answer is complete is still in engine.running, and keeps its seat.")
    if len(left) != len(right.engine.running):
        raise Wrong("A request left engine.running before its answer was complete.")
    if len(own.engine.free) < len(right.engine.free):
        raise Wrong(
            "A request left, but its blocks are not free again: return them with engine.scheduler.give_back. Otherwise "
            "the engine runs out of blocks."
        )
    if len(own.engine.free) > len(right.engine.free):
        raise Wrong("More blocks are free than there should be: was a table given back while its request still runs?")


def new_ones(finished: Sequence[int], own: Side) -> list[int]:
    """Those of the finished requests that got a token in this step."""
    return [i for i in finished if i in own.cache.rows[0]]


def same_return(own: Side, got: Sequence[int], expected: Sequence[int]) -> None:
    if any(not own.engine.done(own.requests[i]) for i in set(expected) - set(got)):
        raise Wrong(
            "Return every request that got a token in this step, not only those whose answer is complete: each of "
            "these tokens is sent to its user."
        )
    if sorted(got) != sorted(expected):
        raise Wrong(
            "Return the requests that got a token in this step. A request whose prompt is not finished got none, and "
            "one whose answer is now complete did."
        )


EXERCISES = (
    Exercise(
        "step", "ex-step", 3, 3, 15,
        "Before every step the batch is chosen anew, so no request waits for another one to end.",
        ("In which order: make room, admit, plan, compute, hand out the tokens, let complete requests leave?",
         "A row is (r.tokens[r.cached : r.cached + n], r.cached, r.blocks) for each request whose n is not 0.",
         "After the model: r.cached += n. Where r.pending is then 0, append the token. Remove complete requests in a "
         "loop of its own."),
        stepping,
    ),
)  # fmt: skip
