"""Several engines that start at the same moment, and are then measured in turn.

    engines = [launch(name, model, draft=draft, when_needed=True, beside=True) for name, draft in ...]
    with together(engines) as turns:
        for number, engine in turns(rounds):
            ...  # the first use of any of them starts all of them

vLLM and SGLang spend most of their start on Python's imports, in one process after the other. That keeps one core busy.
So two of them start in little more time than one.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from shared.hardware.machine import detect
from shared.launch import launcher
from shared.launch.running import Engine, PutOff

Turns = Callable[[int], Iterator[tuple[int, Engine]]]  # rounds → (round from 1 on, engine) of every turn


@contextlib.contextmanager
def together(engines: Sequence[Engine]) -> Iterator[Turns]:
    """Inside the block, the first use of one of these engines starts all that aren't started yet.

    Each use waits until all starts have ended, and raises what the start of its own engine raised. At the block's end
    all of them are stopped, used or not. In containers, and where memory is too small for all at once, an engine is
    started by its own use: in a container it measures the GPU's free memory while it starts.

    The block is given `turns`: in every round, each engine has its turn. So a drift of the machine meets all of them
    alike. Where they can't run side by side, an engine has all its rounds and is stopped before the next one starts.
    """
    waiting = [engine for engine in engines if isinstance(engine, PutOff) and not engine.started]
    side_by_side = fit(waiting)
    starts = Starts(waiting if side_by_side else ())

    def turns(rounds: int) -> Iterator[tuple[int, Engine]]:
        numbers = range(1, rounds + 1)
        if side_by_side:
            yield from ((number, engine) for number in numbers for engine in engines)
            return
        for engine in engines:
            yield from ((number, engine) for number in numbers)
            engine.stop()

    try:
        yield turns
    finally:
        starts.end()
        for engine in engines:
            engine.stop()


def fit(engines: Sequence[Engine]) -> bool:
    """Whether these engines can run side by side: on the processor, and in the memory that is available now."""
    machine = detect()
    needed = sum(engine.need.total - engine.need.reserve for engine in engines)
    reserve = max((engine.need.reserve for engine in engines), default=0)
    room = machine.available_gib is not None and needed + reserve <= machine.available_gib
    return machine.runner == "native" and room


class Starts:
    """The starts of several engines. They begin with the first engine that is used."""

    def __init__(self, engines: Sequence[PutOff]) -> None:
        self.own = [engine._start for engine in engines]
        self.names = {engine.spec.name for engine in engines}
        self.begun: list[Future[Engine]] = []
        for place, engine in enumerate(engines):
            engine._start = functools.partial(self.started, place)

    def started(self, place: int) -> Engine:
        """The engine at this place, once all starts have ended."""
        if not self.begun:
            threads = ThreadPoolExecutor(len(self.own))
            self.begun = [threads.submit(start) for start in self.own]
            threads.shutdown(wait=False)  # each thread ends with its start
        wait(self.begun)
        engine = self.begun[place].result()
        engine.resume()  # the launch of its neighbour may have paused it (reuse.take_over)
        return engine

    def end(self) -> None:
        """Stop what has started, and end what is still starting, as after Ctrl-C."""
        while wait(self.begun, timeout=0.2).not_done:
            for engine in list(launcher._running.values()):
                if engine.spec.name in self.names and not engine.startup_s:
                    engine.end()
        for one in self.begun:
            if not one.exception():
                one.result().stop()
