"""Looks into a stream without holding it up: the first text, the usage, the end."""

import contextlib
import re
from typing import Any

import orjson

EVENT = re.compile(rb".*?\r?\n\r?\n", re.S)
TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")


class Events:
    """The events of one stream, fed block by block.

    Where the client did not ask for the usage, its event is left out, and an event that has not come whole is held
    back until it is. Else every byte is passed on at once.
    """

    def __init__(self, pass_usage: bool) -> None:
        self.pass_usage = pass_usage
        self.usage: dict[str, Any] | None = None
        self.text_seen = False
        self.done = False
        self._rest = b""

    def feed(self, block: bytes) -> bytes:
        """Returns what of the stream so far may go to the client now."""
        data = self._rest + block
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        end = 0 if end < 4 else end
        whole, self._rest = data[:end], data[end:]
        if b"[DONE]" in whole:
            self.done = True
        if not self.text_seen or whole.count(b'"usage":') != whole.count(b'"usage":null'):
            whole = b"".join(event for event in EVENT.findall(whole) if self._look(event))
        return block if self.pass_usage else whole

    def rest(self) -> bytes:
        """What was held back and is no whole event."""
        return b"" if self.pass_usage else self._rest

    def _look(self, event: bytes) -> bool:
        """Note what this event carries. Returns whether it goes to the client."""
        if not event.startswith(b"data:"):
            return True
        with contextlib.suppress(orjson.JSONDecodeError, AttributeError, TypeError):
            parsed = orjson.loads(event[5:].strip())
            choices = parsed.get("choices") or []
            for choice in choices:
                said = choice.get("delta") or {}
                self.text_seen = self.text_seen or bool(choice.get("text") or any(said.get(name) for name in TEXTS))
            if usage := parsed.get("usage"):
                self.usage = usage
                return bool(choices)
        return True
