"""Who may ask. The file holds only hashes, and is read again when it changes: no restart to add or revoke a key.

[keys.anna]
sha256 = "9f86d0…"          # python -m gateway.keys prints a new key and these lines
class = "paid"              # "paid" is served before "free"
requests_per_minute = 1200  # optional, as burst and concurrent
"""

import hashlib
import hmac
import secrets
import sys
import tomllib
from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from gateway.settings import Limits

CLASSES = ("paid", "free")  # in the order in which they are served


class Key(BaseModel):
    """One key, known by its name. The key itself is nowhere."""

    name: str = "local"
    sha256: str = Field("", pattern="^([0-9a-f]{64})?$")
    rank: int = 0  # the place of its class: 0 is served first
    limits: Limits = Limits()


LOCAL = Key()


class Keys:
    """The keys' file, as it is now."""

    def __init__(self, file: Path | None, limits: Limits) -> None:
        self.file, self.defaults = file, limits
        self._stamp: tuple[int, int] | None = None
        self._keys: list[Key] = []
        self._local = LOCAL.model_copy(update={"limits": limits})
        self.problem = ""  # why the newest version of the file is not used

    def find(self, token: str) -> Key | None:
        """The key of this token, or None. Every comparison takes the same time, whatever the token is."""
        if self.file is None:
            return self._local
        self._read_again()
        wanted = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, wanted):
                found = key
        return found

    def _read_again(self) -> None:
        """Read the file if it has changed. A broken file changes nothing: the keys that were valid stay so."""
        assert self.file is not None
        try:
            status = self.file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp != self._stamp:
                self._keys = self._parsed(self.file.read_text())
                self.problem = ""
                self._stamp = stamp
        except (OSError, ValueError, ValidationError, KeyError, TypeError) as e:
            self.problem = f"{self.file}: {e}"
            if self._stamp is None:
                raise SystemExit(f"The keys can't be read. {self.problem}") from None

    def _parsed(self, text: str) -> list[Key]:
        keys = []
        for name, entry in tomllib.loads(text)["keys"].items():
            entry = dict(entry)
            sha256, rank = entry.pop("sha256"), CLASSES.index(entry.pop("class", "free"))
            limits = Limits(**{**self.defaults.model_dump(), **entry})
            if not sha256:
                raise ValueError(f"{name} has no sha256")
            keys.append(Key(name=name, sha256=sha256, rank=rank, limits=limits))
        return keys

    def check(self) -> None:
        """Read the file now. Raises SystemExit if there is one and it can't be used."""
        if self.file is not None:
            self._read_again()


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "a-name"
    key = "sk-" + secrets.token_urlsafe(32)
    print(f'The key, shown this once: {key}\n\n[keys.{name}]\nsha256 = "{hashlib.sha256(key.encode()).hexdigest()}"')


if __name__ == "__main__":
    main()
