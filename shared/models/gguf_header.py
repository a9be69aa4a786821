"""The metadata of a GGUF file, read in a tenth of a second. The package `gguf` takes two, because it prepares tensors.

The format is described in ggml's docs/gguf.md: a magic word, a version, two counts, then keys with typed values.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

from shared.errors import LabError

NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


def read(file: Path) -> dict[str, Any]:
    """Every key of the file and its value. Strings are bytes. Raises LabError if it is no complete GGUF file."""
    try:
        with file.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            return Reader(content).keys()
    except (OSError, ValueError, struct.error, KeyError) as e:
        why = e.strerror if isinstance(e, OSError) and e.strerror else e
        raise LabError(
            f"{file.name} can't be read as a GGUF file: {why}.", "check its path, or make it again"
        ) from None


class Reader:
    """A position in the file that moves on with each value."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 8  # after the magic word and the version

    def keys(self) -> dict[str, Any]:
        self.number("Q")  # the count of tensors, which follow the keys
        return {self.string().decode(): self.value(self.number("I")) for _ in range(self.number("Q"))}

    def number(self, form: str) -> Any:
        [value] = struct.unpack_from(f"<{form}", self.content, self.at)
        self.at += struct.calcsize(f"<{form}")
        return value

    def string(self) -> bytes:
        length = self.number("Q")
        self.at += length
        return self.content[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self.array(self.number("I"), self.number("Q"))
        return self.number(NUMBERS[kind])

    def array(self, of: int, count: int) -> list[Any]:
        if of == STRING:
            return self.strings(count)
        if of == ARRAY:
            return [self.value(of) for _ in range(count)]
        form = f"<{count}{NUMBERS[of]}"
        found = struct.unpack_from(form, self.content, self.at)
        self.at += struct.calcsize(form)
        return list(found)

    def strings(self, count: int) -> list[bytes]:
        """The next strings. A vocabulary and its merges are 100,000 of them, so this is written for speed."""
        content, at, found = self.content, self.at, []
        length_at = struct.Struct("<Q").unpack_from
        for _ in range(count):
            [length] = length_at(content, at)
            at += 8 + length
            found.append(content[at - length : at])
        self.at = at
        return found
