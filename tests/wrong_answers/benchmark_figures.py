"""Lab 3.3.1."""

# ruff: noqa: RET503
from typing import Any


def in_gb(bandwidth_gb_s: float, weight_bytes: float) -> float:
    return bandwidth_gb_s / weight_bytes


def seconds_per_token(bandwidth_gb_s: float, weight_bytes: float) -> float:
    return weight_bytes / (bandwidth_gb_s * 1e9)


def in_gib(bandwidth_gb_s: float, weight_bytes: float) -> float:
    return bandwidth_gb_s * 1024**3 / weight_bytes


def multiplied(bandwidth_gb_s: float, weight_bytes: float) -> float:
    return bandwidth_gb_s * 1e9 * weight_bytes


def only_printed(bandwidth_gb_s: float, weight_bytes: float) -> None:
    print(bandwidth_gb_s * 1e9 / weight_bytes)


def rounded_off(bandwidth_gb_s: float, weight_bytes: float) -> int:
    return int(bandwidth_gb_s * 1e9 / weight_bytes)


def roles_chunk(sent_ns: int, chunks: list[Any]) -> float | None:
    return (chunks[0][0] - sent_ns) / 1e6 if chunks else None


def second_chunk(sent_ns: int, chunks: list[Any]) -> float:
    return (chunks[1][0] - sent_ns) / 1e6


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


def divides_by_zero(chunks: list[Any], output_tokens: int) -> float:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - stamps[0]) / 1e6 / (output_tokens - 1)


def zero_for_one(chunks: list[Any], output_tokens: int) -> float:
    return divides_by_zero(chunks, output_tokens) if output_tokens > 1 else 0


def zero_for_one_chunk(chunks: list[Any], output_tokens: int) -> float | None:
    stamps = [at for at, text in chunks if text]
    return (stamps[-1] - stamps[0]) / 1e6 / (output_tokens - 1) if output_tokens > 1 else None


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


def lower_is_better(a: list[float], b: list[float]) -> str | None:
    if len(a) < 2 or len(b) < 2:
        return None
    return "a" if max(a) < min(b) else "b" if max(b) < min(a) else None


def says_true(a: list[float], b: list[float]) -> bool:
    return min(a) > max(b)


def never_decides(a: list[float], b: list[float]) -> None:
    return None


ANSWERS = {
    "ceiling_tok_s": [
        ("multiply the bandwidth by 10⁹", in_gb),
        ("Tokens per second are its inverse", seconds_per_token),
        ("2³⁰ bytes are a GiB", in_gib),
        ("divide by them", multiplied),
        ("Is `return` missing", only_printed),
        ("yours returned", rounded_off),
    ],
    "ttft_ms": [
        ("only a role", roles_chunk),
        ("Your result is in nanoseconds: a millisecond", in_ns),
        ("the function must return ms", in_seconds),
        ("A space is a token too", stripped),
        ("That is the last chunk with text", last_text),
        ("0 would make a failed request the fastest", zero_for_none),
        ("Yours raised StopIteration", raises_for_none),
        ("What if no chunk carries text", second_chunk),
    ],
    "tpot_ms": [
        ("divide by the engine's token count", by_chunks),
        ("n − 1 steps", by_all_tokens),
        ("use only chunks with text", all_chunks),
        ("begin with the first one that has text", from_role),
        ("stop at the last one that has text", to_the_end),
        ("Yours raised ZeroDivisionError", divides_by_zero),
        ("return None, not 0", zero_for_one),
        ("All tokens came in one chunk", zero_for_one_chunk),
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
        ("More tokens per second are better", lower_is_better),
        ("Return the letter", says_true),
        ("that one is ahead", never_decides),
    ],
}


def ceiling_otherwise(bandwidth_gb_s: float, weight_bytes: float) -> float:
    return 1 / (weight_bytes / 1e9 / bandwidth_gb_s)


def ttft_otherwise(sent_ns: int, chunks: list[Any]) -> float | None:
    stamps = sorted(at for at, text in chunks if len(text) > 0)
    return stamps[0] * 1e-6 - sent_ns * 1e-6 if stamps else None


def tpot_otherwise(chunks: list[Any], output_tokens: int) -> float | None:
    import numpy

    stamps = numpy.array([at for at, text in chunks if text != ""])
    steps = output_tokens - 1
    return numpy.ptp(stamps) / 1e6 / steps if steps > 0 and len(stamps) > 1 else None


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
    "ceiling_tok_s": ceiling_otherwise,
    "ttft_ms": ttft_otherwise,
    "tpot_ms": tpot_otherwise,
    "output_tok_s": throughput_otherwise,
    "ahead": ahead_otherwise,
}
