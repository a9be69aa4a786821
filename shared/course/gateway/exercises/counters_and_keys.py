"""Exercises on what a stream carries (feed), and on keys (take, find_key)."""

import hmac
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from shared.course import registry, starter
from shared.course.exercise import Exercise, Function, Wrong, short

LAB = registry.find_lab("3.3.5")
METRICS, KEYS = "gateway/metrics.py", "gateway/keys.py"


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
    with starter.installed(LAB, FEED, f) as package:
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
        state(events, place, f"(lines end with {end!r})")


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
        if seen != whole[: ends[complete[-1]] if complete else 0]:
            raise Wrong(
                f"In blocks of {size} bytes an event arrives in pieces: keep the beginning in self.rest and return it "
                f"with its end, as soon as that has come. (Lines end with {end!r} here.)"
            )
        if complete:
            state(events, complete[-1], f"in blocks of {size} bytes, whose lines end with {end!r}")


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


def take(f: Function) -> None:
    [exercise] = [one for one in EXTRAS if one.function == "take"]
    now = [50.0]
    with starter.installed(LAB, exercise, f) as package:

        def bucket(rate_per_s: float, burst: int) -> Any:
            return package["keys"].Bucket(rate_per_s, burst, lambda: now[0])

        full = bucket(2.0, 3)
        got = [full.take() for _ in range(3)]
        if None in got:
            raise Wrong("take returned nothing. Return 0.0 if a token was taken, else the seconds until there is one.")
        if got != [0, 0, 0]:
            raise Wrong(f"A new bucket with burst=3 gives three tokens at once: [0, 0, 0]; yours returned {got}.")
        wait_s = full.take()
        if wait_s == 0:
            raise Wrong("The bucket was empty, and take returned 0: the request got in.")
        if not near(wait_s, 0.5):
            raise Wrong(f"At 2 tokens a second an empty bucket has one after 0.5 s; yours returned {short(wait_s)}.")
        again_s = full.take()
        if not near(again_s, 0.5):
            raise Wrong(
                f"A refused request took a token: asked again at once, the wait must still be 0.5 s, not {again_s:g}."
            )
        now[0] += 0.25
        if not near(full.take(), 0.25):
            raise Wrong(
                "Half the time has passed since, so half the wait is left: 0.25 s. Does the level keep fractions?"
            )
        now[0] += 0.25
        if full.take() != 0:
            raise Wrong(
                "After the announced wait there must be a token. Each call adds what has come since at_s, and moves "
                "at_s to now."
            )
        if full.take() == 0:
            raise Wrong("The same time was counted twice: move at_s to now whenever the level is brought up to date.")
        now[0] += 3600
        got = [full.take() for _ in range(4)]
        if got[:3] != [0, 0, 0]:
            raise Wrong("After a long pause the bucket is full again.")
        if got[3] == 0:
            raise Wrong(
                "After a pause of an hour more than `burst` requests came in at once: the level never exceeds it."
            )


def find_key(f: Function) -> None:
    keys_module = starter.package_of(LAB, f)["keys"]
    secret = random.Random().randbytes(16)
    tokens = [f"sk-{name}" for name in ("anna", "ben", "cleo")]
    keys = [keys_module.Key(name=t[3:], hash=keys_module.hash_of(t, secret)) for t in tokens]
    names = f.__globals__
    for number, token in enumerate([*tokens, "sk-nobody", "", keys[0].hash]):
        with counted(names) as compared:
            got = f(token, iter(keys), secret)
        wanted: Any = keys[number] if number < 3 else None
        if got is not None and wanted is None:
            if token == keys[0].hash:
                raise Wrong("The stored hash itself was accepted as a key. Hash the token: hash_of(token, secret).")
            raise Wrong(f"No key has the text {token!r}: return None. Yours returned {short(got)}.")
        if got is not wanted:
            if isinstance(got, bool):
                raise Wrong("Return the key itself (or None), since its name and its limits are needed.")
            if got is None and True in compared:
                raise Wrong(
                    f"The key {wanted.name!r} was found, and then a later comparison overwrote it: change the variable "
                    "only at a match."
                )
            if got is None:
                raise Wrong(f"The key {wanted.name!r} was not found: hash the token with hash_of(token, secret).")
            raise Wrong(f"The token is that of {wanted.name!r}; yours returned {short(got)}.")
        if not compared:
            raise Wrong(
                "`==` ends at the first byte that differs, so its time tells a caller how much was right: "
                "hmac.compare_digest."
            )
        if len(compared) < len(keys):
            raise Wrong(
                f"{len(compared)} of {len(keys)} keys were compared, so the time tells which key matched: go on "
                "after a match."
            )


@contextmanager
def counted(names: dict[str, Any]) -> Iterator[list[bool]]:
    """The results of all comparisons by compare_digest within the block, whether it is that of hmac or of secrets."""
    calls: list[bool] = []

    class Counted:
        def __init__(self, module: Any) -> None:
            self.module = module

        def __getattr__(self, name: str) -> Any:
            return getattr(self.module, name)

        def compare_digest(self, a: Any, b: Any) -> bool:
            calls.append(hmac.compare_digest(a, b))
            return calls[-1]

    before: dict[str, Any] = {name: names[name] for name in ("hmac", "secrets", "compare_digest") if name in names}
    for name, one in before.items():
        names[name] = Counted(hmac).compare_digest if name == "compare_digest" else Counted(one)
    try:
        yield calls
    finally:
        names.update(before)


def near(a: Any, b: float) -> bool:
    return isinstance(a, int | float) and abs(a - b) < 1e-6


FEED = Exercise(
    "feed", "exercise-feed", 3, 3, 15,
    "Tokens are counted as the engine counted them, however they were packed into chunks and blocks.",
    (
        "What of a block can be read now, and what must wait for the next block?",
        "An event ends with an empty line: find the last b\"\\n\\n\" or b\"\\n\\r\\n\" of self.rest + block.",
        "EVENT.findall(self.whole) gives the events, and self.note(data_of(event)) notes what one carries.",
    ),
    feed, METRICS, "Events",
)  # fmt: skip
EXTRAS = (
    Exercise(
        "take", "exercise-take", 2, 2, 10,
        "A key can't crowd out the others, and its client learns how long to wait.",
        (
            "No thread fills the bucket. How many tokens have come since the last call?",
            "level = min(burst, level + (now - at_s) * rate_per_s), then at_s = now.",
            "Without a whole token: return (1 - level) / rate_per_s, and take nothing.",
        ),
        take, KEYS, "Bucket",
    ),
    Exercise(
        "find_key", "exercise-find-key", 1, 2, 6,
        "The time of an answer tells an attacker nothing about the keys.",
        (
            "What does the time of `==` depend on?",
            "hmac.compare_digest takes as long for a wrong hash as for a right one.",
            "Remember the match in a variable, and go on with the other keys.",
        ),
        find_key, KEYS,
    ),
)  # fmt: skip
