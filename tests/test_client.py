"""The client is judged by a server that knows when it sent what. Bounds in ms are wide: machines are noisy."""

import asyncio
import json
import re
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest
from truth import TruthEngine, judge

from shared.client import Limits, Trace, stream
from shared.process import free_port

MS = 1_000_000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


def ask(engine: TruthEngine, tokens: int = 8, limits: Limits | None = None, **truth: object) -> Trace:
    body = {"model": "truth", "messages": [], "max_tokens": tokens, "truth": truth}
    return asyncio.run(stream(engine.url + "/v1/chat/completions", body, limits or Limits(5, 5, 5, 10)))


def made(arrivals_ms: list[float], tokens: int | None, sent_ms: float = 0, end_ms: float = 1000) -> Trace:
    stamps = tuple(int(a * MS) for a in arrivals_ms)
    return Trace(int(sent_ms * MS), stamps, ("x",) * len(stamps), int(end_ms * MS), 5, tokens, 0, "length", None)


# Times


@pytest.mark.parametrize("ttft_s", [0.0, 0.15])
def test_stamps_agree_with_the_servers(engine: TruthEngine, ttft_s: float) -> None:
    traces = [ask(engine, 12, ttft_s=ttft_s, gap_s=0.01) for _ in range(4)]
    errors = [judge(t, engine.records()) for t in traces]
    assert min(min(e.arrivals_ms) for e in errors) >= 0, "an arrival before its send: the clocks are not one"
    assert statistics.median(a for e in errors for a in e.arrivals_ms) < 5
    assert abs(statistics.median(e.ttft_ms for e in errors)) < 10
    assert all(t.ttft_ms and t.ttft_ms >= ttft_s * 1000 for t in traces)


def test_gaps_and_tpot_follow_the_schedule(engine: TruthEngine) -> None:
    trace = ask(engine, 21, gap_s=0.02)
    assert trace.itl_ms is not None
    assert len(trace.itl_ms) == 20
    assert statistics.median(trace.itl_ms) == pytest.approx(20, abs=5)
    assert trace.tpot_ms == pytest.approx(20, abs=5)
    assert trace.e2e_ms >= trace.ttft_ms + 20 * trace.tpot_ms


def test_connecting_is_not_part_of_ttft(engine: TruthEngine) -> None:
    began = time.perf_counter_ns()
    trace = ask(engine, ttft_s=0.05)
    assert began < trace.sent_ns < trace.arrivals_ns[0] <= trace.arrivals_ns[-1] <= trace.end_ns
    record = engine.records()[-1]
    assert -1 < (record["received_ns"] - trace.sent_ns) / MS < 50


@pytest.mark.parametrize("first", ["role", "empty", "none"])
def test_only_text_counts_as_the_first_token(engine: TruthEngine, first: str) -> None:
    """The chunk before it comes after half the time."""
    trace = ask(engine, ttft_s=0.2, first=first)
    assert trace.error is None
    assert trace.ttft_ms is not None
    assert trace.ttft_ms >= 200
    assert trace.texts[0].startswith("#")
    assert len(trace.arrivals_ns) == 8


def test_slow_headers_are_part_of_ttft_and_no_error(engine: TruthEngine) -> None:
    trace = ask(engine, ttft_s=0.2, fault="slow_headers")
    assert (trace.error, trace.output_tokens) == (None, 8)
    assert trace.ttft_ms is not None
    assert trace.ttft_ms >= 200


def test_two_chunks_in_one_block_arrive_together(engine: TruthEngine) -> None:
    trace = ask(engine, 8, gap_s=0.02, fault="merge")
    assert trace.error is None
    assert len(trace.arrivals_ns) == 8
    assert trace.arrivals_ns[0] == trace.arrivals_ns[1] < trace.arrivals_ns[2] == trace.arrivals_ns[3]
    judge(trace, engine.records())


# Counts and text


@pytest.mark.parametrize("per_chunk", [1, 2, 3, 8])
def test_tokens_come_from_usage_and_not_from_chunks(engine: TruthEngine, per_chunk: int) -> None:
    trace = ask(engine, 16, per_chunk=per_chunk)
    assert trace.output_tokens == 16
    assert len(trace.arrivals_ns) == -(-16 // per_chunk)
    assert (trace.itl_ms is None) == (per_chunk > 1)
    assert (trace.input_tokens, trace.cached_tokens, trace.finish_reason) == (11, 3, "length")


def test_tokens_are_unknown_without_usage(engine: TruthEngine) -> None:
    trace = ask(engine, 8, usage=False)
    assert trace.error is None
    assert (trace.input_tokens, trace.output_tokens, trace.cached_tokens) == (None, None, None)
    assert (trace.tpot_ms, trace.itl_ms) == (None, None)
    assert len(trace.arrivals_ns) == 8


@pytest.mark.parametrize("framing", ["chunked", "close", "exact"])
@pytest.mark.parametrize("fault", ["", "split", "merge"])
def test_text_is_intact_however_it_is_cut(engine: TruthEngine, framing: str, fault: str) -> None:
    trace = ask(engine, 12, framing=framing, fault=fault)
    assert trace.error is None
    assert trace.text == f"#{len(engine.records()):06d}" + "".join(f" naïve🌊{i}" for i in range(1, 12))


def test_a_split_chunk_has_arrived_when_its_last_byte_has(engine: TruthEngine) -> None:
    trace = ask(engine, 6, gap_s=0.04, fault="split")
    assert min(judge(trace, engine.records()).arrivals_ms) >= 0
    assert (trace.arrivals_ns[1] - trace.arrivals_ns[0]) / MS > 50  # a gap, and half a one until the rest came


def test_formulas_on_numbers_one_can_check() -> None:
    trace = made([150, 160, 190], tokens=5, sent_ms=50, end_ms=250)
    assert (trace.ttft_ms, trace.e2e_ms) == (100, 200)
    assert trace.tpot_ms == 10  # (190 - 150) / (5 - 1); by chunks it would be 20
    assert trace.itl_ms is None
    assert made([150, 160, 190], tokens=3).itl_ms == (10, 30)


@pytest.mark.parametrize(
    ("arrivals", "tokens"), [([], None), ([], 0), ([100], 1), ([100], 4), ([100, 110], None), ([100, 110], 1)]
)
def test_tpot_is_unknown_rather_than_zero(arrivals: list[float], tokens: int | None) -> None:
    trace = made(arrivals, tokens)
    assert trace.tpot_ms is None
    assert (trace.ttft_ms is None) == (not arrivals)


def test_a_trace_survives_json(engine: TruthEngine) -> None:
    trace = ask(engine)
    assert Trace.restore(json.loads(json.dumps(asdict(trace)))) == trace


# What goes wrong is said, and never raised


@pytest.mark.parametrize(
    ("truth", "said", "chunks"),
    [
        ({"fault": "reset"}, "the connection broke: .*reset", 3),
        ({"fault": "cut"}, "ended before its .DONE.", 3),
        ({"fault": "no_done"}, "ended before its .DONE.", 8),
        ({"fault": "hang"}, "nothing came for 0.3 s", 3),
        ({"fault": "hang", "at": 0}, "nothing came for 0.3 s", 0),
        ({"fault": "429"}, "HTTP 429: .*come back later", 0),
        ({"fault": "500"}, "HTTP 500: .*come back later", 0),
        ({"fault": "101"}, "HTTP 101", 0),
        ({"fault": "error_event"}, "the engine reported: .*the KV cache is full", 3),
        ({"fault": "error_data"}, "the engine reported: .*the KV cache is full", 3),
        ({"fault": "not_json"}, "an event is not JSON: .*half", 3),
        ({"fault": "not_object"}, "an event is no chunk: .*7", 3),
        ({"fault": "odd_choices"}, "an event is no chunk: .*text", 3),
        ({"fault": "odd_usage"}, "an event is no chunk: .*usage", 3),
        ({"framing": "long"}, "ended before its body was complete", 8),
        ({"fault": "no_last_chunk"}, "ended before its body was complete", 8),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_a_fault_is_in_the_trace(engine: TruthEngine, truth: dict[str, object], said: str, chunks: int) -> None:
    trace = ask(engine, 8, Limits(idle_s=0.3), **truth)
    assert trace.error is not None
    assert re.search(said, trace.error), trace.error
    assert len(trace.arrivals_ns) == chunks
    assert trace.end_ns > trace.sent_ns


def test_a_body_longer_than_announced_is_an_error(engine: TruthEngine) -> None:
    trace = ask(engine, 8, framing="short")
    assert trace.error is not None
    assert len(trace.arrivals_ns) < 8


def test_nulls_say_nothing(engine: TruthEngine) -> None:
    trace = ask(engine, 8, fault="nulls")
    assert trace.error is None
    assert len(trace.arrivals_ns) == 7


def test_a_total_limit_ends_a_stream_that_never_pauses(engine: TruthEngine) -> None:
    trace = ask(engine, 1000, Limits(total_s=0.4), gap_s=0.02)
    assert trace.error == "not finished within 0.4 s"
    assert 400 <= trace.e2e_ms < 2000
    assert trace.output_tokens is None
    assert len(trace.arrivals_ns) > 2


def test_a_slow_stream_is_not_an_idle_one(engine: TruthEngine) -> None:
    trace = ask(engine, 6, Limits(idle_s=0.4), gap_s=0.15)
    assert trace.error is None
    assert trace.e2e_ms > 600


def test_a_given_up_request_is_closed_at_the_server(engine: TruthEngine) -> None:
    assert ask(engine, 8, Limits(idle_s=0.2), fault="hang").error
    deadline = time.monotonic() + 5
    while engine.records()[-1]["closed_ns"] is None:
        assert time.monotonic() < deadline, "the server still holds the connection"
        time.sleep(0.02)


def test_a_refused_connection_is_said() -> None:
    port = free_port()
    trace = asyncio.run(stream(f"http://127.0.0.1:{port}/v1/chat/completions", {}))
    assert trace.error is not None
    assert trace.error.startswith(f"no connection to 127.0.0.1:{port}: ")
    assert "refused" in trace.error or "Connect call failed" in trace.error
    assert (trace.ttft_ms, trace.output_tokens) == (None, None)


def test_a_connection_that_is_never_accepted_is_said() -> None:
    """With its queue full, a listening socket lets further callers wait."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        callers = [socket.socket() for _ in range(3)]
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        try:
            trace = asyncio.run(stream(f"http://127.0.0.1:{deaf.getsockname()[1]}/", {}, Limits(connect_s=0.3)))
        finally:
            for caller in callers:
                caller.close()
    assert trace.error is not None
    assert trace.error.endswith(": not within 0.3 s")


def test_an_answer_that_is_not_http_is_said() -> None:
    async def talk() -> Trace:
        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"220 mail.example ESMTP\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        async with server:
            return await stream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", {})

    trace = asyncio.run(talk())
    assert trace.error is not None
    assert trace.error.startswith("not a valid HTTP response")
