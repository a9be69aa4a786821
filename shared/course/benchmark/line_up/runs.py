"""The four runs of a line-up: the same load on llama.cpp, one of them with another precision, cache, cores or client.

    line_up.measure(lab, model, my_number, flags, tokens=32, warmup=True)       # results line-up/<number>/A to D

The number decides which run is unfair, and how. Every run is really measured. The ledger holds what it always holds of
a load, and nothing else: the unfair run is found from that.
"""

import ctypes
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

from shared.course.labs import OpenLab
from shared.engines import Flags
from shared.hardware.machine import Machine, detect
from shared.launch.launcher import launch
from shared.launch.running import Engine
from shared.load import loops, prompts
from shared.load.loads import Closed, Load, Run
from shared.models.choice import ModelChoice

NAMES = ("A", "B", "C", "D")
FAIR, PRECISION, CACHE, CORES, CLIENT = "fair", "precision", "cache", "cores", "client"
USERS, REQUESTS = 4, 8
SHARED_TOKENS = 160  # of every prompt: the same text, which a prefix cache can supply


@dataclass(frozen=True)
class LineUp:
    """Which run is unfair, and in which way."""

    number: int
    unfair: str
    way: str

    def key(self, name: str) -> str:
        return f"line-up/{self.number}/{name}"


def line_up(number: int, machine: Machine) -> LineUp:
    """The line-up with this number, the same each time. On a GPU the engine's cores decide nothing, so they stay."""
    source = random.Random(number)
    several_cores = machine.runner == "native" and machine.cores > 1
    ways = (PRECISION, CACHE, CLIENT, *((CORES,) if several_cores else ()))
    return LineUp(number, source.choice(NAMES), source.choice(ways))


def measure(lab: OpenLab, model: ModelChoice, number: int, flags: Flags, tokens: int, warmup: bool) -> None:
    """Measure the four runs of this number in the order of their names, or use the recorded ones."""
    drawn = line_up(number, detect())
    for name in NAMES:
        way = drawn.way if name == drawn.unfair else FAIR
        engine = started(way, model, flags)
        run = run_of(way, engine, model, tokens, warmup)
        lab.measure(drawn.key(name), run, engine=engine, tokens=tokens)


def started(way: str, model: ModelChoice, flags: Flags) -> Engine:
    precision = "Q8_0" if way == PRECISION else None
    return launch("llamacpp", model, flags, precision=precision, cores=1 if way == CORES else None, quiet=True)


def run_of(way: str, engine: Engine, model: ModelChoice, tokens: int, warmup: bool) -> Callable[[], Run]:
    """The load of a run, as a function to be measured."""
    shared = prompts.shared_prefix(model, SHARED_TOKENS)
    if way == CACHE:  # llama.cpp's requests in the labs carry `cache_prompt: false`; these don't
        engine = replace(engine, spec=replace(engine.spec, exact_length={"ignore_eos": True}))
    load = Load(engine, shared, Closed(USERS, requests=REQUESTS), max_tokens=tokens, warmup=warmup)
    client = busy_client if way == CLIENT else nullcontext

    def measured() -> Run:  # the same function for every run, so that its hash in the ledger betrays nothing
        with client():
            return loops.run(load)

    return measured


@contextmanager
def busy_client() -> Iterator[None]:
    """Block the client: a second thread holds Python's lock for 50 ms at a time, as a call into a library may do.

    It sleeps meanwhile. A thread that computes would take a core from the engine, too, which slows it by far more.
    """
    over = threading.Event()
    libc = ctypes.PyDLL(None)  # unlike CDLL it keeps the lock during a call

    def block() -> None:
        while not over.is_set():
            libc.usleep(50_000)
            time.sleep(0.01)

    thread = threading.Thread(target=block, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
