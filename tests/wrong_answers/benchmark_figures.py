"""Lab 3.3.1."""

# ruff: noqa: RET503
from collections.abc import Callable
from statistics import mean, pstdev
from typing import Any

Pair = tuple[float | None, float | None]


def ttft_otherwise(sent_ns: int, chunks: list[Any]) -> float | None:
    stamps = sorted(at for at, text in chunks if len(text) > 0)
    return stamps[0] * 1e-6 - sent_ns * 1e-6 if stamps else None


def tpot_otherwise(chunks: list[Any], output_tokens: int) -> float | None:
    import numpy

    stamps = numpy.array([at for at, text in chunks if text != ""])
    steps = output_tokens - 1
    return numpy.ptp(stamps) / 1e6 / steps if steps > 0 and len(stamps) > 1 else None


def latencies_otherwise(sent_ns: int, chunks: list[Any], output_tokens: int) -> list[float | None]:
    return [ttft_otherwise(sent_ns, chunks), tpot_otherwise(chunks, output_tokens)]


def with_right_tpot(ttft: Callable[[int, list[Any]], float | None]) -> Callable[[int, list[Any], int], Pair]:
    """A wrong TTFT beside the right TPOT."""

    def pair(sent_ns: int, chunks: list[Any], output_tokens: int) -> Pair:
        return ttft(sent_ns, chunks), tpot_otherwise(chunks, output_tokens)

    pair.__name__ = ttft.__name__
    return pair


def with_right_ttft(tpot: Callable[[list[Any], int], float | None]) -> Callable[[int, list[Any], int], Pair]:
    """A wrong TPOT beside the right TTFT."""

    def pair(sent_ns: int, chunks: list[Any], output_tokens: int) -> Pair:
        ttft = ttft_otherwise(sent_ns, chunks)
        return ttft, None if ttft is None else tpot(chunks, output_tokens)

    pair.__name__ = tpot.__name__
    return pair


def one_number(sent_ns: int, chunks: list[Any], output_tokens: int) -> float | None:
    return ttft_otherwise(sent_ns, chunks)


def only_printed(sent_ns: int, chunks: list[Any], output_tokens: int) -> None:
    print(latencies_otherwise(sent_ns, chunks, output_tokens))


def roles_chunk(sent_ns: int, chunks: list[Any]) -> float | None:
    return (chunks[0][0] - sent_ns) / 1e6 if chunks else None


def second_chunk(sent_ns: int, chunks: list[Any]) -> float:
    return (chunks[1][0] - sent_ns) / 1e6


def first_but_one(sent_ns: int, chunks: list[Any]) -> float | None:
    """Without the first and the last chunk, whatever is in them."""
    return (chunks[1][0] - sent_ns) / 1e6 if chunks[1:-1] else None


def in_ns(sent_ns: int, chunks: list[Any]) -> float | None:
    return next((at - sent_ns for at, text in chunks if text), None)


def in_seconds(sent_ns: int, chunks: list[Any]) -> float | None:
    return next(((at - sent_ns) / 1e9 for at, text in chunks if text), None)


def stripped(sent_ns: int, chunks: list[Any]) -> float | None:
    return next(((at - sent_ns) / 1e6 for at, text in chunks if text.strip()), None)


def last_text(sent_ns: int, chunks: list[Any]) -> float | None:
    found = None
    for at, text in chunks:
        if text:
            found = (at - sent_ns) / 1e6
    return found


def zero_for_none(sent_ns: int, chunks: list[Any]) -> float:
    return next(((at - sent_ns) / 1e6 for at, text in chunks if text), 0)


def raises_for_none(sent_ns: int, chunks: list[Any]) -> float:
    return (next(at for at, text in chunks if text) - sent_ns) / 1e6


def by_chunks(chunks: list[Any], output_tokens: int) -> float | None:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - stamps[0]) / 1e6 / (len(stamps) - 1) if len(stamps) > 1 else None


def by_all_tokens(chunks: list[Any], output_tokens: int) -> float:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - stamps[0]) / 1e6 / output_tokens


def all_chunks(chunks: list[Any], output_tokens: int) -> float | None:
    return (chunks[-1][0] - chunks[0][0]) / 1e6 / (output_tokens - 1) if output_tokens > 1 else None


def from_role(chunks: list[Any], output_tokens: int) -> float | None:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - chunks[0][0]) / 1e6 / (output_tokens - 1) if output_tokens > 1 else None


def to_the_end(chunks: list[Any], output_tokens: int) -> float | None:
    stamps = [at for at, text in chunks if text]
    return (chunks[-1][0] - stamps[0]) / 1e6 / (output_tokens - 1) if output_tokens > 1 else None


def all_but_the_ends(chunks: list[Any], output_tokens: int) -> float | None:
    inner = chunks[1:-1]
    return (inner[-1][0] - inner[0][0]) / 1e6 / (output_tokens - 1) if len(inner) > 1 else None


def divides_by_zero(chunks: list[Any], output_tokens: int) -> float:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - stamps[0]) / 1e6 / (output_tokens - 1)


def zero_for_one(chunks: list[Any], output_tokens: int) -> float:
    return divides_by_zero(chunks, output_tokens) if output_tokens > 1 else 0


def zero_for_one_chunk(chunks: list[Any], output_tokens: int) -> float | None:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - stamps[0]) / 1e6 / (output_tokens - 1) if output_tokens > 1 else None


def zero_without_text(sent_ns: int, chunks: list[Any], output_tokens: int) -> Pair:
    """Right but for the TPOT of an answer without text."""
    ttft = ttft_otherwise(sent_ns, chunks)
    return ttft, 0 if ttft is None else tpot_otherwise(chunks, output_tokens)


def mean_of_speeds(traces: list[Any]) -> float:
    speeds = [t.output_tokens / ((t.end_ns - t.sent_ns) / 1e9) for t in traces if not t.error]
    return sum(speeds) / len(speeds)


def sum_of_speeds(traces: list[Any]) -> float:
    return sum(t.output_tokens / ((t.end_ns - t.sent_ns) / 1e9) for t in traces if not t.error)


def sum_of_durations(traces: list[Any]) -> float:
    return sum(t.output_tokens for t in traces) / sum((t.end_ns - t.sent_ns) / 1e9 for t in traces)


def failed_count(traces: list[Any]) -> float:
    took = (max(t.end_ns for t in traces) - min(t.sent_ns for t in traces)) / 1e9
    return sum(t.output_tokens for t in traces) / took


def failed_forgotten(traces: list[Any]) -> float:
    good = [t for t in traces if t.error is None]
    took = (max(t.end_ns for t in good) - min(t.sent_ns for t in good)) / 1e9
    return sum(t.output_tokens for t in good) / took


def begins_with_success(traces: list[Any]) -> float:
    good = [t for t in traces if t.error is None]
    took = (max(t.end_ns for t in traces) - min(t.sent_ns for t in good)) / 1e9
    return sum(t.output_tokens for t in good) / took


def in_listed_order(traces: list[Any]) -> float:
    return sum(t.output_tokens for t in traces) / ((traces[-1].end_ns - traces[0].sent_ns) / 1e9)


def counts_requests(traces: list[Any]) -> float:
    return len(traces) / ((max(t.end_ns for t in traces) - min(t.sent_ns for t in traces)) / 1e9)


def by_mean(a: list[float], b: list[float]) -> str:
    return "a" if sum(a) / len(a) > sum(b) / len(b) else "b"


def by_best(a: list[float], b: list[float]) -> str | None:
    if len(a) < 2 or len(b) < 2:
        return None
    return "a" if max(a) > max(b) else "b"


def touching_wins(a: list[float], b: list[float]) -> str | None:
    if len(a) < 2 or len(b) < 2:
        return None
    return "a" if min(a) >= max(b) else "b" if min(b) >= max(a) else None


def one_is_enough(a: list[float], b: list[float]) -> str | None:
    return "a" if min(a) > max(b) else "b" if min(b) > max(a) else None


def two_are_too_few(a: list[float], b: list[float]) -> str | None:
    return one_is_enough(a, b) if min(len(a), len(b)) > 2 else None


def by_standard_deviations(a: list[float], b: list[float]) -> str | None:
    if len(a) < 2 or len(b) < 2:
        return None
    (low_a, high_a), (low_b, high_b) = ((mean(x) - pstdev(x), mean(x) + pstdev(x)) for x in (a, b))
    return "a" if low_a > high_b else "b" if low_b > high_a else None


def lower_is_better(a: list[float], b: list[float]) -> str | None:
    if len(a) < 2 or len(b) < 2:
        return None
    return "a" if max(a) < min(b) else "b" if max(b) < min(a) else None


def says_true(a: list[float], b: list[float]) -> bool:
    return min(a) > max(b)


def never_decides(a: list[float], b: list[float]) -> None:
    return None


ANSWERS = {
    "latencies_ms": [
        ("only a role: no token has come yet", with_right_tpot(roles_chunk)),
        ("TTFT is in nanoseconds", with_right_tpot(in_ns)),
        ("TTFT is in seconds", with_right_tpot(in_seconds)),
        ("A space is a token too", with_right_tpot(stripped)),
        ("That is the last chunk with text", with_right_tpot(last_text)),
        ("0 would make a failed request the fastest", with_right_tpot(zero_for_none)),
        ("Yours raised StopIteration", with_right_tpot(raises_for_none)),
        ("the first chunk may already carry text", with_right_tpot(second_chunk)),
        ("TTFT ends at the first that does", with_right_tpot(first_but_one)),
        ("TPOT runs from the first chunk with text to the last one", with_right_ttft(all_but_the_ends)),
        ("divide by the engine's token count", with_right_ttft(by_chunks)),
        ("n − 1 steps", with_right_ttft(by_all_tokens)),
        ("use only chunks with text", with_right_ttft(all_chunks)),
        ("begins with the first one that has text", with_right_ttft(from_role)),
        ("stops at the last one that has text", with_right_ttft(to_the_end)),
        ("Yours raised ZeroDivisionError", with_right_ttft(divides_by_zero)),
        ("TPOT is None, not 0", with_right_ttft(zero_for_one)),
        ("All tokens came in one chunk", with_right_ttft(zero_for_one_chunk)),
        ("there is no time per token either", zero_without_text),
        ("Return a pair", one_number),
        ("Is `return` missing", only_printed),
    ],
    "output_tok_s": [
        ("the mean speed that one request saw", mean_of_speeds),
        ("don't add up", sum_of_speeds),
        ("longer than the run was", sum_of_durations),
        ("don't count its tokens", failed_count),
        ("Failed requests also take time", failed_forgotten),
        ("measure the run from the first request, even if it failed", begins_with_success),
        ("not in the order of time", in_listed_order),
        ("counts requests, not tokens", counts_requests),
    ],
    "ahead": [
        ("Their ranges overlap", by_mean),
        ("Their ranges overlap", by_best),
        ("Ranges that touch overlap", touching_wins),
        ("One round has no spread", one_is_enough),
        ("that one is ahead", two_are_too_few),
        ("The rule takes all rounds", by_standard_deviations),
        ("More tokens per second are better", lower_is_better),
        ("Return the letter", says_true),
        ("that one is ahead", never_decides),
    ],
}


def throughput_otherwise(traces: list[Any]) -> float:
    start, end, tokens = float("inf"), 0.0, 0
    for trace in traces:
        start, end = min(start, trace.sent_ns / 1e9), max(end, trace.end_ns / 1e9)
        if not trace.error:
            tokens += trace.output_tokens
    return tokens / (end - start)


def ahead_otherwise(a: list[float], b: list[float]) -> str | None:
    if len(a) > 1 and len(b) > 1:
        if all(x > y for x in a for y in b):
            return "a"
        if all(y > x for x in a for y in b):
            return "b"


RIGHT = {
    "latencies_ms": latencies_otherwise,
    "output_tok_s": throughput_otherwise,
    "ahead": ahead_otherwise,
}
