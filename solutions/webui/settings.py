"""Every setting in one place. Each is an environment variable WEBUI_*, and some are arguments too (`__main__`)."""

import ipaddress
from pathlib import Path

from pydantic import Field, PositiveFloat, PositiveInt, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The whole configuration. Raises pydantic's ValidationError, which names the wrong field."""

    model_config = SettingsConfigDict(env_prefix="WEBUI_")

    host: str = "127.0.0.1"
    port: int = Field(default=3000, ge=1, le=65535)
    ollama: str = "http://127.0.0.1:11434"
    gateway: str = ""  # an OpenAI-compatible server, without /v1; empty: none
    gateway_key: SecretStr = SecretStr("")
    data: Path = Path.home() / ".local" / "share" / "inference-labs-webui"

    leave_s: PositiveFloat = 10  # an answer that no page has listened to for so long is stopped
    idle_s: PositiveFloat = 300  # an engine that sends nothing for so long is given up; loading a model takes a while
    save_s: PositiveFloat = 1  # a running answer is saved this often

    most_text_bytes: PositiveInt = 2**20  # of one message, and of every other small request
    most_import_bytes: PositiveInt = 32 * 2**20
    most_import_messages: PositiveInt = 50_000
    most_upload_bytes: PositiveInt = 64 * 2**30  # of a GGUF file

    @field_validator("host")
    @classmethod
    def loopback(cls, host: str) -> str:
        """The page has no passwords, so it serves this machine only."""
        if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
            raise ValueError("use 127.0.0.1; from another machine: ssh -L 3000:127.0.0.1:3000 <this machine>")
        return host

    @field_validator("ollama", "gateway")
    @classmethod
    def address(cls, url: str) -> str:
        if url and not url.startswith(("http://", "https://")):
            raise ValueError("it must begin with http:// or https://")
        return url.rstrip("/").removesuffix("/v1")
