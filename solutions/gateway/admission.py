"""Who gets in, and when: the limits of a key, then the queue for a seat.

A request that can't be served soon is refused at once, because a queue that only grows helps nobody: every answer then
comes too late. Paid keys stand before free ones, and a queue that is full of free requests drops the youngest of them.
"""

import asyncio
import bisect
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from gateway.errors import ApiError
from gateway.keys import Key
from gateway.metrics import Metrics
from gateway.pool import Engine, Pool
from gateway.settings import Settings


class Bucket:
    """A token bucket: `burst` requests at once, refilled at `per_minute`."""

    def __init__(self, per_minute: float, burst: int) -> None:
        self.rate_per_s, self.burst = per_minute / 60, burst
        self._level, self._at = float(burst), time.monotonic()

    def take(self) -> float:
        """Take one token. Returns 0, or the seconds until there is one."""
        now = time.monotonic()
        self._level = min(self.burst, self._level + (now - self._at) * self.rate_per_s)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return 0.0
        return (1 - self._level) / self.rate_per_s


@dataclass(order=True)
class Waiter:
    """A request in the queue: paid before free, then by arrival."""

    rank: int
    number: int
    model: str = field(compare=False)
    without: frozenset[Engine] = field(compare=False)
    seat: "asyncio.Future[Engine]" = field(compare=False)


class Admission:
    """The limits of all keys, and the queue."""

    def __init__(self, settings: Settings, pool: Pool, metrics: Metrics) -> None:
        self._settings, self._pool, self._metrics = settings, pool, metrics
        self._buckets: dict[str, tuple[Bucket, int, float]] = {}
        self._running: dict[str, int] = {}
        self._queue: list[Waiter] = []
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def of_key(self, key: Key) -> Iterator[None]:
        """Count one request of this key. Raises ApiError 429 if its rate or concurrency is used up."""
        running = self._running.get(key.name, 0)
        if running >= key.limits.concurrent:
            self._metrics.refused.labels("concurrency").inc()
            raise ApiError(429, f"This key may run {key.limits.concurrent} requests at once.", "concurrency", 1)
        if wait_s := self._bucket(key).take():
            self._metrics.refused.labels("rate").inc()
            text = f"This key may send {key.limits.requests_per_minute:g} requests a minute."
            raise ApiError(429, text, "rate_limit_exceeded", wait_s)
        self._running[key.name] = running + 1
        try:
            yield
        finally:
            self._running[key.name] -= 1

    def _bucket(self, key: Key) -> Bucket:
        """The key's bucket; a new one if its limits were changed."""
        limits = key.limits
        bucket, burst, rate = self._buckets.get(key.name, (None, 0, 0.0))
        if bucket is None or (burst, rate) != (limits.burst, limits.requests_per_minute):
            bucket = Bucket(limits.requests_per_minute, limits.burst)
            self._buckets[key.name] = bucket, limits.burst, limits.requests_per_minute
        return bucket

    @contextlib.asynccontextmanager
    async def seat(self, model: str, key: Key, without: frozenset[Engine]) -> AsyncIterator[Engine]:
        """Hold a seat of an engine that serves the model, after waiting for one.

        Raises ApiError: 429 if the queue is full, 503 if no engine is available or the wait was too long.
        """
        engine = await self._wait(model, key, without)
        try:
            yield engine
        finally:
            engine.free()
            self.hand_out()

    async def _wait(self, model: str, key: Key, without: frozenset[Engine]) -> Engine:
        if not any(engine.available and engine not in without for engine in self._pool.serving(model)):
            self._metrics.refused.labels("no engine").inc()
            raise ApiError(503, f"No engine that serves {model} is available now.", "no_engine", 1)
        if not self._waiting_for(model) and (engine := self._pool.best(model, without)):
            engine.take()
            return engine
        if len(self._queue) >= self._settings.most_queued:
            self._make_room(key)
        seat: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        waiter = Waiter(key.rank, next(self._numbers), model, without, seat)
        bisect.insort(self._queue, waiter)
        self._metrics.waiting.labels(model).inc()
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.queue_s):
                return await seat
        except BaseException as e:
            if seat.done() and not seat.cancelled() and seat.exception() is None:
                seat.result().free()  # it got a seat and left in the same moment
                self.hand_out()
            if isinstance(e, TimeoutError):
                self._metrics.refused.labels("queue time").inc()
                text = f"No seat became free within {self._settings.queue_s:g} s."
                raise ApiError(503, text, "overloaded", self._settings.queue_s) from None
            raise
        finally:
            self._metrics.waiting.labels(model).dec()
            self._metrics.queued.labels(model).observe(time.monotonic() - began)
            with contextlib.suppress(ValueError):
                self._queue.remove(waiter)

    def _make_room(self, key: Key) -> None:
        """Drop the youngest request of a lower class, or refuse this one."""
        last = self._queue[-1]
        self._metrics.refused.labels("queue full").inc()
        refusal = ApiError(429, "Too many requests wait already.", "queue_full", self._retry_after_s())
        if last.rank <= key.rank:
            raise refusal
        self._queue.pop()
        last.seat.set_exception(refusal)

    def _retry_after_s(self) -> float:
        """A guess: a queue's worth of requests, at the seats that there are."""
        seats = sum(engine.seats for engine in self._pool.engines if engine.available) or 1
        return max(1.0, len(self._queue) / seats)

    def _waiting_for(self, model: str) -> bool:
        return any(waiter.model == model for waiter in self._queue)

    async def wake_up(self) -> None:
        """Hand out seats when an engine has come back."""
        while True:
            await self._pool.changed.wait()
            self._pool.changed.clear()
            self.hand_out()

    def hand_out(self) -> None:
        """Give free seats to those who wait, in their order."""
        for waiter in list(self._queue):
            engine = self._pool.best(waiter.model, waiter.without)
            if engine and not waiter.seat.done():
                engine.take()
                self._queue.remove(waiter)
                waiter.seat.set_result(engine)
