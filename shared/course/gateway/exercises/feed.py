"""The exercise `feed`: what a stream carries, however the network cuts it."""

import json
import random
from typing import Any

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong, short

LAB = registry.find_lab("3.3.5")
FILE = "gateway/metrics.py"


def event(end: str = "\n", /, **data: Any) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}{end}{end}".encode()


def chunk(end: str, **delta: Any) -> bytes:
    return event(end, choices=[{"index": 0, "delta": delta}], usage=None)


USAGE = {"prompt_tokens": 31, "completion_tokens": 7, "total_tokens": 38}


def stream(end: str) -> list[bytes]:
    """The events of one answer of seven tokens, in five chunks with text. Lines end with `end`."""
    return [
        chunk(end, role="assistant", content=None),
        f": a comment{end}{end}".encode(),
        chunk(end, content=""),
        chunk(end, content="Café"),
        chunk(end, content=" où"),
        f"data: {{no JSON{end}{end}".encode(),
        chunk(end, content=" [DONE] 你好"),
        event(end, choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=None),
        event(end, choices=[], usage=USAGE),
        f"data: [DONE]{end}{end}".encode(),
    ]


FIRST_TEXT, USAGE_AT = 3, 8  # their places in the stream


def feed(f: Function) -> None:
    source = random.Random()
    with starter.installed(LAB, EXERCISE, f) as package:
        make = package["metrics"].Events
        for end in ("\n", "\r\n"):
            parts = stream(end)
            whole = b"".join(parts)
            one_by_one(make, parts, end)
            for size in (1, 2, 3, source.randrange(4, 60), source.randrange(60, 400), len(whole)):
                cut(make, parts, size, end)
        for odd in (
            event("\n", choices="none"),
            b"data: 7\n\n",
            b"data: \xff\xfe\n\n",
            event("\n", choices=[{"text": "a"}]),
        ):
            quiet(make, odd)
        first_text(make)
        last = make(True)
        last.feed(b"data:[DONE]\n\n")
        if not last.done:
            raise Wrong("data:[DONE] has no space, and is the last event all the same: data_of(event) finds its data.")


def first_text(make: Any) -> None:
    """What counts as the first text."""
    for delta, text in (({"reasoning_content": "Hm"}, True), ({"tool_calls": [{}]}, True), ({"content": ""}, False)):
        events = make(True)
        events.feed(chunk("\n", **delta))
        if bool(events.text_seen) is not text:
            raise Wrong(f"A chunk with {delta} is {'the first text' if text else 'no text'}: text_seen must be {text}.")


def quiet(make: Any, odd: bytes) -> None:
    events = make(True)
    try:
        events.feed(odd)
    except Exception as e:
        raise Wrong(
            f"feed raised {type(e).__name__} for {odd!r}. It must never raise, "
            "because a stream that can't be read is still passed on."
        ) from None


def one_by_one(make: Any, parts: list[bytes], end: str) -> None:
    """Each block is a whole event."""
    events = make(True)
    for place, part in enumerate(parts):
        got = fed(events, part)
        if got != part or events.whole != part:
            if got is None:
                raise Wrong("feed returned nothing. It returns the events that are whole now, as bytes.")
            raise Wrong(
                f"The block {short(part)} is a whole event, so feed returns it, and sets self.whole; yours returned "
                f"{short(got)}, and self.whole is {short(events.whole)}. (Lines end with {end!r} here.)"
            )
        state(events, place, f"where lines end with {end!r}")
    fed(events, b": a comment\n\n")
    if not events.done:
        raise Wrong("A comment behind [DONE] has reset `done`. Once the stream is done, it stays so.")


def cut(make: Any, parts: list[bytes], size: int, end: str) -> None:
    """The same stream in blocks of so many bytes, which end anywhere."""
    events, whole, seen = make(True), b"".join(parts), b""
    ends = [sum(map(len, parts[: place + 1])) for place in range(len(parts))]
    for start in range(0, len(whole), size):
        block = whole[start : start + size]
        got = fed(events, block)
        seen += got or b""
        if events.whole != (got or b""):
            raise Wrong(
                f"feed returned {short(got)}, but self.whole is {short(events.whole)}. It holds the events that became "
                "whole with this block, or b''. The gateway sends what stands there, so older ones would go out twice."
            )
        complete = [place for place, at in enumerate(ends) if at <= start + len(block)]
        if events.rest and seen + as_bytes(events.rest) != whole[: start + len(block)]:
            raise Wrong(
                "What feed returned and self.rest together are no longer the stream's bytes. A block may end in the "
                "middle of a character (é has two bytes): don't decode blocks, keep bytes."
            )
        if seen != whole[: ends[complete[-1]] if complete else 0]:
            raise Wrong(
                f"In blocks of {size} bytes an event arrives in pieces: keep the beginning in self.rest and return it "
                f"with its end, as soon as that has come. (Lines end with {end!r} here.)"
            )
        if complete:
            state(events, complete[-1], f"in blocks of {size} bytes, whose lines end with {end!r}")


def as_bytes(rest: object) -> bytes:
    return rest if isinstance(rest, bytes) else str(rest).encode()


def fed(events: Any, block: bytes) -> Any:
    try:
        return events.feed(block)
    except NotImplementedError:
        raise
    except UnicodeDecodeError:
        raise Wrong(
            "A block may end in the middle of a character (é has two bytes): don't decode blocks, keep bytes."
        ) from None
    except json.JSONDecodeError as e:  # orjson's error is one, too
        raise Wrong(
            f"feed raised {type(e).__name__} for {short(block)}. Not every event is JSON: it must never raise."
        ) from None
    except ValueError as e:
        raise Wrong(
            f"feed raised {type(e).__name__} ({e}) for {short(block)}. A block may hold no end of an event, or several."
        ) from None


def state(events: Any, place: int, how: str) -> None:
    """Compare what is known after the event at this place."""
    if events.text_seen and place < FIRST_TEXT:
        raise Wrong("text_seen is true after a chunk with only a role, or with empty text. That is no token yet.")
    if not events.text_seen and place >= FIRST_TEXT:
        raise Wrong(f"text_seen is still false after the chunk with the first text, {how}.")
    if events.done and place < len(stream("\n")) - 1:
        raise Wrong("done is true too early: the text itself may contain [DONE]. The last event is `data: [DONE]`.")
    if not events.done and place == len(stream("\n")) - 1:
        raise Wrong(f"done is still false after `data: [DONE]`, {how}.")
    wanted = USAGE if place >= USAGE_AT else None
    if events.usage == wanted:
        return
    if isinstance(events.usage, int):
        raise Wrong(
            "usage is the engine's own object, a dict. Chunks are no tokens: an engine may put two into one chunk."
        )
    if wanted is None:
        raise Wrong(f"usage should be None before the engine has sent it; yours is {short(events.usage)}.")
    raise Wrong(f"The engine's usage was {wanted}; self.usage is {short(events.usage)}, {how}. (`usage` may be null.)")


EXERCISE = Exercise(
    "feed", "exercise-feed", 3, 3, 15,
    "Tokens are counted as the engine counted them, however they were packed into chunks and blocks.",
    (
        "What of a block can be read now, and what must wait for the next block?",
        "An event ends with an empty line: find the last b\"\\n\\n\" or b\"\\n\\r\\n\" of self.rest + block.",
        "EVENT.findall(self.whole) gives the events, and self.note(data_of(event)) notes what one carries.",
    ),
    feed, FILE, "Events",
)  # fmt: skip
