"""Who may ask, and how much. The file holds only hashes, and is read again when it changes: no restart is needed.

    {"secret": "5e88…", "keys": {"anna": {"hash": "9f86d0…", "priority": "paid", "limits": {"burst": 5}}}}

`python -m gateway keys add NAME` prints a new key once, and adds its hash.
"""

import hmac
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_serializer

from gateway.errors import ApiError
from gateway.metrics import Metrics
from gateway.settings import Limits, Settings


class Key(BaseModel):
    """One key. Only its hash is kept, not the key itself."""

    model_config = ConfigDict(extra="forbid")

    hash: str = Field(pattern="^[0-9a-f]{64}$")
    priority: Literal["paid", "free"] = "free"  # paid keys are served before free ones
    limits: Limits | None = None  # what it doesn't state is as in the settings
    name: str = Field(default="", exclude=True)

    @field_serializer("limits")
    def stated(self, limits: Limits | None) -> dict[str, Any] | None:
        """Only the limits that this key's entry states are written, so the others follow the settings."""
        return limits.model_dump(exclude_unset=True) if limits else None


class KeyFile(BaseModel):
    """The keys' file."""

    model_config = ConfigDict(extra="forbid")

    secret: str = Field(default_factory=lambda: secrets.token_hex(32), min_length=16)
    keys: dict[str, Key] = {}

    @classmethod
    def read(cls, file: Path) -> "KeyFile":
        found = cls.model_validate_json(file.read_bytes())
        for name, key in found.keys.items():
            key.name = name
        return found

    def write(self, file: Path) -> None:
        """Replace the file in one step, so that no reader sees half of it. Only its owner may read it."""
        new = file.with_name(f".{file.name}.{os.getpid()}")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(self.model_dump_json(indent=2, exclude_none=True) + "\n")
        new.replace(file)


def hash_of(token: str, secret: bytes) -> str:
    """The hash that the file holds.

    A slow hash (bcrypt, scrypt) protects passwords that people choose. A key of 256 random bits can't be guessed
    however fast its hash is, and a slow one would cost each request 100 ms. The secret makes the hashes of one
    installation useless for another.
    """
    return hmac.digest(secret, token.encode(), "sha256").hex()


def find_key(token: str, keys: Iterable[Key], secret: bytes) -> Key | None:
    """The key whose hash is that of `token`, or None.

    The time that this takes must tell a caller nothing: neither which key matched, nor how much of a hash was right.
    """
    # BEGIN SOLUTION: find_key: hash once, compare by hmac.compare_digest, and go on after a match
    wanted, found = hash_of(token, secret), None
    for key in keys:
        if hmac.compare_digest(key.hash, wanted):
            found = key
    return found
    # END SOLUTION


class Bucket:
    """A token bucket: `burst` requests at once, refilled at `rate_per_s`."""

    def __init__(self, rate_per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate_per_s, self.burst, self.clock = rate_per_s, burst, clock
        self.level, self.at_s = float(burst), clock()  # there were `level` tokens at the moment `at_s`

    def take(self) -> float:
        """Take one token. Returns 0.0, or the seconds until there is a whole one: a client gets them as Retry-After.

        Nothing refills the bucket meanwhile: the level is brought up to date here, by `self.clock()`, and never exceeds
        `burst`.
        """
        # BEGIN SOLUTION: take: bring the level up to date, then take one or compute the wait
        now_s = self.clock()
        self.level = min(self.burst, self.level + (now_s - self.at_s) * self.rate_per_s)
        self.at_s = now_s
        if self.level < 1:
            return (1 - self.level) / self.rate_per_s
        self.level -= 1
        return 0.0
        # END SOLUTION


class Keys:
    """The keys as their file has them now, and what each of them uses."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings, self._refused, self._file = settings, metrics.refused, settings.keys_file
        self._known, self._stamp = KeyFile(), (0, 0)
        self._local = Key(name="local", hash="0" * 64, priority="paid")
        self._buckets: dict[str, tuple[Limits, Bucket]] = {}
        self._running: dict[str, int] = {}
        self.problem = ""  # why the newest version of the file is not used
        self._read_again()
        if self.problem:
            raise SystemExit(
                f"The keys can't be read. {self.problem}\nFix: python -m gateway keys add NAME makes the file"
            )

    def find(self, authorization: str) -> Key:
        """The key that this header carries. Raises ApiError 401."""
        if self._file is None:
            return self._local
        self._read_again()
        scheme, _, token = authorization.partition(" ")
        key = find_key(token.strip(), self._known.keys.values(), self._known.secret.encode())
        if key is None or scheme.lower() != "bearer":
            self._refused.labels("key", "").inc()
            raise ApiError(401, "The API key is missing or wrong.", "invalid_api_key", retry=False)
        return key

    @contextmanager
    def one_request(self, key: Key) -> Iterator[None]:
        """Count one request of this key. Raises ApiError 429 if its rate or concurrency is used up."""
        limits = key.limits or self._settings.limits
        share, running = limits.share(self._settings.workers), self._running.get(key.name, 0)
        if running >= share.concurrent:
            raise self._refusal(key, "concurrency", f"This key may run {limits.concurrent} requests at once.", 1)
        used, bucket = self._buckets.get(key.name, (None, None))
        if bucket is None or used != limits:  # new, or changed in the file
            bucket = Bucket(share.requests_per_minute / 60, share.burst)
            self._buckets[key.name] = limits, bucket
        if wait_s := bucket.take():
            text = f"This key may send {limits.requests_per_minute:g} requests a minute."
            raise self._refusal(key, "rate", text, wait_s)
        self._running[key.name] = running + 1
        try:
            yield
        finally:
            self._running[key.name] -= 1

    def _refusal(self, key: Key, reason: str, text: str, wait_s: float) -> ApiError:
        self._refused.labels(reason, key.name).inc()
        return ApiError(429, text, "rate_limit_exceeded" if reason == "rate" else reason, wait_s)

    def _read_again(self) -> None:
        """Read the file if it has changed. A broken file changes nothing: the keys that were valid stay so."""
        if self._file is None:
            return
        try:
            status = self._file.stat()
            if (stamp := (status.st_mtime_ns, status.st_ino)) != self._stamp:
                known = KeyFile.read(self._file)
                for key in known.keys.values():
                    key.limits = self._settings.limits.replaced_by(key.limits)
                    key.limits.share(self._settings.workers)
                self._known, self._stamp, self.problem = known, stamp, ""
        except (OSError, ValueError) as e:  # pydantic's ValidationError is a ValueError
            text = e.errors()[0]["msg"] if isinstance(e, ValidationError) else str(e)
            self.problem = f"{self._file}: {text}"
