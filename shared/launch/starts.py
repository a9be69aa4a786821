"""Several engines that start at the same moment, and are then measured in turn.

    engines = [launch(name, model, draft=draft, when_needed=True, beside=True) for name, draft in ...]
    with together(engines) as turns:
        for number, engine in turns(rounds):
            ...  # the first use of any of them starts all of them

vLLM and SGLang spend most of their start on Python's imports, in one process after the other. That keeps one core busy.
So two of them start in little more time than one. llama.cpp starts within seconds, and its threads wait for each other
in loops: several that start at the same moment slow each other down. So they start one after another.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from shared.hardware.machine import detect
from shared.launch import launcher
from shared.launch.running import Engine, PutOff

SLOW_S = 10  # from so long a start on, several are started at the same moment
Turns = Callable[[int], Iterator[tuple[int, Engine]]]  # rounds → (round from 1 on, engine) of every turn


@contextlib.contextmanager
def together(engines: Sequence[Engine]) -> Iterator[Turns]:
    """Inside the block, the first use of one of these engines starts all that aren't started yet.

    Each use waits until all starts have ended, and raises what the start of its own engine raised. At the block's end
    all of them are stopped, used or not.

    The block is given `turns`: in every round, each engine has its turn. So a drift of the machine meets all of them
    alike. Where they can't all run side by side, they do so in groups (`groups`): a group has all its rounds and is
    stopped before the next one starts.
    """
    waiting = groups(engines)
    starts = [Starts([one for one in group if isinstance(one, PutOff) and not one.started]) for group in waiting]

    def turns(rounds: int) -> Iterator[tuple[int, Engine]]:
        for group, start in zip(waiting, starts, strict=True):
            yield from ((number, engine) for number in range(1, rounds + 1) for engine in group)
            if group is not waiting[-1]:
                start.end(group)

    try:
        yield turns
    finally:
        for group, start in zip(waiting, starts, strict=True):
            start.end(group)


def groups(engines: Sequence[Engine]) -> list[list[Engine]]:
    """The engines in groups that can run side by side: all of them, else those of one kind, else each one alone.

    In containers each one is alone: it measures the GPU's free memory while it starts.
    """
    if fit(engines):
        return [list(engines)]
    alike = [[one for one in engines if one.spec.name == name] for name in dict.fromkeys(e.spec.name for e in engines)]
    return [group for kind in alike for group in ([kind] if fit(kind) else [[one] for one in kind])]


def fit(engines: Sequence[Engine]) -> bool:
    """Whether these engines can run side by side: on the processor, and in the memory that is available now."""
    machine = detect()
    asked = [engine for engine in engines if not engine.alive]
    needed = sum(engine.need.total - engine.need.reserve for engine in asked)
    reserve = max((engine.need.reserve for engine in asked), default=0)
    room = machine.available_gib is not None and needed + reserve <= machine.available_gib
    return machine.runner == "native" and room


class Starts:
    """The starts of several engines. They begin with the first engine that is used."""

    def __init__(self, engines: Sequence[PutOff]) -> None:
        self.own = [engine._start for engine in engines]
        self.names = {engine.spec.name for engine in engines}
        self.at_once = max(1, sum(bool(one.spec.native and one.spec.native.startup_s >= SLOW_S) for one in engines))
        self.begun: list[Future[Engine]] = []
        for place, engine in enumerate(engines):
            engine._start = functools.partial(self.started, place)

    def started(self, place: int) -> Engine:
        """The engine at this place, once all starts have ended."""
        if not self.begun:
            threads = ThreadPoolExecutor(self.at_once)
            self.begun = [threads.submit(start) for start in self.own]
            threads.shutdown(wait=False)  # each thread ends with its start
        wait(self.begun)
        engine = self.begun[place].result()
        engine.resume()  # the launch of its neighbour may have paused it (reuse.take_over)
        return engine

    def end(self, engines: Iterable[Engine]) -> None:
        """Stop these engines and all that has started here, and end what is still starting, as after Ctrl-C."""
        begun = [one for one in self.begun if not one.cancel()]  # one that waits for the others never starts
        while wait(begun, timeout=0.2).not_done:
            for engine in list(launcher._running.values()):
                if engine.spec.name in self.names and not engine.startup_s:
                    engine.end()
        for one in begun:
            if not one.exception():
                one.result().stop()
        for engine in engines:
            engine.stop()
