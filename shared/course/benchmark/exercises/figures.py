"""Exercises of lab 3.3.1 on figures: TTFT and TPOT, throughput, and which of two engines is ahead.

Each test makes up requests, computes what every common mistake would return for them, and raises the hint for the
mistake that matches.
"""

import random
from dataclasses import replace
from typing import Any

from shared.course.exercise import Exercise, Function, Wrong, expect
from shared.load.client import Trace

MS = 1_000_000

Chunks = list[tuple[int, str]]


def stream(source: random.Random, per_chunk: int = 1) -> tuple[int, Chunks, int]:
    """Return a made-up chat: (sent_ns, chunks, output tokens). Its first and last chunk carry no text."""
    sent = source.randrange(10**12, 10**13)
    now = sent + source.randrange(20, 60) * MS
    chunks = [(now, "")]
    now += source.randrange(30, 200) * MS
    count = source.randrange(5, 12)
    for number in range(count):
        chunks.append((now, " " if number == 0 else "word " * per_chunk))
        now += source.randrange(5 * MS, 60 * MS)
    chunks.append((now + 30 * MS, ""))
    return sent, chunks, 1 + (count - 1) * per_chunk


def part(f: Function, place: int) -> Function:
    """One of the two numbers that the student's function returns, so that each is judged by itself."""

    def one(*given: Any) -> Any:
        got = f(*given)
        if got is None:
            raise Wrong("latencies_ms returned nothing. Is `return` missing?")
        if not isinstance(got, tuple | list) or len(got) != 2:
            raise Wrong("Return a pair, (TTFT, TPOT), even if one of the two or both are None.")
        return got[place]

    one.__name__ = f"The {('TTFT', 'TPOT')[place]} of latencies_ms"
    return one


def latencies(f: Function) -> None:
    ttft(part(f, 0))
    tpot(part(f, 1))


def ttft(f: Function) -> None:
    source = random.Random()
    for _ in range(3):
        sent, chunks, tokens = stream(source)
        ns = chunks[1][0] - sent
        expect(
            f,
            (sent, chunks, tokens),
            ns / 1e6,
            {
                "TTFT: the first chunk carries only a role: no token has come yet. Take the first one with text.": (
                    chunks[0][0] - sent
                )
                / 1e6,
                "TTFT is in nanoseconds: a millisecond has 10⁶ of them.": ns,
                "TTFT is in microseconds: a millisecond has 10⁶ nanoseconds.": ns / 1e3,
                "TTFT is in seconds; the function must return ms.": ns / 1e9,
                "A space is a token too: skip only chunks whose text is empty.": (chunks[2][0] - sent) / 1e6,
                "That is the last chunk with text. TTFT ends at the first one.": (chunks[-2][0] - sent) / 1e6,
                "Time to first token counts from the moment the request was sent.": chunks[1][0] / 1e6,
            },
        )
    for chunks, first in (
        ([(sent + 40 * MS, "The"), (sent + 70 * MS, " sky"), (sent + 90 * MS, "")], 40),
        ([(sent + 40 * MS, ""), (sent + 60 * MS, ""), (sent + 70 * MS, "The"), (sent + 90 * MS, " sky")], 70),
    ):
        by_place = (
            "Look at a chunk's text, not at its place: the first chunk may already carry text, or several may not"
        )
        others = {f"{by_place}. TTFT ends at the first that does.": (chunks[1][0] - sent) / 1e6}
        expect(f, (sent, chunks, 2), first, others)
    silent = "What if no chunk carries text? Then there was no first token: TTFT is None"
    nothing: tuple[int, Chunks, int]
    for nothing in ((sent, [(sent + 40 * MS, ""), (sent + 90 * MS, "")], 0), (sent, [], 0)):
        try:
            expect(
                f,
                nothing,
                None,
                {
                    f"{silent}. 0 would make a failed request the fastest.": 0,
                    f"{silent}, not the time of an empty chunk.": 40,
                    f"{silent}, not the time of the second chunk, whatever is in it.": 90,
                },
            )
        except (IndexError, StopIteration, ValueError, TypeError, UnboundLocalError) as e:
            raise Wrong(f"{silent}. (Yours raised {type(e).__name__}.)") from None


def tpot(f: Function) -> None:
    source = random.Random()
    for per_chunk in (1, 4, 3):
        sent, chunks, tokens = stream(source, per_chunk)
        first, last = chunks[1][0], chunks[-2][0]
        ms = (last - first) / 1e6
        texts = len(chunks) - 2
        expect(
            f,
            (sent, chunks, tokens),
            ms / (tokens - 1),
            {
                "A chunk may hold several tokens: divide by the engine's token count.": ms / (texts - 1),
                "n tokens have n − 1 steps between them. The first token's time is TTFT, not TPOT.": ms / tokens,
                "TPOT is in nanoseconds; the function must return ms.": ms * 1e6 / (tokens - 1),
                "That is tokens per millisecond. Time per token is its inverse.": (tokens - 1) / ms,
                "The first chunk carries only a role: TPOT begins with the first one that has text.": (
                    last - chunks[0][0]
                )
                / 1e6
                / (tokens - 1),
                "The last chunk carries only the finish reason: TPOT stops at the last one that has text.": (
                    chunks[-1][0] - first
                )
                / 1e6
                / (tokens - 1),
                "The first and the last chunk carry no text: for TPOT, use only chunks with text.": (
                    chunks[-1][0] - chunks[0][0]
                )
                / 1e6
                / (tokens - 1),
                "That is the whole answer from sending on. TPOT begins with the first token.": (last - sent)
                / 1e6
                / (tokens - 1),
            },
        )
    for chunks, ms in (
        ([(4 * MS, "The"), (9 * MS, " sky"), (12 * MS, ""), (15 * MS, " is")], 5.5),
        ([(4 * MS, ""), (9 * MS, "The"), (12 * MS, ""), (15 * MS, " sky"), (17 * MS, " is")], 4.0),
    ):
        by_place = "Look at a chunk's text, not at its place: TPOT runs from the first chunk with text to the last one."
        inner = [at for at, _ in chunks[1:-1]]
        expect(f, (MS, chunks, 3), ms, {by_place: (inner[-1] - inner[0]) / 2 / 1e6})
    silent = "If no chunk carries text, there is no time per token either: TPOT is None"
    for tokens in (0, 3):
        expect(f, (MS, [(5 * MS, ""), (12 * MS, "")], tokens), None, {f"{silent}, not 0.": 0})
    alone = "With one token there is no step to measure: TPOT is None"
    try:
        expect(f, (MS, [(5 * MS, ""), (9 * MS, "Yes"), (12 * MS, "")], 1), None, {f"{alone}, not 0.": 0})
    except (ZeroDivisionError, IndexError, ValueError) as e:
        raise Wrong(f"{alone}. (Yours raised {type(e).__name__}.)") from None
    once = "All tokens came in one chunk, so no time between them was measured: TPOT is None"
    expect(f, (MS, [(5 * MS, ""), (9 * MS, "Yes, it is"), (12 * MS, "")], 4), None, {f"{once}, not 0.": 0})


def load(source: random.Random, users: int) -> list[Trace]:
    """Return finished requests of several users. They overlap, and the last one sent is not the last one to end."""
    traces = []
    begin = source.randrange(10**12, 10**13)
    for user in range(users):
        # With a nanosecond for each user no request is sent just when another one's ends: no time is then 0.
        now = begin + user * (source.randrange(1, 5) * MS + 1)
        for token_ms in source.sample(range(8, 40), 3):  # no two alike: else means and sums of speeds can agree
            tokens = source.randrange(20, 90)
            end = now + tokens * token_ms * MS
            traces.append(Trace(now, (now + 5 * MS, end - MS), ("a", "b"), end, 40, tokens, 0, "length", None))
            now = end + source.randrange(1, 300) * MS
    source.shuffle(traces)
    return traces


def throughput(f: Function) -> None:
    source = random.Random()
    for users in (1, 4, 7):
        traces = load(source, users)
        begin, end = min(t.sent_ns for t in traces), max(t.end_ns for t in traces)
        tokens = [t.output_tokens or 0 for t in traces]
        took = [(t.end_ns - t.sent_ns) / 1e9 for t in traces]
        speeds = [n / s for n, s in zip(tokens, took, strict=True)]
        wall = (end - begin) / 1e9
        expect(
            f,
            (traces,),
            sum(tokens) / wall,
            {
                "That is the mean speed that one request saw. Use all tokens / (last end − first sent).": sum(speeds)
                / len(speeds),
                "Speeds of successive requests don't add up. Use all tokens / (last end − first sent).": sum(speeds),
                "Requests overlap, so the sum of their durations is longer than the run was.": sum(tokens) / sum(took),
                "Those are tokens per nanosecond.": sum(tokens) / (end - begin),
                "That counts requests, not tokens.": len(traces) / wall,
                "That counts chunks of text, not tokens.": sum(len(t.texts) for t in traces) / wall,
                "The traces are not in the order of time: look for the latest `end_ns` in all of them.": sum(tokens)
                / ((traces[-1].end_ns - traces[0].sent_ns) / 1e9),
                "A run takes longer than its longest request.": sum(tokens) / max(took),
            },
        )
    early = min(traces, key=lambda t: t.sent_ns)
    since = (end - min(t.sent_ns for t in traces if t is not early)) / 1e9
    first = [replace(t, error="reset") if t is early else t for t in traces]
    expect(
        f,
        (first,),
        (sum(tokens) - (early.output_tokens or 0)) / wall,
        {
            "A request with an `error` failed: don't count its tokens.": sum(tokens) / wall,
            "Failed requests also take time: measure the run from the first request, even if it failed.": (
                sum(tokens) - (early.output_tokens or 0)
            )
            / since,
        },
    )
    late = max(traces, key=lambda t: t.end_ns)
    broken = [replace(t, error="reset") if t is late else t for t in traces]
    good = sum(tokens) - (late.output_tokens or 0)
    until = (max(t.end_ns for t in broken if not t.error) - begin) / 1e9
    expect(
        f,
        (broken,),
        good / wall,
        {
            "A request with an `error` failed: don't count its tokens.": sum(tokens) / wall,
            "Failed requests also take time: measure the run to the end of the last request, even if it failed.": good
            / until,
        },
    )


def verdict(f: Function) -> None:
    for a, b, right in (
        ([45.1, 44.0, 46.2], [20.3, 21.1, 19.8], "a"),
        ([20.3, 21.1, 19.8], [45.1, 44.0, 46.2], "b"),
        ([41.0, 61.0], [20.0, 40.0], "a"),  # two rounds have a spread
    ):
        expect(
            f,
            (a, b),
            right,
            {
                "More tokens per second are better.": "b" if right == "a" else "a",
                "Here the worst round of one engine beats the best round of the other, so that one is ahead.": None,
                "Return the letter of the one that is ahead, 'a' or 'b'.": True,
            },
        )
    for ours, theirs, hint in (
        (
            [50.0, 40.0, 45.0],
            [44.0, 39.0, 42.0],
            "Their ranges overlap: the difference is smaller than the variation between rounds. Return None.",
        ),
        (
            [42.0, 55.0, 55.5, 55.0, 55.2],
            [43.0, 38.0, 37.5, 38.0, 37.8],
            "Their ranges overlap, although most rounds are far apart. The rule takes all rounds. Return None.",
        ),
        ([30.0, 60.0], [40.0, 50.0], "One range lies within the other, so they overlap. Return None."),
        (
            [40.0, 45.0],
            [35.0, 40.0],
            "Ranges that touch overlap: a round of one was as fast as one of the other. Return None.",
        ),
        ([45.0], [20.0, 21.0], "One round has no spread, so there is no winner. Return None."),
    ):
        for pair in ((ours, theirs), (theirs, ours)):
            if f(list(pair[0]), list(pair[1])) in ("a", "b"):
                raise Wrong(hint)
            expect(f, pair, None)


EXERCISES = (
    Exercise(
        "latencies_ms", "ex-latencies", 2, 3, 15,
        "A clock that stops at the role chunk, or a count of chunks instead of tokens, gives figures of no engine.",
        ("Which chunk shows the user the first letter? How many steps lie between the first token and the last?",
         "Keep only the chunks with text. TTFT ends at the first of them; TPOT runs from the first to the last.",
         "(first_ns - sent_ns) / 1e6, and (last_ns - first_ns) / 1e6 / (output_tokens - 1): a pair, each may be None."),
        latencies,
    ),
    Exercise(
        "output_tok_s", "ex-throughput", 2, 3, 10,
        "Means of single requests hide batching: sixteen slow answers at once can give more tokens than one fast one.",
        ("How many tokens came for all users together, and in how much time?",
         "The time runs from the earliest `sent_ns` to the latest `end_ns`, over all traces.",
         "sum of output_tokens where error is None, divided by (max(end_ns) - min(sent_ns)) / 1e9."),
        throughput,
    ),
    Exercise(
        "ahead", "ex-ahead", 2, 3, 8,
        "Of two runs of the same engine, one is always “faster”. Only a difference beyond the spread counts.",
        ("When could chance alone have changed the order?",
         "Compare the worst round of one with the best round of the other.",
         "'a' if min(a) > max(b), 'b' if min(b) > max(a), else None; and None if either has fewer than two rounds."),
        verdict,
    ),
)  # fmt: skip
