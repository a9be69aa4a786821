"""Load on the mini engine: users or a schedule. It returns the same Run as shared.load.loops does for a server.

    run = mini_load.closed(engine, mini_load.ids(llama, prompts.short(model)), users=16, requests=32, max_tokens=32)
    metrics.summarise(run)          # results.record(), plots and milestones take it too

There is no server. The engine runs in this process and admits new requests between two steps, as a server's loop does.
The stamp of a token is the end of the step that computed it. TTFT therefore includes no HTTP, which costs about a
millisecond (lab 3.3.1).
"""

import asyncio
import itertools
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared import models
from shared.course.batching.mini_engine import MiniEngine, Request
from shared.errors import LabError
from shared.files import measuring
from shared.hardware.machine import detect
from shared.launch.running import Engine as Server
from shared.load.client import Exchange, Trace, exchange
from shared.load.connection import Connections, Response
from shared.load.loads import Run, most_at_once
from shared.load.prompts import PromptSet
from shared.load.self_check import others_cpu_s
from shared.metrics import roofline
from shared.metrics.roofline import Fit, Work
from shared.models.llama import Llama
from shared.results.provenance import source_sha256

NAME = "yours"  # the engine's name in results
MADE_BY = ("models/llama", "course/batching/mini_engine", "course/batching/paged_kv", "course/batching/mini_load")


@dataclass(frozen=True)
class Job:
    """A request and the moment at which it arrives."""

    at_s: float
    prompt: Sequence[int]
    max_tokens: int


@dataclass
class _Stamped:
    """A request and its time stamps."""

    request: Request
    sent_ns: int
    scheduled_ns: int | None
    admitted_ns: int = 0
    arrivals_ns: tuple[int, ...] = ()


def ids(llama: Llama, prompts: PromptSet) -> Iterator[list[int]]:
    """The token ids of each prompt of an endless supply."""
    return (llama.prompt_ids(messages) for messages in prompts)


def mixed_jobs(
    short: Iterator[Sequence[int]],
    long_prompt: Sequence[int],
    *,
    count: int,
    step_s: float,
    lengths: Sequence[int],
    seed: int = 3,
) -> list[Job]:
    """`count` short requests at random moments, 2.5 steps apart on average, and a long prompt in the middle.

    step_s: seconds of a decode step, so that a slow machine gets the same pattern more slowly. lengths: tokens of an
    answer, drawn for each request.
    """
    source, at_s = random.Random(seed), 0.0
    jobs: list[Job] = []
    for _ in range(count):
        at_s += source.expovariate(1 / (2.5 * step_s))
        jobs.append(Job(at_s, next(short), source.choice(lengths)))
    return [*jobs, Job(jobs[count // 2].at_s, long_prompt, 8)]


def closed(engine: MiniEngine, prompts: Iterable[Sequence[int]], *, users: int, requests: int, max_tokens: int) -> Run:
    """Run a closed loop: each user sends the next request when the last answer has ended, `requests` in total."""
    supply = itertools.islice(prompts, requests)

    def more(now_s: float, under_way: int) -> Iterator[Job]:
        return (Job(now_s, prompt, max_tokens) for prompt in itertools.islice(supply, users - under_way))

    return _measure(engine, more, None, max_tokens, {"kind": "closed", "requests": requests}, users)


def open_loop(engine: MiniEngine, jobs: Sequence[Job]) -> Run:
    """Run an open loop: each job arrives at its moment, however busy the engine is. Latencies count from then on."""
    queue = sorted(jobs, key=lambda job: job.at_s)

    def more(now_s: float, under_way: int) -> Iterator[Job]:
        while queue and queue[0].at_s <= now_s:
            yield queue.pop(0)

    return _measure(engine, more, queue, max(job.max_tokens for job in jobs), {"kind": "open", "jobs": len(jobs)}, 0)


def generate(engine: MiniEngine, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The greedy answers to these prompts, all asked at once, each without the stop token that ended it."""
    requests = [Request(prompt, tokens) for prompt in prompts]
    for request in requests:
        engine.add(request)
    while not engine.idle:
        engine.step()
    return [[token for token in request.output if token not in engine.stop] for request in requests]


def _measure(
    engine: MiniEngine,
    more: Callable[[float, int], Iterator[Job]],
    coming: Sequence[Job] | None,
    max_tokens: int,
    load: Mapping[str, Any],
    users: int,
) -> Run:
    under_way: dict[Request, _Stamped] = {}
    done: list[_Stamped] = []
    steps: dict[str, list[float]] = {name: [] for name in ("ms", "tokens", "served", "context")}
    with measuring():
        before, others = (engine.steps, engine.preemptions), others_cpu_s(None)
        begin_ns = time.perf_counter_ns()
        while True:
            now_ns = time.perf_counter_ns()
            for job in more((now_ns - begin_ns) / 1e9, len(under_way)):
                due_ns = begin_ns + int(job.at_s * 1e9)
                request = Request(job.prompt, job.max_tokens)
                engine.add(request)
                under_way[request] = _Stamped(request, due_ns, None if coming is None else due_ns)
            if engine.idle:
                if not coming:
                    break
                time.sleep(max(0.0, coming[0].at_s - (time.perf_counter_ns() - begin_ns) / 1e9))
                continue
            tokens, start_ns = engine.computed, time.perf_counter_ns()
            served = engine.step()
            end_ns = time.perf_counter_ns()
            context = sum(r.cached for r in {*engine.running, *served})
            seen = ((end_ns - start_ns) / 1e6, engine.computed - tokens, len(served), context)
            for column, value in zip(steps.values(), seen, strict=True):
                column.append(value)
            for request in (*engine.running, *served):
                under_way[request].admitted_ns = under_way[request].admitted_ns or start_ns
            for request in served:
                under_way[request].arrivals_ns += (end_ns,)
                if engine.done(request):
                    done.append(under_way.pop(request))
        took_s = (time.perf_counter_ns() - begin_ns) / 1e9
        share = (others_cpu_s(None) - others) / took_s / (os.cpu_count() or 1)
    traces = tuple(_trace(one, engine.kv.llama) for one in done)
    return Run(
        traces=traces,
        users=users or most_at_once(traces),
        max_tokens=max_tokens,
        prompts="ids",
        engine=provenance(engine),
        client_cpu_share=0.0,  # there is no client
        counted={"steps": engine.steps - before[0], "preemptions": engine.preemptions - before[1]},
        load={**load, "steps": steps},
        others_cpu_share=round(max(share, 0.0), 4),
    )


def _trace(one: _Stamped, llama: Llama) -> Trace:
    request = one.request
    return Trace(
        sent_ns=one.sent_ns,
        arrivals_ns=one.arrivals_ns,
        texts=tuple(llama.tokenizer.decode([token]) for token in request.output),
        end_ns=one.arrivals_ns[-1],
        input_tokens=len(request.prompt),
        output_tokens=len(request.output),
        cached_tokens=0,
        finish_reason="length",
        error=None,
        tokens_from="engine",
        timings={"admitted_ns": one.admitted_ns - one.sent_ns, "preemptions": request.preemptions},
        scheduled_ns=one.scheduled_ns,
    )


@dataclass(frozen=True)
class Own:
    """The mini engine in the form that `lab.measure(…, engine=…)` takes."""

    engine: MiniEngine

    def provenance(self) -> dict[str, Any]:
        return provenance(self.engine)


def provenance(engine: MiniEngine) -> dict[str, Any]:
    """What a result records about the mini engine. Its version is the hash of its code."""
    model, dtype = models.small(), engine.kv.pool.dtype
    return {
        "engine": NAME,
        "engine_version": source_sha256(MADE_BY)[:12],
        "runner": "in this process",
        "flags": {
            "max_running": engine.max_running,
            "token_budget": engine.token_budget,
            "static": engine.static,
            "blocks": engine.kv.blocks,
            "block_size": engine.kv.block_size,
        },
        "cores": detect().cores,
        "model": model.name,
        "model_origin": model.origin,
        "model_sha256": model.sha256("hf"),
        "precision": "BF16",  # of the stored weights; `dtype` is what it computes in
        "dtype": str(dtype).removeprefix("torch."),
        "startup_s": 0.0,
    }


def decode_work(llama: Llama, users: int, context_tokens: float) -> Work:
    """Bytes and operations of a decode step: every weight, and the keys and values of `context_tokens` in total."""
    value = llama.embedding.element_size()
    small = models.small()
    read = small.parameters * value + small.kv_bytes_per_token(value) * context_tokens
    return Work(read, 2.0 * small.parameters * users, users)


def step_model(
    steps: Mapping[int, Sequence[tuple[Work, float]]], bandwidth_gb_s: float, fitted: Sequence[int]
) -> tuple[Fit, dict[int, float], list[tuple[str, ...]]]:
    """Fit the step-time model to the decode steps of the `fitted` numbers of users, and compare it with all of them.

    steps: for each number of users, (work, ms) of its decode steps. Returns the fit, the relative error of the
    predicted throughput for each number of users, and rows for a table. Raises LabError for too few steps to fit.
    """
    middle = {
        users: (found[len(found) // 2][0], statistics.median(ms for _, ms in found))
        for users, found in steps.items()
        if found
    }
    fit = roofline.fit([point for users in fitted for point in steps[users]], bandwidth_gb_s)
    errors: dict[int, float] = {}
    rows: list[tuple[str, ...]] = []
    for users, (work, ms) in middle.items():
        predicted, measured = (1e3 * users / value for value in (fit.predict(work).step_ms, ms))
        errors[users] = predicted / measured - 1
        rows.append((str(users), f"{predicted:.0f}", f"{measured:.0f}", f"{100 * errors[users]:+.1f} %"))
    return fit, errors, rows


async def book_among_streams(
    server: Server, short: PromptSet, long: PromptSet, *, streams: int, max_tokens: int
) -> tuple[list[Trace], Trace]:
    """Send one long prompt while `streams` short ones are being answered. Returns their traces, and the long one's.

    The long prompt is sent when each stream has delivered six chunks. Raises LabError if a request fails, or if a
    stream ends before the long prompt is sent.
    """
    url = server.url + "/v1/chat/completions"
    fixed = {"model": server.served_name, "temperature": 0, **server.spec.exact_length}
    flowing: list[Response] = []
    # Made before the streams begin: fitting a long prompt to its length loads the tokenizer and takes seconds.
    questions, long_question = list(itertools.islice(short, streams)), next(iter(long))

    def ask(
        question: list[dict[str, str]], tokens: int, on_sent: Callable[[Response], None] | None = None
    ) -> asyncio.Future[Exchange]:
        body = {**fixed, "messages": question, "max_tokens": tokens}
        return asyncio.ensure_future(exchange(url, body, connections=connections, on_sent=on_sent))

    with measuring():
        async with Connections() as connections:
            others = [ask(question, max_tokens, flowing.append) for question in questions]
            while len(flowing) < streams or any(len(one.pieces) < 6 and not one.end_ns for one in flowing):
                if any(other.done() for other in others):  # one that got no connection never flows
                    break
                await asyncio.sleep(0.005)
            book = (await ask(long_question, 4)).trace()
            traces = [(await other).trace() for other in others]
    if failed := [trace.error for trace in (*traces, book) if trace.error]:
        raise LabError(f"A request among the streams failed: {failed[0]}.", "print(engine.tail()) shows the log")
    if any(trace.end_ns < book.sent_ns for trace in traces):
        raise LabError(
            f"A stream of {max_tokens} tokens ended before the long prompt was sent.", "repeat with a larger max_tokens"
        )
    return traces, book
