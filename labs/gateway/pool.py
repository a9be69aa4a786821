"""The engines: which are healthy, which serve a model, which has the most room; and the queue for their seats.

An engine is taken out after several failed health checks in a row, or after several requests in a row without an answer
(a circuit breaker). After `breaker_s` one request tries the engine, and it is back when that answer begins. An engine
that answers with an error stays in, because the request may be the reason: such failures are only counted.

A request that can't be served soon is refused at once, because a queue that only grows helps nobody: every answer then
comes too late. Requests of paid keys come first: they don't wait for free ones in the queue.
"""

import asyncio
import bisect
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import orjson

from gateway.errors import ApiError
from gateway.keys import Key
from gateway.metrics import Metrics
from gateway.settings import EngineSettings, Settings

REFUSALS = {
    "no engine": (503, "No engine that serves this model is available.", "no_engine"),
    "queue full": (429, "Too many requests wait already.", "queue_full"),
    "queue time": (503, "No seat became free in time.", "overloaded"),
}


class Engine:
    """One engine: its address, its models, its seats, and its health."""

    def __init__(self, name: str, asked: EngineSettings, settings: Settings, metrics: Metrics) -> None:
        self.name, self.url = name, asked.url.rstrip("/")
        self.fixed_models, self.models = bool(asked.models), frozenset(asked.models)
        self.seats, self.reserved = (asked.seats // settings.workers, asked.reserved // settings.workers)
        self.running, self.healthy = 0, False
        self._missed = 0  # health checks in a row
        self._failures, self._try_at_s = (0, 0.0)  # requests that failed in a row; the next try, by time.monotonic()
        self._settings, self._metrics = settings, metrics
        for gauge, value in ((metrics.seats, self.seats), (metrics.running, 0), (metrics.up, 0)):
            gauge.labels(name).set(value)

    @property
    def available(self) -> bool:
        """Whether a request may be sent."""
        closed = self._failures < self._settings.breaker_failures
        return self.healthy and (closed or time.monotonic() >= self._try_at_s)

    def began(self) -> None:
        """An answer has begun. An engine that was taken out is back; one more failure takes it out again."""
        self._failures = min(self._failures, self._settings.breaker_failures - 1)
        self._show()

    def succeeded(self) -> None:
        """A request was answered."""
        self._failures = 0
        self._show()

    def failed(self, reason: str, is_broken: bool = True) -> None:
        """A request failed. If the engine is not broken, the request itself may be at fault."""
        self._metrics.failures.labels(self.name, reason).inc()
        if is_broken:
            self._failures += 1
            self._try_at_s = time.monotonic() + self._settings.breaker_s
            self._show()

    def checked(self, healthy: bool) -> None:
        """A health check has ended. A busy engine may miss one, so it takes several to call it dead."""
        self._missed = 0 if healthy else self._missed + 1
        self.healthy = healthy or (self.healthy and self._missed < self._settings.breaker_failures)
        if not healthy:
            self._metrics.failures.labels(self.name, "health").inc()
        self._show()

    def seat(self, more: int) -> None:
        """Take one seat (1) or give it back (-1)."""
        self.running += more
        self._metrics.running.labels(self.name).set(self.running)
        if more > 0:
            self._try_at_s = time.monotonic() + self._settings.breaker_s  # an open breaker lets one request through

    def _show(self) -> None:
        closed = self._failures < self._settings.breaker_failures
        self._metrics.up.labels(self.name).set(self.healthy and closed)


@dataclass(order=True)
class Waiter:
    """A request in the queue: paid before free, then by arrival."""

    is_free: bool
    number: int
    model: str = field(compare=False)
    tried: frozenset[Engine] = field(compare=False)
    seat: "asyncio.Future[Engine]" = field(compare=False)


class Pool:
    """All engines, the task that looks after their health, and the queue for their seats."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.engines = [Engine(name, one, settings, metrics) for name, one in settings.engines.items()]
        self._settings, self._metrics = settings, metrics
        self._most_queued = settings.most_queued // settings.workers
        self._queue: list[Waiter] = []
        self._numbers = itertools.count()

    def serving(self, model: str) -> list[Engine]:
        """Every engine that serves this model, healthy or not."""
        return [engine for engine in self.engines if model in engine.models]

    def models(self) -> list[str]:
        return sorted({model for engine in self.engines if engine.available for model in engine.models})

    def best(self, model: str, is_free: bool, tried: frozenset[Engine]) -> Engine | None:
        """The engine with the fewest requests for its size (least outstanding); None if none has a free seat."""
        free = [
            engine for engine in self.serving(model)
            if engine.available and engine not in tried
            and engine.running < engine.seats - (engine.reserved if is_free else 0)
        ]  # fmt: skip
        return min(free, key=lambda engine: engine.running / engine.seats, default=None)

    @asynccontextmanager
    async def seat(self, model: str, key: Key, tried: frozenset[Engine]) -> AsyncIterator[Engine]:
        """Hold a seat of an engine that serves the model and wasn't tried, after waiting for one.

        Raises ApiError: 429 if the queue is full, 503 if no engine is available or the wait was too long.
        """
        engine = await self._wait(model, key, tried)
        try:
            yield engine
        finally:
            engine.seat(-1)
            self.hand_out()

    async def _wait(self, model: str, key: Key, tried: frozenset[Engine]) -> Engine:
        if not any(engine.available and engine not in tried for engine in self.serving(model)):
            raise self._refusal("no engine", key, tried)
        is_free = key.priority != "paid"
        if sum(one.model == model and one.is_free <= is_free for one in self._queue) >= self._most_queued:
            raise self._refusal("queue full", key, tried)
        seat: asyncio.Future[Engine] = asyncio.get_running_loop().create_future()
        waiter = Waiter(is_free, next(self._numbers), model, tried, seat)
        bisect.insort(self._queue, waiter)
        self.hand_out()
        began_s, gauge = time.monotonic(), self._metrics.waiting.labels(model)
        gauge.inc()
        try:
            async with asyncio.timeout(self._settings.queue_s):
                return await seat
        except BaseException as e:
            if seat.done() and not seat.cancelled() and not seat.exception():
                seat.result().seat(-1)  # the request got a seat in the moment in which it left
                self.hand_out()
            raise self._refusal("queue time", key, tried) if isinstance(e, TimeoutError) else e from None
        finally:
            gauge.dec()
            self._metrics.queued.labels(model).observe(time.monotonic() - began_s)
            if waiter in self._queue:
                self._queue.remove(waiter)

    def _refusal(self, reason: str, key: Key, tried: frozenset[Engine]) -> ApiError:
        """Count a refusal. Its Retry-After is one second for each waiting request per seat, at least one second.

        A request that an engine has failed already is not refused: its client gets that failure.
        """
        if not tried:
            self._metrics.refused.labels(reason, key.name).inc()
        seats = sum(engine.seats for engine in self.engines if engine.available) or 1
        return ApiError(*REFUSALS[reason], retry_after_s=max(1, len(self._queue) / seats))

    def hand_out(self) -> None:
        """Give free seats to requests that wait, in their order."""
        full = set()  # what no engine has a seat for
        for waiter in list(self._queue):
            kind = waiter.model, waiter.is_free, waiter.tried
            engine = None if kind in full else self.best(*kind)
            if engine is None:
                full.add(kind)
            elif not waiter.seat.done():
                engine.seat(1)
                self._queue.remove(waiter)
                waiter.seat.set_result(engine)

    async def watch(self, session: aiohttp.ClientSession) -> None:
        """Check every engine's health, again and again. One that hangs delays no other one's check."""
        await asyncio.gather(*(self._watch(engine, session) for engine in self.engines))

    async def _watch(self, engine: Engine, session: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(self._settings.health_every_s)
            await self._check(engine, session)
            self.hand_out()  # the engine may have come back

    async def check(self, session: aiohttp.ClientSession) -> None:
        """Check every engine's health once."""
        await asyncio.gather(*(self._check(engine, session) for engine in self.engines))

    async def _check(self, engine: Engine, session: aiohttp.ClientSession) -> None:
        """Ask one engine for its models."""
        try:
            limit = aiohttp.ClientTimeout(total=5, sock_connect=self._settings.connect_s)
            async with session.get(f"{engine.url}/v1/models", timeout=limit, raise_for_status=True) as answer:
                models = frozenset(str(one["id"]) for one in orjson.loads(await answer.read())["data"])
            engine.models = engine.models if engine.fixed_models else models
            engine.checked(True)
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
            engine.checked(False)
