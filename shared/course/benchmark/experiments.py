"""What lab 3.3.1 measures beyond loads: single requests, llama.cpp as a library, and the experiments of its section 8.

Its numbers depend on this module, so results are void once its code changes (shared.results.provenance.OF_LAB).
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from statistics import median
from typing import Any

from shared.errors import LabError
from shared.files import measuring
from shared.launch.running import Engine
from shared.load import faults, prompts
from shared.load.client import Trace, stream
from shared.load.loads import most_at_once
from shared.metrics.correctness import Reference, check_greedy
from shared.models import llamacpp_library
from shared.models.choice import ModelChoice

Chat = list[dict[str, str]]
Request = tuple[int, int, int]  # scheduled_ns, sent_ns, end_ns


async def ask(engine: Engine, messages: Chat, tokens: int, **fields: Any) -> Trace:
    """Send one streaming request; `fields` are added to its body. Raises LabError if the request fails."""
    with measuring():
        body = {"model": engine.served_name, "messages": messages, "max_tokens": tokens}
        body |= {"temperature": 0, **engine.spec.exact_length, **fields}
        trace = await stream(engine.url + "/v1/chat/completions", body)
    if trace.error:  # its time is no latency: a refusal takes a millisecond
        raise LabError(
            f"A request to {engine.spec.title} failed: {trace.error}.",
            "run the cell again; print(engine.tail()) shows the engine's log",
        )
    return trace


async def ask_each(engine: Engine, chats: Iterable[Chat], tokens: int, **fields: Any) -> list[Trace]:
    """Send one request after the other."""
    return [await ask(engine, messages, tokens, **fields) for messages in chats]


Loop = Callable[[int, int, Callable[[int], Awaitable[Trace]]], Awaitable[list[Trace]]]


async def drive(
    loop: Loop, engine: Engine, supply: Iterable[Chat], users: int, requests: int, tokens: int
) -> tuple[dict[str, float], list[tuple[int, int, int]]]:
    """Let a student's closed loop drive the engine: (figures of its answers, stamps of each request).

    `users_at_once` is the largest number of requests that were under way at the same time. The stamps are (sent_ns,
    end_ns, output tokens).
    """
    chats = list(islice(supply, requests))

    async def send(number: int) -> Trace:
        return await ask(engine, chats[number], tokens)

    with measuring():
        traces = await loop(users, requests, send)
    took_s = (max(trace.end_ns for trace in traces) - min(trace.sent_ns for trace in traces)) / 1e9
    figures = {
        "answers": len(traces),
        "users_at_once": most_at_once(traces),
        "ttft_ms": median(trace.ttft_ms for trace in traces if trace.ttft_ms is not None),
        "tok_s": sum(trace.output_tokens or 0 for trace in traces) / took_s,
    }
    return figures, [(trace.sent_ns, trace.end_ns, trace.output_tokens or 0) for trace in traces]


def ask_library(inside: Any, prompt_ids: Sequence[int], tokens: int) -> tuple[float, float]:
    """TTFT in ms and decode tok/s of llama.cpp in this process (`inside`, a llama_cpp.Llama)."""
    inside.reset()  # without it the cached prompt would shorten the time to first token
    start, stamps = time.perf_counter(), []
    for _ in inside.generate(prompt_ids, temp=0):
        stamps.append(time.perf_counter())
        if len(stamps) == tokens:
            break
    return (stamps[0] - start) * 1e3, (tokens - 1) / (stamps[-1] - stamps[0])


async def library_and_server(
    inside: Any, engine: Engine, question: Chat, prompt_ids: Sequence[int], rounds: int, tokens: int = 32
) -> dict[str, list[tuple[float, float]]]:
    """The same question to the library and to the server, in turn: (TTFT in ms, decode tok/s) of each round."""
    asked: dict[str, list[tuple[float, float]]] = {"in this process": [], "over HTTP": []}
    with measuring():
        ask_library(inside, prompt_ids, tokens)  # warm-up of both
        await ask(engine, question, tokens)
        for _ in range(rounds):
            asked["in this process"].append(ask_library(inside, prompt_ids, tokens))
            trace = await ask(engine, question, tokens)
            asked["over HTTP"].append((trace.ttft_ms or math.nan, 1e3 / (trace.tpot_ms or math.nan)))
    return asked


def lie(trap: str, unit: str, wrong: str, right: str, why: str) -> dict[str, str]:
    """One experiment for the ledger: the figure as it would be reported, and the right one."""
    return {"trap": trap, "unit": unit, "wrong": wrong, "right": right, "why": why}


async def ask_through_a_stall(engine: Engine, model: ModelChoice, users: int = 16) -> tuple[list[Request], float]:
    """One connection, on which users ask at even moments while the engine stalls once.

    The engine is paused for as long as five users take to arrive. Returns (scheduled_ns, sent_ns, end_ns) of each
    request, and 2.5 times the latency without a stall, in ms.
    """
    questions, requests = iter(prompts.short(model)), []
    with measuring():
        calm = await ask_each(engine, islice(questions, 3), 4)
        alone_ms = median(trace.e2e_ms for trace in calm)
        every_s = 2 * alone_ms / 1e3
        begin = time.perf_counter_ns()
        with faults.stall(engine, after_s=3.5 * every_s, for_s=5 * every_s):  # it ends with the block, after Ctrl-C too
            for number in range(users):
                scheduled_ns = begin + int(number * every_s * 1e9)
                await asyncio.sleep((scheduled_ns - time.perf_counter_ns()) / 1e9)
                trace = await ask(engine, next(questions), 4)
                requests.append((scheduled_ns, trace.sent_ns, trace.end_ns))
    return requests, 2.5 * alone_ms


async def ask_through_pool(engine: Engine, chats: Iterable[Chat], connections: int, tokens: int) -> list[float]:
    """TTFT in ms of each request as OpenAI's client sees it, all at once through a pool of so many connections."""
    import httpx
    from openai import AsyncOpenAI

    async def first_token_ms(client: Any, messages: Chat) -> float:
        began, first = time.perf_counter(), math.nan
        body = {"model": engine.served_name, "messages": messages, "max_tokens": tokens, "temperature": 0}
        answer = await client.chat.completions.create(**body, stream=True, extra_body=engine.spec.exact_length)
        async for part in answer:
            if math.isnan(first) and part.choices and part.choices[0].delta.content:
                first = time.perf_counter()
        return (first - began) * 1e3

    # llama.cpp sometimes closes a connection just before it is used again, so none is kept.
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=300, trust_env=False) as pool:
        # openai accepts httpx's client as well as its own fork's, which its types name.
        client = AsyncOpenAI(base_url=engine.url + "/v1", api_key="none", http_client=pool, max_retries=0)  # type: ignore[arg-type]
        with measuring():
            return list(await asyncio.gather(*(first_token_ms(client, messages) for messages in chats)))


def samples_of(pool: Sequence[float], size: int, count: int = 1000, seed: int = 0) -> list[list[float]]:
    """Draw `count` samples of `size` values from the pool, with replacement, always the same ones."""
    source = random.Random(seed)
    return [source.choices(pool, k=size) for _ in range(count)]


def middle_90(values: Iterable[float]) -> tuple[float, float]:
    """The range in which the middle 90 % of the values lie."""
    order = sorted(values)
    cut = len(order) // 20
    return order[cut], order[-cut - 1]


def nearest_rank(values: Sequence[float], share: float) -> float:
    """The percentile of a whole population, which may be small (0.99 for p99)."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def quality_of(
    engine: Engine,
    model: ModelChoice,
    form: str,
    reference: Reference,
    attempt: Callable[..., Any],
    checked: tuple[dict[str, Any], Any] | None = None,
) -> tuple[dict[str, Any], Any]:
    """Greedy gaps, bytes read per step, and perplexity of the weights in this form; None where there is no library.

    `attempt` is the lab's (`lab.attempt`). `checked` is what `check_greedy` has found for this engine with these
    weights, if it was asked before.
    """
    found, answers = checked or check_greedy(engine, reference)
    values = {**found, "bytes": model.decode_bytes(form)}
    values["perplexity"] = attempt(
        f"perplexity/{form}", f"the perplexity of {form}", lambda: llamacpp_library.perplexity(model, form)
    )
    return values, answers
