"""The stack that is diagnosed, and its seven faults: each changes one thing in it.

    stack = healthy("llamacpp", model)
    FAULTS[CACHE].inject(stack, figures)        # figures: those of a healthy run

A stack is an engine, a gateway and its clients, and the load on them. This file describes them. injections.py starts
them.
"""

import datetime
import itertools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from shared.engines import Flags
from shared.load.loads import Closed, Poisson
from shared.load.prompts import FILLER, SHORT_QUESTIONS, PromptSet
from shared.models.choice import ModelChoice

SEATS, USERS = 4, 3  # one user fewer than seats, so that nothing waits in the healthy run
PAUSE_S = 0.25  # for which the busy client blocks its event loop before each request, at least
READERS = SEATS - 1  # slow readers: one seat is left
# A slow reader asks for so many log-probabilities that its answer, of about 4 MB, exceeds the kernel's buffers.
READ_TOKENS, LOGPROBS = 40, 1000
USUAL = """idle_s = 3600
total_s = 3600
queue_s = 3600
first_byte_s = 3600
limits = {requests_per_minute = 100000, burst = 1000, concurrent = 1000}
"""
FLAGS: Mapping[str, Flags] = {
    "llamacpp": {"-np": SEATS, "-c": SEATS * 1024},
    "vllm": {
        "--max-num-seqs": SEATS,
        "--max-model-len": 384,
        "--block-size": 32,
        "--enforce-eager": True,
        "--max-logprobs": LOGPROBS,
    },
}
LOAD = Closed(users=USERS, requests=3 * USERS)
FEW_BLOCKS = 13  # of 32 tokens, one of which vLLM keeps: a request of this load fills 11 in the end, and shares 8

OVERLOAD, KV, ONE = "overload", "starved KV pool", "one sequence at a time"
CACHE, CLIENT = "prefix cache never hits", "client is the bottleneck"
CORES, READER = "engine short of cores", "slow reader"

Figures = dict[str, float]


@dataclass(frozen=True)
class Questions(PromptSet):
    """Questions to an assistant with a long system prompt, which is the same in each of them."""

    clock_first: bool = False  # whether the system prompt begins with the time
    pause_s: float = 0  # a synchronous look-up before each prompt: it blocks the client's event loop

    def __iter__(self) -> Iterator[list[dict[str, str]]]:
        for question in itertools.cycle(self.questions):
            time.sleep(self.pause_s)
            now = f"It is {datetime.datetime.now():%H:%M:%S.%f}. " if self.clock_first else ""
            system, asked = f"{now}{' '.join(FILLER)}", f"{question} [{secrets.token_hex(4)}]"
            if self.model.system:
                yield [{"role": "system", "content": system}, {"role": "user", "content": asked}]
            else:  # the model's template takes no system message
                yield [{"role": "user", "content": f"{system}\n\n{asked}"}]


@dataclass(frozen=True)
class Stack:
    """An engine, a gateway and its clients."""

    engine: str
    flags: Flags
    prompts: Questions
    cores: int | None = None  # None: all
    gateway: str = USUAL  # the gateway's settings, as TOML
    rhythm: Closed | Poisson = LOAD
    max_tokens: int = 24
    readers: int = 0  # clients that take a seat and don't read their answer


def healthy(engine: str, model: ModelChoice) -> Stack:
    prompts = Questions("assistant", model, SHORT_QUESTIONS, about_cache=True)
    return Stack(engine, FLAGS[engine], prompts, max_tokens=64 if engine == "vllm" else 24)


@dataclass(frozen=True)
class Fault:
    """One fault. `shows` are the figures that show it, each with its direction: +1 grows, -1 shrinks.

    `stays`: those of them that the fix leaves as they are.
    """

    cause: str
    fix: str
    how: str  # what the fix does
    shows: Mapping[str, int]
    inject: Callable[[Stack, Figures], Stack]  # the healthy stack and its figures → the faulty one
    mend: Callable[[Stack, Stack], Stack] = lambda healthy, faulty: healthy
    engines: tuple[str, ...] = ("llamacpp", "vllm")
    stays: tuple[str, ...] = ()


ONE_SEQUENCE: Mapping[str, Flags] = {"llamacpp": {"-np": 1, "-c": 1024}, "vllm": {"--max-num-seqs": 1}}


def _overload(stack: Stack, seen: Figures) -> Stack:
    return replace(stack, rhythm=Poisson(rate_per_s=round(6 * seen["sent_per_s"], 1), requests=24, even=True))


def _block_client(stack: Stack, seen: Figures) -> Stack:
    # Twice as long as the healthy stack needs for a request: on a machine of any speed the client is the slower one.
    return replace(stack, prompts=replace(stack.prompts, pause_s=round(max(PAUSE_S, 2 / seen["sent_per_s"]), 2)))


FAULTS: Mapping[str, Fault] = {
    OVERLOAD: Fault(
        "requests arrive faster than the engine can answer them",
        "refuse early",
        "a short queue: the gateway answers 429 with Retry-After instead of letting requests wait",
        {"gateway_waiting": +1, "sent_per_s": +1},
        _overload,
        lambda healthy, faulty: replace(faulty, gateway=f"{USUAL}most_queued = {SEATS}\n"),
        stays=("sent_per_s",),  # the clients go on sending as much
    ),
    KV: Fault(
        "the KV cache has too few blocks for the requests that run, so they are preempted and computed again",
        "larger KV pool",
        "more blocks for the KV cache, or fewer sequences at once",
        {"preemptions": +1, "kv_use": +1},
        lambda stack, _: replace(stack, flags={**stack.flags, "--num-gpu-blocks-override": FEW_BLOCKS}),
        engines=("vllm",),
    ),
    ONE: Fault(
        "the engine was started with one slot: no batching",
        "more sequences",
        "start the engine with more slots (-np, --max-num-seqs)",
        {"engine_running": -1, "engine_waiting": +1},
        lambda stack, _: replace(stack, flags={**stack.flags, **ONE_SEQUENCE[stack.engine]}),
    ),
    CACHE: Fault(
        "the system prompt begins with the time, so no two prompts share a beginning",
        "constant text first",
        "move what changes to the end of the prompt",
        {"hit_share": -1},
        lambda stack, _: replace(stack, prompts=replace(stack.prompts, clock_first=True)),
    ),
    CLIENT: Fault(
        "the client blocks its own event loop, so it sends requests late and notes the times of answers late",
        "unblock the client",
        "take the synchronous call off the client's event loop",
        {"client_lag_ms": +1},
        _block_client,
    ),
    CORES: Fault(
        "the engine computes on one core only",
        "more cores",
        "give the engine all cores (--threads), and move other programs off them",
        {"busy_threads": -1, "engine_cpu": -1},
        lambda stack, _: replace(stack, cores=1),
        engines=("llamacpp",),
    ),
    READER: Fault(
        "clients that don't read their answers hold seats at the gateway",
        "drop idle readers",
        "a short idle_s: the gateway closes connections whose client reads nothing",
        {"idle_seats": +1, "send_wait_s": +1},
        lambda stack, _: replace(stack, readers=READERS),
        lambda healthy, faulty: replace(faulty, gateway=USUAL.replace("idle_s = 3600", "idle_s = 3")),
    ),
}  # fmt: skip
