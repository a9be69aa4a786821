"""The exercise `pass_on`: a stream's blocks on their way to the client, and the times of its tokens."""

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from types import SimpleNamespace

from shared.course.exercise import Exercise, Function, Wrong
from shared.course.gateway.exercises.virtual_time import now_s, play

FILE = "gateway/relay.py"
Script = list[
    tuple[float, bytes, bool, bytes]
]  # seconds until a block comes, the block, whether it has text, what is sent
STREAM: Script = [
    (0, b"role", False, b"role"), (2, b"Hel", True, b"Hel"), (1, b"lo", True, b""), (4, b" you", True, b"lo you"),
    (0.5, b"!", True, b"!"),
]  # fmt: skip
SEND_S = 3.0  # the client is slow


def pass_on(f: Function) -> None:
    play(f, lambda: scene(f, STREAM))
    play(f, lambda: scene(f, STREAM[1:]))  # some engines send text in the first block
    play(f, lambda: fails(f))
    play(f, lambda: is_cancelled(f))


async def passed(f: Function, read: Callable[[], Awaitable[bytes]]) -> None:
    """One stream whose first block has text. Its client gets each block at once."""

    async def send(out: bytes) -> None: ...

    events = SimpleNamespace(
        text_seen=True, done=False, whole=b"", feed=lambda block: block, for_client=lambda one: one
    )
    nothing = SimpleNamespace(observe=lambda seconds: None)
    await f(b"Hel", read, send, events, now_s(), nothing, nothing)


async def fails(f: Function) -> None:
    error = ConnectionResetError("the engine broke the connection")

    async def read() -> bytes:
        raise error

    try:
        await passed(f, read)
    except ConnectionResetError:
        return
    raise Wrong("`read` raised an error, because the engine broke the connection, and yours swallowed it: let it pass.")


async def is_cancelled(f: Function) -> None:
    async def read() -> bytes:
        await asyncio.sleep(3600)
        return b""

    task = asyncio.ensure_future(passed(f, read))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait((task,), timeout=10)
    if not task.cancelled():
        raise Wrong("When the client leaves, pass_on is cancelled. Yours swallowed the CancelledError: let it pass.")


async def scene(f: Function, stream: Script) -> None:
    log: list[tuple[str, bytes]] = []
    came_s: list[float] = [now_s()]
    firsts: list[float] = []
    gaps: list[float] = []
    rest = stream[1:]
    events = SimpleNamespace(text_seen=False, done=False, whole=b"")

    def feed(block: bytes) -> bytes:
        log.append(("feed", block))
        events.text_seen = events.text_seen or any(text for _, one, text, _ in stream if one == block)
        return block

    def for_client(block: bytes) -> bytes:
        if [one for what, one in log if what == "feed"][-1:] != [block]:
            raise Wrong("Call events.feed(block) first: events.for_client(block) needs what it has found.")
        return next((out for _, one, _, out in stream if one == block), b"")

    async def read() -> bytes:
        log.append(("read", b""))
        if not rest:
            return b""
        wait_s, block, _, _ = rest.pop(0)
        await asyncio.sleep(wait_s)
        came_s.append(now_s())
        return block

    async def send(out: bytes) -> None:
        log.append(("send", bytes(out)))
        await asyncio.sleep(SEND_S)
        log.append(("sent", bytes(out)))

    events.feed, events.for_client = feed, for_client
    arrived_s = now_s() - 10
    await f(
        stream[0][1], read, send, events, arrived_s,
        SimpleNamespace(observe=firsts.append), SimpleNamespace(observe=gaps.append),
    )  # fmt: skip
    judge_order(log, stream)
    if stream[0][2]:
        judge_text_first(came_s, firsts, gaps, arrived_s)
    else:
        judge_times(came_s, firsts, gaps, arrived_s)


def judge_order(log: list[tuple[str, bytes]], stream: Script) -> None:
    sent = [out for what, out in log if what == "send"]
    blocks, outs = [block for _, block, _, _ in stream], [out for _, _, _, out in stream]
    fed = [block for what, block in log if what == "feed"]
    if fed == blocks[1:]:
        raise Wrong("The first block is not read: it is the argument `block`. Yours skipped it.")
    if fed != blocks:
        raise Wrong("Each block must go through events.feed(block), once, as it comes.")
    if b"" in sent:
        raise Wrong("events.for_client returned b'' (nothing can be sent yet), and yours sent that.")
    if sent == blocks:
        raise Wrong("Send what events.for_client(block) returns, not the block itself.")
    if b"".join(sent) != b"".join(outs):
        raise Wrong(f"The client should get {b''.join(outs)!r}; yours sent {b''.join(sent)!r}.")
    if len(sent) == 1:
        raise Wrong("All is sent at the end, in one piece. Send each block before the next is read.")
    # Between one read and the next, everything that came before has been sent.
    reads = [place for place, (what, _) in enumerate(log) if what == "read"]
    for number, place in enumerate(reads):
        before = [out for what, out in log[:place] if what == "sent"]
        if b"".join(before) != b"".join(outs[: number + 1]):
            raise Wrong(
                "A block was not on its way to the client when the next one was read. Send it first, and await that: a "
                "client that does not read must stop the reading from the engine."
            )


def judge_times(came_s: list[float], firsts: list[float], gaps: list[float], arrived_s: float) -> None:
    right, role = came_s[1] - arrived_s, came_s[0] - arrived_s
    if not firsts:
        raise Wrong("first_token.observe was not called.")
    if firsts[0] > 1e8:
        raise Wrong("time.time() is the clock of the day, but arrived_s is a time.perf_counter(). Use that clock.")
    if near(firsts[0], role):
        raise Wrong("The first block had only a role. The first token has come once events.text_seen is true.")
    if len(firsts) > 1:
        raise Wrong("first_token.observe must be called once per stream.")
    if near(firsts[0], right + SEND_S):
        raise Wrong("The time to first token contains the time of sending. Take the time when the block has come.")
    if not near(firsts[0], right):
        raise Wrong(f"Time to first token: {right:.1f} s from arrived_s to the first text; yours {firsts[0]:.1f} s.")
    wanted = [later - earlier for earlier, later in pairwise(came_s[1:])]
    if same(gaps, wanted):
        return
    if not gaps:
        raise Wrong("between.observe was not called.")
    if len(gaps) == len(wanted) + 1 and same(gaps[:-1], wanted):
        raise Wrong("between.observe was called for the b'' at the stream's end, which is no block.")
    if len(gaps) > len(wanted):
        raise Wrong(
            "between.observe was called for a block before or with the first text. Its gaps begin behind the "
            "block with the first text."
        )
    if same(gaps, [wanted[0], *(gap - SEND_S for gap in wanted[1:])]) or len(gaps) == len(wanted):
        raise Wrong(
            f"The times between blocks should be {listed(wanted)} s, from one block's coming to the next one's; yours "
            f"are {listed(gaps)} s. Take the time once per block, when it has come, and not after sending."
        )
    raise Wrong("Observe the time since the block before for each block after the first text, also if nothing is sent.")


def judge_text_first(came_s: list[float], firsts: list[float], gaps: list[float], arrived_s: float) -> None:
    if not same(firsts, [came_s[0] - arrived_s]) or not same(gaps, [b - a for a, b in pairwise(came_s)]):
        raise Wrong(
            "The first block may have text already. Then its coming is the time to first token, and each later block "
            "has a gap."
        )


def near(a: float, b: float) -> bool:
    return abs(a - b) < 1e-6


def same(a: list[float], b: list[float]) -> bool:
    return len(a) == len(b) and all(map(near, a, b))


def listed(seconds: list[float]) -> str:
    return ", ".join(f"{one:g}" for one in seconds)


EXERCISE = Exercise(
    "pass_on", "exercise-pass-on", 2, 3, 12,
    "The client sees each block when the engine has sent it, and a slow client slows only its own stream.",
    (
        "When may the next block be read: before or after this one was sent?",
        "Take the time at the top of the loop, when the block has just come.",
        "`had_text = events.text_seen` before feeding tells the first text from later blocks.",
    ),
    pass_on, FILE,
)  # fmt: skip
