"""The engine: nobody waits for ever, no block is lost, and a request's text is its own."""

import random
from dataclasses import replace

import pytest
import torch

from shared import LabError
from shared.course.batching import mini_load
from shared.course.batching.mini_engine import MiniEngine, Request, Scheduler
from shared.course.batching.paged_kv import PagedKV, Row
from shared.load.prompts import CHECK_QUESTIONS, chat
from shared.metrics.correctness import gap_fault
from shared.models import ModelChoice
from shared.models.llama import Llama, greedy_gap
from tests.helpers.scheduler import reference


class Counting(PagedKV):
    """A cache without a model: the token after n is n + 1. It looks at what a step asks of it."""

    def __init__(self, blocks: int, block_size: int = 4) -> None:
        self.blocks, self.block_size = blocks, block_size
        self.written: dict[int, int] = {}  # slot → the token that lies there
        self.steps: list[list[int]] = []  # the tokens of each row

    def forward(self, rows: list[Row]) -> torch.Tensor:  # type: ignore[override]
        logits = torch.zeros(len(rows), 1000)
        used: set[int] = set()
        for number, (new, before, table) in enumerate(rows):
            assert not used & set(table), "two sequences share a block"
            used |= set(table)
            slots = [
                table[p // self.block_size] * self.block_size + p % self.block_size for p in range(before + len(new))
            ]
            self.written.update(zip(slots[before:], new, strict=True))
            there = [self.written[slot] for slot in slots]
            assert there == list(range(there[0], there[0] + len(there))), "its cache holds another's tokens"
            logits[number, new[-1] + 1] = 1
        self.steps.append([len(new) for new, _, _ in rows])
        return logits


@pytest.fixture(scope="module")
def scheduler() -> Scheduler:
    return reference()


def requests(count: int, seed: int) -> list[Request]:
    source = random.Random(seed)
    return [
        Request(range(n * 100 % 700, n * 100 % 700 + source.randrange(1, 30)), source.randrange(1, 20))
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("static", [False, True])
def test_random_loads_end_with_every_token_and_every_block(scheduler: Scheduler, seed: int, static: bool) -> None:
    source = random.Random(seed)
    engine = MiniEngine(
        Counting(source.randrange(13, 40)),
        scheduler,
        max_running=source.randrange(1, 8),
        token_budget=source.randrange(8, 40),
        static=static,
    )
    coming = requests(25, seed)
    for _ in range(3000):
        if coming and not source.randrange(2):
            engine.add(coming.pop())
        if engine.idle and not coming:
            break
        if not engine.idle:
            engine.step()
            engine.audit()
            assert len(engine.running) <= engine.max_running
    assert engine.idle
    assert not coming
    assert sorted(engine.free) == list(range(engine.kv.blocks))
    assert all(sum(step) <= engine.token_budget for step in engine.kv.steps)  # type: ignore[attr-defined]


def test_answers_are_what_they_are_alone_though_preempted(scheduler: Scheduler) -> None:
    asked = requests(12, 5)
    engine = MiniEngine(Counting(14), scheduler, max_running=6, token_budget=16)
    for request in asked:
        engine.add(request)
    while not engine.idle:
        engine.step()
    assert engine.preemptions > 0
    for request in asked:
        last = request.prompt[-1]
        assert request.output == list(range(last + 1, last + 1 + request.max_tokens))


def test_requests_start_in_the_order_in_which_they_came(scheduler: Scheduler) -> None:
    asked = [Request(range(40), 2), *(Request(range(4), 2) for _ in range(6))]
    engine = MiniEngine(Counting(12), scheduler, max_running=4, token_budget=64)
    started: dict[Request, int] = {}  # in which step
    for request in asked:
        engine.add(request)
    while not engine.idle:
        served = engine.step()
        for request in (*engine.running, *served):
            started.setdefault(request, engine.steps)
    steps = [started[request] for request in asked]
    assert steps == sorted(steps)
    assert steps[-1] > steps[0]


def test_a_stream_gets_a_token_in_each_step_while_a_prompt_is_read(scheduler: Scheduler) -> None:
    engine = MiniEngine(Counting(40), scheduler, max_running=4, token_budget=8)
    stream, book = Request([1], 30), Request(range(100, 150), 1)
    engine.add(stream)
    engine.step()
    engine.add(book)
    while not book.output:
        before = len(stream.output)
        engine.step()
        assert len(stream.output) == before + 1
    assert max(map(sum, engine.kv.steps)) == 8  # type: ignore[attr-defined]


def test_static_batching_admits_nobody_until_all_have_ended(scheduler: Scheduler) -> None:
    engine = MiniEngine(Counting(40), scheduler, max_running=2, token_budget=64, static=True)
    for request in (Request([1], 1), Request([1], 9), Request([1], 1)):
        engine.add(request)
    sizes = []
    while not engine.idle:
        engine.step()
        sizes.append(len(engine.kv.steps[-1]))  # type: ignore[attr-defined]
    assert sizes == [2, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_a_scheduler_that_returns_blocks_wrongly_is_found_out(scheduler: Scheduler) -> None:
    def lost(table: list[int], free: list[int]) -> None:
        table.clear()

    def twice(table: list[int], free: list[int]) -> None:
        free += table * 2
        table.clear()

    for wrong, found in ((lost, "4 blocks is inconsistent: 1 lost, 0 listed"), (twice, "0 lost, 1 listed twice")):
        engine = MiniEngine(Counting(4), replace(scheduler, give_back=wrong))
        engine.add(Request([1], 2))
        engine.step()
        with pytest.raises(LabError, match=found):
            engine.step()


def test_what_can_never_run_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(LabError, match="can't serve 9 requests"):
        MiniEngine(Counting(4), scheduler, max_running=9, token_budget=8)
    with pytest.raises(LabError, match="needs up to 5 blocks, and the cache has 4"):
        MiniEngine(Counting(4), scheduler).add(Request(range(10), 7))


@pytest.fixture(scope="module")
def llama(model: ModelChoice) -> Llama:
    return Llama.load(model.weights("hf"), torch.float32)


def test_real_text_is_the_models_whatever_the_batch(llama: Llama, model: ModelChoice, scheduler: Scheduler) -> None:
    chats = [chat(model, question) for question in CHECK_QUESTIONS[:5]]
    engine = MiniEngine(PagedKV(llama, 14), scheduler, max_running=5, token_budget=24, stop=tuple(llama.ends))
    texts = mini_load.generate(engine, [llama.prompt_ids(one) for one in chats], 20)
    assert engine.preemptions > 0
    for one, tokens in zip(chats, texts, strict=True):
        assert gap_fault(greedy_gap(llama, one, tokens)) is None
    assert texts == llama.generate([llama.prompt_ids(one) for one in chats], 20)


def test_engine_and_scheduler_are_short() -> None:
    """Comments and docstrings apart, what a student reads and writes stays under 180 lines."""
    import ast
    import inspect

    from shared.course import checks
    from shared.course.batching import mini_engine

    check = checks.of("3.3.2")
    sources = [inspect.getsource(mini_engine)]
    sources += [checks.solution(check.lab, e) for e in check.lab.exercises[:6]]
    lines = 0
    for source in sources:
        plain = ast.unparse(ast.parse(source))
        docs = sum(
            len(ast.unparse(node).splitlines())
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        )
        lines += len([line for line in plain.splitlines() if line.strip()]) - docs
    assert lines < 180
