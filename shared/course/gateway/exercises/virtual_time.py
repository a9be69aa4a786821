"""An event loop whose clock jumps to the next timer, so that a check of minutes takes a millisecond.

    play(function, scene)         # awaits scene() on such a loop, while `function` sees its clock

Whatever the function waits for must be a timer or another task of the loop. Where neither is left, it waits for ever.
"""

import asyncio
import time
from asyncio import events
from collections.abc import Callable, Coroutine
from typing import Any

from shared.course.exercise import Function, Wrong

MOST_TURNS = 20_000
CLOCKS = time, time.perf_counter, time.monotonic, time.time, time.sleep  # `from time import …` makes a name of its own


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s, self.turns = 1000.0, 0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise Wrong("It asks again and again without waiting, and never ends.")
        if not self._ready:  # type: ignore[attr-defined]
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            if not timers:
                raise Wrong("It waits for something that never happens.")
            self.now_s = max(self.now_s, min(timers))
        super()._run_once()  # type: ignore[misc]


class Clock:
    """Stands for the module `time` in the function under test, and its functions for those that were imported."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.perf_counter = self.monotonic = loop.time
        self.time = lambda: loop.time() + 1e9  # the clock of the day is another one, and must not be taken for them

    def sleep(self, seconds: float) -> None:
        raise Wrong("time.sleep stops the event loop, and with it every other request. Await asyncio.sleep.")

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


def play(function: Function, scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Await `scene()` in virtual time. Raises what it raises; Wrong if it never ends."""
    loop, names = VirtualLoop(), getattr(function, "__globals__", {})
    outer = events._get_running_loop()  # a notebook's own loop runs in this thread
    clock = Clock(loop)
    before = {name: one for name, one in names.items() if any(one is known for known in CLOCKS)}
    names.update({name: clock if one is time else getattr(clock, one.__name__) for name, one in before.items()})
    events._set_running_loop(None)
    loop.set_exception_handler(lambda *_: None)  # what a left task raises is judged by the scene
    try:
        loop.run_until_complete(scene())
    finally:
        names.update(before)
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.turns = 0
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        events._set_running_loop(outer)


def now_s() -> float:
    """The virtual time."""
    return asyncio.get_running_loop().time()
