"""Faults on purpose: an engine that stalls or dies while a load runs on it.

with faults.stall(engine, after_s=1, for_s=2):
    run = load.run(Load(engine, ..., Poisson(...)))

with faults.death(engine, after_tokens=100):
    load.run(Load(engine, ..., Closed(...)))    # raises load.Died; its `run` has the answers until then
"""

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from shared.engines.http import counters
from shared.launch.running import Engine


@contextlib.contextmanager
def stall(engine: Engine, after_s: float, for_s: float) -> Iterator[None]:
    """Pause every process of the engine for `for_s` seconds, as a full disk or a greedy neighbour does."""
    over = threading.Event()

    def hold() -> None:
        if not over.wait(after_s):
            engine.pause()
            try:
                over.wait(for_s)
            finally:
                engine.resume()

    with _beside(hold, over):
        yield


@contextlib.contextmanager
def death(engine: Engine, after_tokens: int) -> Iterator[None]:
    """End the engine after it has generated this many tokens within the block, or when the block ends."""
    over = threading.Event()
    begin = counters(engine)["generated_tokens"]

    def kill() -> None:
        while counters(engine).get("generated_tokens", begin) < begin + after_tokens and not over.wait(0.1):
            pass
        engine.end()

    with _beside(kill, over):
        yield


@contextlib.contextmanager
def _beside(do: Any, over: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
