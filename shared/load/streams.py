"""Parse the bytes of a streamed answer: OpenAI's server-sent events and Ollama's lines of JSON.

Both are a list of events. An event has arrived when its last byte has. A piece of the body may end anywhere, even in
the middle of a character, so events are cut out as bytes and decoded when they are whole.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jiter

Event = tuple[int, bytes, bytes]  # timestamp of the piece that completed it, its name, its data


@dataclass
class StreamContent:
    """The content of an answer so far."""

    arrivals_ns: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    reasoning_ns: list[int] = field(default_factory=list)
    reasoning_texts: list[str] = field(default_factory=list)
    input_tokens: int | None = None
    output_tokens: int | None = None
    tokens_from: str | None = None
    cached_tokens: int | None = None
    finish_reason: str | None = None
    timings: dict[str, Any] | None = None
    first_choice_ns: int | None = None  # the first chunk that belongs to the answer, even if empty or only a role
    last_choice_ns: int | None = None
    finished: bool = False  # its last event has arrived
    error: str | None = None

    def add(self, stamp: int, text: str | None, reasoning: str | None) -> None:
        self.first_choice_ns = self.first_choice_ns or stamp
        self.last_choice_ns = stamp
        if reasoning:
            self.reasoning_ns.append(stamp)
            self.reasoning_texts.append(reasoning)
        if text:
            self.arrivals_ns.append(stamp)
            self.texts.append(text)


def is_ollama(path: str) -> bool:
    """Whether this endpoint speaks Ollama's dialect. Open WebUI's /api/chat/completions speaks OpenAI's."""
    return path.startswith("/api/") and not path.endswith("/completions")


def parse(path: str, stamps: Sequence[int], pieces: Sequence[bytes]) -> StreamContent:
    """Read a body in the dialect of its endpoint, up to its first error."""
    found = StreamContent()
    ollama = is_ollama(path)
    take = _ollama if ollama else _openai
    last = "final object" if ollama else "[DONE]"
    for stamp, name, data in (_lines if ollama else _events)(stamps, pieces):
        if data == b"[DONE]":
            found.finished = True
            continue
        try:
            chunk = jiter.from_json(data)
            if name == b"error" or chunk.get("error"):
                found.error = f"the engine reported: {str(chunk.get('error') or chunk)[:300]}"
            else:
                take(found, stamp, chunk)
        except ValueError:
            found.error = f"an event is not JSON: {data[:80]!r}"
        except (AttributeError, TypeError):  # JSON of another shape
            found.error = f"an event is not a chunk: {data[:80]!r}"
        if found.error:
            return found
    if not found.finished:
        found.error = f"the stream ended before its {last}"
    return found


def _events(stamps: Sequence[int], pieces: Sequence[bytes]) -> Iterator[Event]:
    """Server-sent events: each is a few lines of fields, followed by an empty line."""
    rest = b""
    for stamp, piece in zip(stamps, pieces, strict=True):
        *whole, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
        for block in whole:
            name, data = b"", b""
            for line in block.split(b"\n"):
                key, _, value = line.partition(b":")
                if key == b"data":
                    data += value.strip()
                elif key == b"event":
                    name = value.strip()
            if data:
                yield stamp, name, data


def _lines(stamps: Sequence[int], pieces: Sequence[bytes]) -> Iterator[Event]:
    """NDJSON: each line is an event."""
    rest = b""
    for stamp, piece in zip(stamps, pieces, strict=True):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.strip():
                yield stamp, b"", line


def _openai(found: StreamContent, stamp: int, chunk: Mapping[str, Any]) -> None:
    """Read a chunk of chat or completions. vLLM names the reasoning `reasoning`, others `reasoning_content`."""
    for choice in chunk.get("choices") or ():
        delta = choice.get("delta") or choice  # completions have no delta: the choice itself has their text
        found.add(
            stamp, delta.get("content") or delta.get("text"), delta.get("reasoning_content") or delta.get("reasoning")
        )
        found.finish_reason = choice.get("finish_reason") or found.finish_reason
    found.timings = chunk.get("timings") or found.timings
    if usage := chunk.get("usage"):
        found.input_tokens = usage.get("prompt_tokens", found.input_tokens)
        found.output_tokens = usage.get("completion_tokens", found.output_tokens)
        found.tokens_from = "usage"
        found.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", found.cached_tokens)


def _ollama(found: StreamContent, stamp: int, chunk: Mapping[str, Any]) -> None:
    """Read a line of /api/chat, where `message` has the text, or of /api/generate, where `response` has it."""
    message = chunk.get("message") or chunk
    found.add(stamp, message.get("content") or message.get("response"), message.get("thinking"))
    if chunk.get("done"):
        found.finished = True
        found.finish_reason = chunk.get("done_reason")
        found.input_tokens = chunk.get("prompt_eval_count")
        found.output_tokens = chunk.get("eval_count")
        found.tokens_from = "engine" if found.output_tokens is not None else None
        found.timings = {k: v for k, v in chunk.items() if k.endswith(("_count", "_duration"))}
