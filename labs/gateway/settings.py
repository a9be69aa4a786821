"""Every number of the gateway in one place: a TOML file, and environment variables on top of it.

GATEWAY_CONFIG=gateway.toml GATEWAY_PORT=9000 python -m gateway
"""

import ipaddress
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, TomlConfigSettingsSource


class EngineSettings(BaseModel):
    """One engine behind the gateway."""

    model_config = ConfigDict(extra="forbid")

    url: str = Field(pattern="^https?://")  # without /v1
    models: list[str] = []  # empty: the engine's own /v1/models is asked
    seats: PositiveInt = 32  # requests that it may run at once
    reserved: NonNegativeInt = 0  # of these, seats that only paid keys get


class Limits(BaseModel):
    """What one key may use. Its own entry in the keys' file may state some of them, or all."""

    model_config = ConfigDict(extra="forbid")

    requests_per_minute: PositiveFloat = 600
    burst: PositiveInt = 60  # requests that may come at once after a pause
    concurrent: PositiveInt = 64

    def replaced_by(self, own: "Limits | None") -> "Limits":
        """These limits, with what a key's own entry states in their place."""
        return self.model_copy(update=own.model_dump(exclude_unset=True)) if own else self

    def share(self, workers: int) -> "Limits":
        """What one of so many workers may grant. Raises ValueError if there is not one for each."""
        if min(self.burst, self.concurrent) < workers:
            raise ValueError(f"{workers} workers need a burst and a concurrency of at least {workers}")
        rate, burst, concurrent = self.requests_per_minute / workers, self.burst // workers, self.concurrent // workers
        return Limits(requests_per_minute=rate, burst=burst, concurrent=concurrent)


class Settings(BaseSettings):
    """The whole configuration. Raises pydantic's ValidationError, which names the wrong field."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", env_nested_delimiter="__", extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=9000, ge=1, le=65535)
    workers: PositiveInt = 1  # processes; each grants its share of all limits, so their sum is never exceeded
    engines: dict[str, EngineSettings] = {}
    keys_file: Path | None = None  # without one, everybody on this machine may ask
    limits: Limits = Limits()

    most_queued: PositiveInt = 256  # requests that wait for a model, the paid ones counted apart; the next gets 429
    queue_s: PositiveFloat = 30  # a request that waited so long gets 503
    connect_s: PositiveFloat = 2
    first_byte_s: PositiveFloat = 60  # of a stream
    idle_s: PositiveFloat = 30  # between two blocks of bytes, and for a client that doesn't read
    total_s: PositiveFloat = 900
    header_s: PositiveFloat = 10  # for a client to send its headers
    body_s: PositiveFloat = 30  # and its body
    most_header_bytes: PositiveInt = 32 * 1024
    most_body_bytes: PositiveInt = 4 * 2**20
    most_answer_bytes: PositiveInt = 64 * 2**20  # of an answer that is not streamed, which is kept until it is whole
    drain_s: PositiveInt = 30  # after SIGTERM, for streams to end

    health_every_s: PositiveFloat = 1
    breaker_failures: PositiveInt = 3  # in a row, of health checks or of requests, that take an engine out
    breaker_s: PositiveFloat = 5  # for so long; then one request tries it

    slo_first_token_s: PositiveFloat = 2  # an answer's tokens count as goodput if its first text came within this time
    slo_between_tokens_s: PositiveFloat = 0.2  # and the mean time from token to token was no longer
    log_prompts: bool = False

    @model_validator(mode="after")
    def consistent(self) -> "Settings":
        if self.keys_file is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host} can be reached from outside: set keys_file, or use 127.0.0.1")
        if any(engine.seats < self.workers for engine in self.engines.values()) or self.most_queued < self.workers:
            raise ValueError(f"{self.workers} workers need at least so many seats of each engine and in the queue")
        if any(0 < engine.reserved < self.workers for engine in self.engines.values()):
            raise ValueError(f"{self.workers} workers need at least so many reserved seats of an engine, or none")
        self.limits.share(self.workers)
        return self

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, **sources: Any) -> Any:  # type: ignore[override]
        name = os.environ.get("GATEWAY_CONFIG")
        if name and not Path(name).is_file():
            raise FileNotFoundError(f"there is no file {name}")
        return sources["init_settings"], sources["env_settings"], TomlConfigSettingsSource(settings_cls, name)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
