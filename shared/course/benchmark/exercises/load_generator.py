"""The exercise of lab 3.3.1 that writes the load generator: a closed loop of many users."""

import asyncio
import heapq
import inspect
import random
from collections.abc import Coroutine
from typing import Any

from shared.course.exercise import Exercise, Function, Wrong, short
from shared.load.loops import in_own_loop

PATIENCE = 50  # turns of the event loop that a generator gets to send what it can send now
source = random.Random()


class Engine:
    """An engine in a time of its own: each answer takes a known number of seconds, and waiting costs none."""

    def __init__(self, durations_s: list[float]) -> None:
        self.durations_s = durations_s
        self.now_s = 0.0
        self.sent: list[int] = []
        self.most_at_once = 0
        self.sent_at_s: dict[int, float] = {}
        self._under_way: list[tuple[float, int, asyncio.Future[str]]] = []

    async def send(self, number: int) -> str:
        if not isinstance(number, int) or not 0 <= number < len(self.durations_s):
            raise Wrong(f"send({number!r}) was called. The requests have the numbers 0 to {len(self.durations_s) - 1}.")
        if number in self.sent_at_s:
            raise Wrong(f"Request {number} was sent twice. All users share one supply of numbers.")
        self.sent.append(number)
        self.sent_at_s[number] = self.now_s
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._under_way, (self.now_s + self.durations_s[number], number, answer))
        self.most_at_once = max(self.most_at_once, len(self._under_way))
        return await answer

    async def run(self, generator: Coroutine[Any, Any, Any]) -> Any:
        """Let the generator run until it ends; each time that it can only wait, the next answer ends."""
        task = asyncio.ensure_future(generator)
        while not task.done():
            for _ in range(PATIENCE):
                await asyncio.sleep(0)
            if task.done():
                break
            if not self._under_way:
                task.cancel()
                raise Wrong("It waits for ever: no request is under way, and it has not returned.")
            self.now_s, number, answer = heapq.heappop(self._under_way)
            answer.set_result(f"answer {number}")
        return task.result()


def ideal(users: int, durations_s: list[float]) -> tuple[list[int], float]:
    """The order in which answers end, and the time of the last one."""
    running: list[tuple[float, int]] = []
    ended, now_s = [], 0.0
    for number, duration_s in enumerate(durations_s):
        if len(running) == users:
            now_s, first = heapq.heappop(running)
            ended.append(first)
        heapq.heappush(running, (now_s + duration_s, number))
    while running:
        now_s, first = heapq.heappop(running)
        ended.append(first)
    return ended, now_s


def closed_loop(f: Function) -> None:
    if not inspect.iscoroutinefunction(f):
        raise Wrong("closed_loop is no `async def`, so it can't wait for answers while others run.")
    for users, requests in ((1, 3), (3, 10), (4, 17), (5, 3)):
        durations_s = [source.uniform(1, 2) for _ in range(requests)]
        durations_s[0] = 7.0  # a long answer: its user is still waiting when the others go on
        engine = Engine(durations_s)
        got = in_own_loop(engine.run(f(users, requests, engine.send)))
        missing = requests - len(engine.sent)
        if missing:
            raise Wrong(
                f"{missing} of {requests} requests were not sent, with {users} users. Does a remainder get lost?"
            )
        if engine.most_at_once > users:
            raise Wrong(f"{engine.most_at_once} requests were under way at once, with {users} users. "
                        "A user sends the next request when its last answer has ended.")  # fmt: skip
        if engine.most_at_once < min(users, requests):
            raise Wrong(f"Only {engine.most_at_once} of {users} users had a request under way at once. "
                        "Start a task for each user, then wait for all of them.")  # fmt: skip
        ended, over_s = ideal(users, [durations_s[number] for number in engine.sent])
        if engine.now_s > over_s + 1e-6:
            raise Wrong("A user waited although its answer had ended. Don't wait for the other users of a wave, "
                        "and don't give each user a fixed share: a free user takes the next number.")  # fmt: skip
        if engine.sent != sorted(engine.sent):
            raise Wrong(f"Requests were sent in the order {short(engine.sent)}. Send them by their numbers, 0 first. "
                        "Then a repeated measurement sends the same prompts in the same order.")  # fmt: skip
        if got is None:
            raise Wrong("closed_loop returned nothing. Return the answers.")
        if list(got) != [f"answer {number}" for number in ended]:
            kept = sorted(map(str, got)) == sorted(f"answer {number}" for number in ended)
            raise Wrong("The answers are there, but not in the order in which they ended: add each when it has ended."
                        if kept else "What it returned is not what `send` returned, one for each request.")  # fmt: skip


EXERCISES = (
    Exercise(
        function="closed_loop",
        cell="ex-closed-loop",
        difficulty=3,
        importance=3,
        minutes=20,
        why="This loop slows down when the engine does. However slow the engine is, at most as many requests wait as "
        "there are users.",
        hints=(
            "A user is a loop: take the next number, send it, wait, keep the answer. How do users share the numbers?",
            "Write the user as an inner `async def`. All users can share one iterator over range(requests).",
            "`await asyncio.gather(*(user() for _ in range(users)))` starts all users and waits until each has ended.",
        ),
        test=closed_loop,
    ),
)
