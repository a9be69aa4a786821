"""A serving engine on two screens: two queues, a pool of blocks, one step after the other.

A request waits, then runs, then is finished. While it runs it owns blocks of the KV cache. Each step

    1. makes room: every running request needs a slot for its newest token; are there too few blocks, the youngest
       requests give theirs back and wait again (preemption by recompute: their text stays, their keys and values
       are computed anew),
    2. admits waiting requests, in their order, while seats and blocks last,
    3. plans: one token for each request that decodes, and the rest of the step's token budget for prompts,
    4. runs the model once over all of it (shared.course.batching.paged_kv), and hands out the tokens that came of it.

No step waits for a request to end: that is continuous batching. What a student decides in lab 3.3.2 are the five
functions of `Scheduler`; the engine does as they say, and audits its blocks whenever it is idle.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.course.batching.paged_kv import PagedKV
from shared.errors import LabError


@dataclass(eq=False)
class Request:
    """One request on its way."""

    prompt: Sequence[int]
    max_tokens: int
    output: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)  # its block table
    cached: int = 0  # of its tokens, those whose keys and values are in the cache
    preemptions: int = 0

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.output]

    @property
    def pending(self) -> int:
        """Tokens to be computed before its next one comes: 1 while it decodes."""
        return len(self.prompt) + len(self.output) - self.cached


@dataclass(frozen=True)
class Scheduler:
    """What decides. Each function is an exercise of lab 3.3.2, and its docstring there says what it returns."""

    blocks_needed: Callable[[int, int], int]
    give_back: Callable[[list[int], list[int]], None]
    admit: Callable[[Sequence[int], int, int, int], int]
    plan_step: Callable[[Sequence[int], int], Sequence[int]]
    choose_victims: Callable[[Sequence[int], Sequence[int], int], Sequence[int]]


class MiniEngine:
    """The engine: `add` requests, `step` until it is `idle`."""

    def __init__(
        self,
        kv: PagedKV,
        scheduler: Scheduler,
        *,
        max_running: int = 32,
        token_budget: int = 256,
        static: bool = False,
        stop: Sequence[int] = (),
    ) -> None:
        """At most `max_running` requests run at once, and a step has at most `token_budget` tokens.

        `static`: nothing is admitted while anything runs, as before continuous batching. `stop`: tokens that end an
        answer. Raises LabError for a budget that can't give a token to each running request.
        """
        if token_budget < max_running:
            raise LabError(f"A step of {token_budget} tokens can't serve {max_running} requests.", "a larger budget")
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
        """Raises LabError for a request that would not fit even if it were alone."""
        most = self.scheduler.blocks_needed(len(request.prompt) + request.max_tokens, self.kv.block_size)
        if most > self.kv.blocks:
            raise LabError(f"A request of up to {most} blocks can't run in a cache of {self.kv.blocks}.", "more blocks")
        self.waiting.append(request)

    def step(self) -> list[Request]:
        """One pass of the model. Returns the requests that got a token, those that it finished included."""
        if not self._preempt() and not (self.static and self.running):
            self._admit()
        counts = self.scheduler.plan_step([r.pending for r in self.running], self.token_budget)
        batch = [(r, n) for r, n in zip(self.running, counts, strict=True) if n]
        logits = self.kv.forward([(r.tokens[r.cached : r.cached + n], r.cached, r.blocks) for r, n in batch])
        self.steps, self.computed = self.steps + 1, self.computed + sum(n for _, n in batch)
        served = []
        for (request, count), token in zip(batch, logits.argmax(-1).tolist(), strict=True):
            request.cached += count
            if not request.pending:  # else it was a chunk of a prompt, and its token is no answer yet
                request.output.append(token)
                served.append(request)
        for request in served:
            if self.done(request):
                self.running.remove(request)
                self.scheduler.give_back(request.blocks, self.free)
        if self.idle:
            self.audit()
        return served

    def done(self, request: Request) -> bool:
        return len(request.output) >= request.max_tokens or request.output[-1] in self.stop

    def audit(self) -> None:
        """Raise LabError unless each block of the pool is free or owned, and only once."""
        held = sorted([*self.free, *(block for r in self.running for block in r.blocks)])
        if held != list(range(self.kv.blocks)):
            lost, twice = set(range(self.kv.blocks)) - set(held), len(held) - len(set(held))
            raise LabError(f"{len(lost)} blocks were lost and {twice} are held twice.", "give each back exactly once")

    def _preempt(self) -> bool:
        """Room for the newest token of all who run; whether somebody had to go."""
        needed, size = self.scheduler.blocks_needed, self.kv.block_size
        wants = [needed(len(r.prompt) + len(r.output), size) - len(r.blocks) for r in self.running]
        victims = self.scheduler.choose_victims([len(r.blocks) for r in self.running], wants, len(self.free))
        for place in sorted(victims, reverse=True):  # the oldest of them comes to stand first in the queue
            request = self.running.pop(place)
            wants.pop(place)
            self.scheduler.give_back(request.blocks, self.free)
            request.cached, request.preemptions = 0, request.preemptions + 1
            self.waiting.appendleft(request)
            self.preemptions += 1
        for request, want in zip(self.running, wants, strict=True):
            self._take(request, want)
        return bool(victims)

    def _admit(self) -> None:
        lengths = [len(r.prompt) + len(r.output) for r in self.waiting]
        seats, size = self.max_running - len(self.running), self.kv.block_size
        for length in lengths[: self.scheduler.admit(lengths, len(self.free), seats, size)]:
            request = self.waiting.popleft()
            self._take(request, self.scheduler.blocks_needed(length, size))
            self.running.append(request)

    def _take(self, request: Request, count: int) -> None:
        request.blocks += [self.free.pop() for _ in range(count)]
