"""The engines: which are healthy, which serve a model, and which has the most room.

An engine is taken out by three failures in a row, whether a health check or a request saw them (a circuit breaker). After
`breaker_s` it gets one request or health check: success takes it back in.
"""

import asyncio
import time
from collections.abc import Iterable

import aiohttp
import orjson

from gateway.metrics import Metrics
from gateway.settings import EngineSettings, Settings


class Engine:
    """One engine: its address, its models, its seats, and its health."""

    def __init__(self, name: str, asked: EngineSettings, settings: Settings, metrics: Metrics) -> None:
        self.name, self.url, self.seats = name, asked.url, asked.seats
        self.fixed_models = frozenset(asked.models)
        self.models = self.fixed_models
        self.running = 0
        self._failures, self._settings, self._metrics = 0, settings, metrics
        self._closed_again_at = 0.0  # by time.monotonic()
        self.seen = False  # whether it has ever answered
        metrics.seats.labels(name).set(self.seats)
        metrics.running.labels(name).set(0)
        metrics.up.labels(name).set(0)

    @property
    def available(self) -> bool:
        """Whether a request may be sent: it has answered before, and its breaker is closed or due for a try."""
        return self.seen and (self._failures < self._settings.breaker_failures or self._due)

    @property
    def _due(self) -> bool:
        return time.monotonic() >= self._closed_again_at and self.running == 0

    def succeeded(self) -> None:
        self._failures, self.seen = 0, True
        self._metrics.up.labels(self.name).set(1)

    def failed(self, reason: str) -> None:
        self._failures += 1
        self._metrics.failures.labels(self.name, reason).inc()
        if self._failures >= self._settings.breaker_failures:
            self._closed_again_at = time.monotonic() + self._settings.breaker_s
            self._metrics.up.labels(self.name).set(0)

    def take(self) -> None:
        self.running += 1
        self._metrics.running.labels(self.name).set(self.running)

    def free(self) -> None:
        self.running -= 1
        self._metrics.running.labels(self.name).set(self.running)


class Pool:
    """All engines, and the task that looks after their health."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self.engines = [Engine(name, one, settings, metrics) for name, one in settings.engines.items()]
        self.changed = asyncio.Event()  # an engine came back: waiting requests may go on
        self._settings = settings

    def serving(self, model: str) -> list[Engine]:
        """Every engine that serves this model, healthy or not."""
        return [engine for engine in self.engines if model in engine.models]

    def best(self, model: str, without: Iterable[Engine] = ()) -> Engine | None:
        """The engine with the smallest share of its seats taken; None if none has a free one."""
        free = [e for e in self.serving(model) if e.available and e.running < e.seats and e not in without]
        return min(free, key=lambda e: e.running / e.seats, default=None)

    def models(self) -> list[str]:
        return sorted({model for engine in self.engines if engine.available for model in engine.models})

    async def watch(self, session: aiohttp.ClientSession) -> None:
        """Ask every engine for its models, again and again."""
        while True:
            await asyncio.gather(*(self._check(engine, session) for engine in self.engines))
            await asyncio.sleep(self._settings.health_every_s)

    async def _check(self, engine: Engine, session: aiohttp.ClientSession) -> None:
        limit = aiohttp.ClientTimeout(total=self._settings.connect_s + 3)
        before = engine.available
        try:
            async with session.get(f"{engine.url}/v1/models", timeout=limit) as answer:
                answer.raise_for_status()
                listed = orjson.loads(await answer.read())["data"]
                if not engine.fixed_models:
                    engine.models = frozenset(str(one["id"]) for one in listed)
            engine.succeeded()
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError):
            engine.failed("health")
        if engine.available and not before:
            self.changed.set()
