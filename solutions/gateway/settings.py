"""Every number of the gateway in one place: a TOML file, and environment variables on top of it.

GATEWAY_CONFIG=gateway.toml GATEWAY_PORT=9000 python -m gateway
"""

import ipaddress
import os
from pathlib import Path

from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource


class EngineSettings(BaseModel):
    """One engine behind the gateway."""

    url: str  # without /v1
    models: list[str] = []  # empty: the engine's own /v1/models is asked
    seats: PositiveInt = 32  # requests that it may run at once

    @field_validator("url")
    @classmethod
    def without_slash(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("an engine's url begins with http:// or https://")
        return url.rstrip("/")


class Limits(BaseModel):
    """What one key may use, unless its own entry in the keys' file differs."""

    requests_per_minute: PositiveFloat = 600
    burst: PositiveInt = 60  # requests that may come at once after a pause
    concurrent: PositiveInt = 64


class Settings(BaseSettings):
    """The whole configuration. Raises pydantic's ValidationError, which names the wrong field."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_", env_nested_delimiter="__", extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(9000, ge=1, le=65535)
    engines: dict[str, EngineSettings] = {}
    keys_file: Path | None = None  # without one, everybody on this machine may ask
    limits: Limits = Limits()

    most_queued: PositiveInt = 256  # requests that wait for a seat; the next one gets 429
    queue_s: PositiveFloat = 30  # a request that waited so long gets 503
    connect_s: PositiveFloat = 2
    first_byte_s: PositiveFloat = 60
    idle_s: PositiveFloat = 30  # between two blocks of bytes, and for a client that doesn't read
    total_s: PositiveFloat = 900
    header_s: PositiveFloat = 10  # for a client to send its headers
    most_header_bytes: PositiveInt = 32 * 1024
    most_body_bytes: PositiveInt = 4 * 2**20
    most_answer_bytes: PositiveInt = 64 * 2**20  # of an answer that is not streamed, which is kept until it is whole
    drain_s: PositiveFloat = 30  # after SIGTERM, for streams to end

    health_every_s: PositiveFloat = 1
    breaker_failures: PositiveInt = 3  # failures in a row that take an engine out
    breaker_s: PositiveFloat = 5  # for so long; then one request tries it

    log_prompts: bool = False

    @model_validator(mode="after")
    def only_local_without_keys(self) -> "Settings":
        if self.keys_file is None and not is_loopback(self.host):
            raise ValueError(f"host {self.host} can be reached from outside: set keys_file, or use 127.0.0.1")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], **sources: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        file = TomlConfigSettingsSource(settings_cls, os.environ.get("GATEWAY_CONFIG"))
        return sources["init_settings"], sources["env_settings"], file


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
