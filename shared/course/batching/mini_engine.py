"""A small serving engine with continuous batching: two queues, a pool of blocks, and a loop of steps.

A request waits, then runs, then is finished. While it runs it owns blocks of the KV cache. Each step

    1. makes room: every running request needs a slot for its newest token. If there are too few blocks, the youngest
       requests give theirs back and wait again (preemption by recompute: their text stays, and their keys and values
       are computed again later),
    2. admits waiting requests, in their order, while there are seats and blocks,
    3. plans: one token for each request that decodes, and the rest of the step's token budget for prompts,
    4. runs the model once over all of these tokens (shared.course.batching.paged_kv), and appends the new tokens.

No step waits for a request to end: that is continuous batching. In lab 3.3.2 students write the six functions of
`Scheduler`, the step among them. The engine calls them, and audits its blocks whenever it is idle.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import LabError

if TYPE_CHECKING:  # the check of the step exercise runs this engine without a model, and so without torch
    from shared.course.batching.paged_kv import PagedKV, Row


@dataclass(eq=False)
class Request:
    """One request with its progress."""

    prompt: Sequence[int]
    max_tokens: int
    output: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)  # its block table
    cached: int = 0  # how many of its tokens have keys and values in the cache
    preemptions: int = 0

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.output]

    @property
    def pending(self) -> int:
        """How many tokens must be computed before the next one is known: 1 while it decodes."""
        return len(self.prompt) + len(self.output) - self.cached


@dataclass(frozen=True)
class Scheduler:
    """The functions that decide. Each is an exercise of lab 3.3.2; its docstring there defines what it returns."""

    blocks_needed: Callable[[int, int], int]
    give_back: Callable[[list[int], list[int]], None]
    admit: Callable[[Sequence[int], int, int, int], int]
    plan_step: Callable[[Sequence[int], int], Sequence[int]]
    choose_victims: Callable[[Sequence[int], Sequence[int], int], Sequence[int]]
    step: Callable[["MiniEngine"], list[Request]]


class MiniEngine:
    """The engine. `add` requests, then call `step` until it is `idle`."""

    def __init__(
        self,
        kv: "PagedKV",
        scheduler: Scheduler,
        *,
        max_running: int = 32,
        token_budget: int = 256,
        static: bool = False,
        stop: Sequence[int] = (),
    ) -> None:
        """max_running: the most requests that run at once. token_budget: the most tokens of a step.

        static: admit no request while another runs, as engines did before continuous batching. stop: tokens that end
        an answer. Raises LabError if the budget can't give a token to each running request.
        """
        if token_budget < max_running:
            raise LabError(
                f"A step of {token_budget} tokens can't serve {max_running} requests.",
                f"set token_budget to {max_running} or more",
            )
        self.kv, self.scheduler, self.static, self.stop = kv, scheduler, static, frozenset(stop)
        self.max_running, self.token_budget = max_running, token_budget
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # in the order of their admission
        self.free = list(range(kv.blocks))
        self.preemptions = self.steps = self.computed = 0

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue. Raises LabError if it would not fit even if it ran alone."""
        most = self.scheduler.blocks_needed(len(request.prompt) + request.max_tokens, self.kv.block_size)
        if most > self.kv.blocks:
            raise LabError(
                f"A request needs up to {most} blocks, and the cache has {self.kv.blocks}.",
                "create PagedKV with more blocks, or ask for fewer tokens",
            )
        self.waiting.append(request)

    def step(self) -> list[Request]:
        """Run the model once. Returns the requests that got a token, including those that it finished."""
        served = self.scheduler.step(self)
        if self.idle:
            self.audit()
        return served

    def next_tokens(self, rows: Iterable["Row"]) -> list[int]:
        """Compute the rows, and return for each the most likely token after its last one."""
        rows = list(rows)  # they are read twice, and a student may pass a generator
        self.steps, self.computed = self.steps + 1, self.computed + sum(len(new) for new, _, _ in rows)
        return self.kv.next_tokens(rows)

    def done(self, request: Request) -> bool:
        """Whether its answer is complete, because of its length or of a stop token."""
        return len(request.output) >= request.max_tokens or not self.stop.isdisjoint(request.output[-1:])

    def audit(self) -> None:
        """Raise LabError unless each block of the pool is either free or owned by one request."""
        held = sorted([*self.free, *(block for r in self.running for block in r.blocks)])
        if held != list(range(self.kv.blocks)):
            lost, twice = set(range(self.kv.blocks)) - set(held), len(held) - len(set(held))
            raise LabError(
                f"The pool of {self.kv.blocks} blocks is inconsistent: {len(lost)} lost, {twice} listed twice.",
                "check give_back: each block goes back to `free` exactly once",
            )

    def make_room(self) -> None:
        """Allocate blocks for the newest token of each running request, and preempt requests if there are too few.

        A request that was preempted does not fit in this step: its blocks are needed by older ones, and it is first in
        the queue. So `admit_waiting` admits none after a preemption.
        """
        needed, size = self.scheduler.blocks_needed, self.kv.block_size
        wants = [needed(len(r.prompt) + len(r.output), size) - len(r.blocks) for r in self.running]
        victims = self.scheduler.choose_victims([len(r.blocks) for r in self.running], wants, len(self.free))
        for place in sorted(victims, reverse=True):  # from the youngest, so that the oldest ends up first in the queue
            request = self.running.pop(place)
            wants.pop(place)
            self.scheduler.give_back(request.blocks, self.free)
            request.cached, request.preemptions = 0, request.preemptions + 1
            self.waiting.appendleft(request)
            self.preemptions += 1
        for request, want in zip(self.running, wants, strict=True):
            self._take(request, want)

    def admit_waiting(self) -> None:
        """Move waiting requests into the batch, with blocks for their tokens. Static: only when no request runs."""
        if self.static and self.running:
            return
        lengths = [len(r.prompt) + len(r.output) for r in self.waiting]
        seats, size = self.max_running - len(self.running), self.kv.block_size
        for length in lengths[: self.scheduler.admit(lengths, len(self.free), seats, size)]:
            request = self.waiting.popleft()
            self._take(request, self.scheduler.blocks_needed(length, size))
            self.running.append(request)

    def _take(self, request: Request, count: int) -> None:
        request.blocks += [self.free.pop() for _ in range(count)]
