"""The client is compared with a server that records when it sent each block. Bounds in ms are wide, since machines are
noisy."""

import asyncio
import contextlib
import json
import os
import re
import socket
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import asdict

import pytest

from shared.load import Trace, stream
from shared.load.client import Exchange, Limits, exchange
from shared.load.connection import Connection, Connections, Response
from shared.load.streams import is_ollama
from shared.processes import free_port
from tests.helpers.processes import eventually
from tests.helpers.truth import TruthEngine, judge
from tests.helpers.truth_server import Plan, schedule

pytestmark = pytest.mark.alone  # it compares measured times with true ones

MS = 1_000_000


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("truth") / "log") as engine:
        yield engine


CHAT, COMPLETIONS, OLLAMA_CHAT, OLLAMA_GENERATE = (
    "/v1/chat/completions",
    "/v1/completions",
    "/api/chat",
    "/api/generate",
)
PATHS = (CHAT, COMPLETIONS, OLLAMA_CHAT, OLLAMA_GENERATE)
OPEN_WEBUI = "/api/chat/completions"
FEW_S = Limits(5, 5, 5, 10)


def asked(tokens: int = 8, **truth: object) -> dict[str, object]:
    """The body of a request in the form of either API."""
    return {"model": "truth", "max_tokens": tokens, "options": {"num_predict": tokens}, "truth": truth}


def ask(engine: TruthEngine, tokens: int = 8, limits: Limits | None = None, path: str = CHAT, **truth: object) -> Trace:
    return asyncio.run(stream(engine.url + path, asked(tokens, **truth), limits or FEW_S))


def test_a_connection_that_was_lost_before_the_request_ends_at_once() -> None:
    """Not after the patience with the first byte: no more is told of it. The server closed it in the meantime."""

    async def lost() -> Response:
        async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async with await asyncio.start_server(close, "127.0.0.1", 0) as server:
            connection = await Connection.open(server.sockets[0].getsockname())
            while not connection.transport.is_closing():
                await asyncio.sleep(0.01)
            _, response = connection.send(b"GET / HTTP/1.1\r\n\r\n")
            await asyncio.wait_for(connection.ended, 5)
            return response

    response = asyncio.run(lost())
    assert response.lost
    assert response.end_ns


def words(number: int, tokens: int) -> str:
    """The text of answer `number`."""
    return f"#{number:06d}" + "".join(f" naïve🌊{i}" for i in range(1, tokens))


def made(arrivals_ms: list[float], tokens: int | None, sent_ms: float = 0, end_ms: float = 1000) -> Trace:
    stamps = tuple(int(a * MS) for a in arrivals_ms)
    return Trace(int(sent_ms * MS), stamps, ("x",) * len(stamps), int(end_ms * MS), 5, tokens, 0, "length", None)


@pytest.mark.parametrize(
    ("path", "expected"), [*((path, path.startswith("/api/")) for path in PATHS), (OPEN_WEBUI, False)]
)
def test_the_path_decides_the_dialect(path: str, expected: bool) -> None:
    assert is_ollama(path) is expected


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
    traces = [ask(engine, 21, gap_s=0.02) for _ in range(3)]  # the machine may hold one token up
    for trace in traces:
        assert trace.itl_ms is not None
        assert len(trace.itl_ms) == 20
        assert statistics.median(trace.itl_ms) == pytest.approx(20, abs=5)
        assert trace.e2e_ms >= trace.ttft_ms + 20 * trace.tpot_ms - 1e-6  # the sum of floats
    assert statistics.median(trace.tpot_ms for trace in traces) == pytest.approx(20, abs=5)


def test_connecting_is_not_part_of_ttft(engine: TruthEngine) -> None:
    on_its_way_ms = []
    for _ in range(3):  # the machine may hold one up
        began = time.perf_counter_ns()
        trace = ask(engine, ttft_s=0.05)
        assert began < trace.sent_ns < trace.arrivals_ns[0] <= trace.arrivals_ns[-1] <= trace.end_ns
        on_its_way_ms.append((engine.records()[-1]["received_ns"] - trace.sent_ns) / MS)
    assert -1 < min(on_its_way_ms) < 50


@pytest.mark.parametrize("first", ["role", "empty", "none"])
def test_only_text_counts_as_the_first_token(engine: TruthEngine, first: str) -> None:
    """The chunk before it arrives after half the time."""
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
    trace = ask(engine, 8, gap_s=0.2, fault="merge")  # so far apart that no two blocks are read at once
    assert trace.error is None
    assert len(trace.arrivals_ns) == 8
    assert trace.arrivals_ns[0] == trace.arrivals_ns[1] < trace.arrivals_ns[2] == trace.arrivals_ns[3]
    judge(trace, engine.records())


# Counts and text


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("per_chunk", range(1, 9))
def test_tokens_come_from_the_engine_and_not_from_chunks(engine: TruthEngine, path: str, per_chunk: int) -> None:
    trace = ask(engine, 16, path=path, per_chunk=per_chunk)
    assert trace.error is None
    assert trace.output_tokens == 16
    assert len(trace.arrivals_ns) == -(-16 // per_chunk)
    assert (trace.itl_ms is None) == (per_chunk > 1)
    assert (trace.input_tokens, trace.finish_reason) == (11, "length")
    openai = path.startswith("/v1")
    assert (trace.tokens_from, trace.cached_tokens) == (("usage", 3) if openai else ("engine", None))


def test_the_engines_own_timings_are_kept_in_its_words(engine: TruthEngine) -> None:
    ollama = ask(engine, path=OLLAMA_CHAT).timings
    assert ollama is not None
    assert (ollama["eval_count"], ollama["eval_duration"], ollama["prompt_eval_duration"]) == (
        8,
        60_000_000,
        20_000_000,
    )
    llamacpp = ask(engine, timings=True).timings
    assert llamacpp is not None
    assert (llamacpp["predicted_n"], llamacpp["predicted_ms"], llamacpp["prompt_n"]) == (8, 60.0, 8)
    assert ask(engine).timings is None


@pytest.mark.parametrize(
    ("path", "field"), [(CHAT, "reasoning_content"), (CHAT, "reasoning"), (OLLAMA_CHAT, ""), (OLLAMA_GENERATE, "")]
)
def test_reasoning_and_answer_begin_at_two_times(engine: TruthEngine, path: str, field: str) -> None:
    thought_ms, tpot_ms = [], []
    for _ in range(5):  # the machine may hold one token up
        trace = ask(engine, 10, path=path, ttft_s=0.1, gap_s=0.02, reasoning=4, reasoning_field=field)
        assert trace.error is None
        assert trace.reasoning + trace.text == words(len(engine.records()), 10)
        assert (len(trace.reasoning_ns), len(trace.arrivals_ns), trace.output_tokens) == (4, 6, 10)
        assert trace.ttft_ms is not None
        assert trace.first_answer_ms is not None
        assert trace.ttft_ms >= 100
        assert trace.tpot_ms is not None
        assert trace.itl_ms is not None
        assert len(trace.itl_ms) == 9
        judge(trace, engine.records())
        thought_ms.append(trace.first_answer_ms - trace.ttft_ms)
        tpot_ms.append(trace.tpot_ms)
    assert statistics.median(thought_ms) == pytest.approx(80, abs=15)
    assert statistics.median(tpot_ms) == pytest.approx(20, abs=3)  # of all tokens: the engine counts the reasoning, too


def test_without_reasoning_the_first_answer_is_the_first_token(engine: TruthEngine) -> None:
    trace = ask(engine)
    assert (trace.reasoning, trace.first_answer_ms) == ("", trace.ttft_ms)


@pytest.mark.parametrize("path", PATHS)
def test_tokens_are_unknown_if_the_engine_does_not_say(engine: TruthEngine, path: str) -> None:
    trace = ask(engine, 8, path=path, usage=False)
    assert trace.error is None
    assert (trace.input_tokens, trace.output_tokens, trace.cached_tokens, trace.tokens_from) == (None,) * 4
    assert (trace.tpot_ms, trace.itl_ms) == (None, None)
    assert len(trace.arrivals_ns) == 8


def test_a_tokenizer_counts_only_where_the_engine_does_not(engine: TruthEngine) -> None:
    def by_word(text: str) -> int:
        return len(text.split())

    unknown = ask(engine, 8, usage=False, reasoning=3).counted(by_word)
    assert (unknown.output_tokens, unknown.tokens_from) == (8, "tokenizer")
    known = ask(engine, 8, per_chunk=2).counted(lambda _: 99)
    assert (known.output_tokens, known.tokens_from) == (8, "usage")


def raw_answer(path: str, per_chunk: int, returns: bool) -> tuple[bytes, list[int]]:
    """The bytes of an answer of 8 tokens, and where each chunk with text is whole."""
    raw, ends = b"", []
    for part in schedule(Plan(tokens=8, per_chunk=per_chunk, framing="close" if returns else "chunked"), path):
        data = part.data.replace(b"\n", b"\r\n") if returns and raw else part.data
        raw += data
        if part.chunks:
            ends.append(len(raw) - (0 if returns else len(b"\r\n")))  # which ends an HTTP chunk, not an event
    return raw, ends


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("per_chunk", [1, 3, 8])
@pytest.mark.parametrize("returns", [False, True], ids=["chunked", "carriage-returns"])
def test_bytes_may_be_split_at_every_position(path: str, per_chunk: int, returns: bool) -> None:
    """In this process, block by block. Sockets would take minutes, and the test above covers them."""
    raw, ends = raw_answer(path, per_chunk, returns)
    assert len(raw) > 500
    for cut in range(1, len(raw)):
        answer = Response()
        answer.take(1, raw[:cut])
        answer.take(2, raw[cut:])
        trace = Exchange(path, 0, 3, answer, None, True).trace()
        assert trace.error is None, cut
        assert (trace.text, trace.output_tokens, trace.input_tokens) == (words(0, 8), 8, 11), cut
        assert trace.arrivals_ns == tuple(1 if end <= cut else 2 for end in ends), cut
        assert (trace.blocks_ns, sum(trace.blocks_bytes)) == ((1, 2), len(raw)), cut


def test_counts_are_exact_in_a_crowd(engine: TruthEngine) -> None:
    async def crowd() -> list[Trace]:
        async with Connections() as connections:
            return await asyncio.gather(
                *(
                    stream(engine.url + path, asked(40, per_chunk=per_chunk, gap_s=0.01), FEW_S, connections)
                    for path in PATHS
                    for per_chunk in range(1, 9)
                    for _ in range(2)
                )
            )

    traces, records = asyncio.run(crowd()), engine.records()
    assert [t.output_tokens for t in traces] == [40] * 64
    assert all(t.error is None and t.text == words(int(t.text[1:7]), 40) for t in traces)
    assert all(min(judge(t, records).arrivals_ms) >= 0 for t in traces)


def test_a_token_takes_little_memory(engine: TruthEngine) -> None:
    """The goal is 2 KiB for all of it: timestamps, bytes and texts, with the bytes and the traces held at once."""

    async def some() -> list[Exchange]:
        async with Connections() as connections:
            return await asyncio.gather(
                *(exchange(engine.url + CHAT, asked(200, gap_s=0.001), FEW_S, connections) for _ in range(16))
            )

    asyncio.run(some())
    tracemalloc.start()
    try:
        exchanges = asyncio.run(some())
        traces = [e.trace() for e in exchanges]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert sum(t.output_tokens or 0 for t in traces) == 3200
    assert peak / 3200 <= 2048


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("framing", ["chunked", "close", "exact"])
@pytest.mark.parametrize("fault", ["", "split", "merge", "dribble"])
def test_text_is_intact_however_it_is_cut(engine: TruthEngine, path: str, framing: str, fault: str) -> None:
    trace = ask(engine, 12, path=path, framing=framing, fault=fault)
    assert (trace.error, trace.output_tokens) == (None, 12)
    assert trace.text == words(len(engine.records()), 12)


def test_a_split_chunk_has_arrived_when_its_last_byte_has(engine: TruthEngine) -> None:
    trace = ask(engine, 6, gap_s=0.04, fault="split")
    # Judged by the server's clock, since the machine may hold a token up. The first half was sent 20 ms earlier.
    assert min(judge(trace, engine.records()).arrivals_ms) >= 0


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


@pytest.mark.parametrize("path", PATHS)
def test_a_trace_survives_json(engine: TruthEngine, path: str) -> None:
    trace = ask(engine, path=path, reasoning=2)
    assert Trace.restore(json.loads(json.dumps(asdict(trace)))) == trace


def test_a_trace_of_an_older_ledger_is_read() -> None:
    """A trace of the ledger's schema 1 lacks the fields that were added later."""
    older = (
        "sent_ns", "arrivals_ns", "texts", "end_ns", "input_tokens", "output_tokens", "cached_tokens",
        "finish_reason", "error",
    )  # fmt: skip
    whole = asdict(made([150, 160, 190], tokens=3))
    trace = Trace.restore(json.loads(json.dumps({name: whole[name] for name in older})))
    assert (trace.tokens_from, trace.itl_ms, trace.ttft_ms) == ("usage", (10, 30), 150)
    assert Trace.restore({**{name: whole[name] for name in older}, "output_tokens": None}).tokens_from is None


# What goes wrong is said, and never raised


@pytest.mark.parametrize(
    ("truth", "said", "chunks"),
    [
        ({"fault": "reset"}, "the connection broke: .*reset", 3),
        ({"fault": "cut"}, "ended before its .DONE.", 3),
        ({"fault": "no_done"}, "ended before its .DONE.", 8),
        ({"fault": "hang"}, "no bytes for 1 s", 3),
        ({"fault": "hang", "at": 0}, "no bytes for 1 s", 0),
        ({"fault": "silent"}, "closed the connection without an answer", 0),
        ({"fault": "429"}, "HTTP 429: .*come back later", 0),
        ({"fault": "500"}, "HTTP 500: .*come back later", 0),
        ({"fault": "101"}, "HTTP 101", 0),
        ({"fault": "error_event"}, "the engine reported: .*the KV cache is full", 3),
        ({"fault": "error_data"}, "the engine reported: .*the KV cache is full", 3),
        ({"fault": "not_json"}, "an event is not JSON: .*half", 3),
        ({"fault": "half_character"}, "an event is not JSON: .*xf0.x9f", 3),
        ({"fault": "not_object"}, "an event is not a chunk: .*7", 3),
        ({"fault": "odd_choices"}, "an event is not a chunk: .*text", 3),
        ({"fault": "odd_usage"}, "an event is not a chunk: .*usage", 3),
        ({"framing": "long"}, "ended before its body was complete", 8),
        ({"fault": "no_last_chunk"}, "ended before its body was complete", 8),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_a_fault_is_in_the_trace(engine: TruthEngine, truth: dict[str, object], said: str, chunks: int) -> None:
    trace = ask(engine, 8, Limits(idle_s=1), **truth)
    assert trace.error is not None
    assert re.search(said, trace.error), trace.error
    assert len(trace.arrivals_ns) == chunks
    assert trace.end_ns > trace.sent_ns


@pytest.mark.parametrize(
    ("fault", "said", "chunks"),
    [
        ("reset", "the connection broke: .*reset", 3),
        ("cut", "ended before its final object", 3),
        ("no_done", "ended before its final object", 8),
        ("error_text", "the engine reported: the KV cache is full", 3),
        ("not_json", "an event is not JSON: .*half", 3),
        ("half_character", "an event is not JSON: .*xf0.x9f", 3),
        ("not_object", "an event is not a chunk: .*7", 3),
        ("odd_choices", "an event is not a chunk: .*text", 3),
        ("429", "HTTP 429: .*come back later", 0),
    ],
)
def test_a_fault_of_ollamas_is_in_the_trace(engine: TruthEngine, fault: str, said: str, chunks: int) -> None:
    trace = ask(engine, 8, path=OLLAMA_CHAT, fault=fault)
    assert trace.error is not None
    assert re.search(said, trace.error), trace.error
    assert len(trace.arrivals_ns) == chunks
    assert trace.output_tokens is None


def test_a_body_longer_than_announced_is_an_error(engine: TruthEngine) -> None:
    trace = ask(engine, 8, framing="short")
    assert trace.error is not None
    assert len(trace.arrivals_ns) < 8


@pytest.mark.parametrize("path", [CHAT, OLLAMA_CHAT])
def test_nulls_say_nothing(engine: TruthEngine, path: str) -> None:
    trace = ask(engine, 8, path=path, fault="nulls")
    assert trace.error is None
    assert len(trace.arrivals_ns) == 7


def test_a_total_limit_ends_a_stream_that_never_pauses(engine: TruthEngine) -> None:
    trace = ask(engine, 1000, Limits(total_s=1), gap_s=0.02)  # twenty seconds
    assert trace.error == "not finished within 1 s"
    assert 1000 <= trace.e2e_ms < 10_000
    assert trace.output_tokens is None
    assert len(trace.arrivals_ns) > 2


def test_a_first_byte_that_never_comes_is_said(engine: TruthEngine) -> None:
    trace = ask(engine, 8, Limits(first_byte_s=0.3), fault="silent", ttft_s=60)
    assert trace.error == "no first byte within 0.3 s"
    assert 300 <= trace.e2e_ms < 10_000
    assert trace.blocks_ns == ()


def test_the_first_byte_may_take_longer_than_a_pause(engine: TruthEngine) -> None:
    """Queueing and prefill precede it."""
    trace = ask(engine, 8, Limits(first_byte_s=5, idle_s=0.5), fault="late_headers", ttft_s=1)
    assert trace.error is None
    assert trace.ttft_ms is not None
    assert trace.ttft_ms >= 1000


def test_a_slow_stream_is_not_an_idle_one(engine: TruthEngine) -> None:
    trace = ask(engine, 6, Limits(idle_s=1), gap_s=0.3)
    assert trace.error is None
    assert trace.e2e_ms > 1000


def closed_at_the_server(engine: TruthEngine) -> bool:
    """Whether the server soon notices that the client of its last answer has gone."""
    return eventually(lambda: engine.records()[-1]["closed_ns"] is not None)


def test_a_given_up_request_is_closed_at_the_server(engine: TruthEngine) -> None:
    assert ask(engine, 8, Limits(idle_s=0.2), fault="hang").error
    assert closed_at_the_server(engine)


@pytest.mark.parametrize("kept", [False, True])
def test_a_cancelled_request_is_closed_at_the_server(engine: TruthEngine, kept: bool) -> None:
    async def cancel() -> None:
        async with Connections() as connections:
            if kept:
                await stream(engine.url + CHAT, asked(), FEW_S, connections)
            request = asyncio.create_task(stream(engine.url + CHAT, asked(1000, gap_s=0.02), FEW_S, connections))
            await asyncio.sleep(0.6)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await asyncio.sleep(0.05)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.to_thread(closed_at_the_server, engine)

    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(cancel())
    assert len(os.listdir("/proc/self/fd")) == before
    sends = engine.records()[-1]["sends"]
    assert 3 < sum(chunks for _, chunks in sends) < 100


def test_cancelled_while_connecting_leaves_nothing() -> None:
    async def cancel(port: int) -> None:
        request = asyncio.create_task(stream(f"http://127.0.0.1:{port}/", {}))
        await asyncio.sleep(0.1)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    with never_accepting() as port:
        before = len(os.listdir("/proc/self/fd"))
        asyncio.run(cancel(port))
        assert len(os.listdir("/proc/self/fd")) == before


# Connections


def in_turn(engine: TruthEngine, *plans: dict[str, object], limits: Limits = FEW_S, pause_s: float = 0) -> list[Trace]:
    """One request after the other, on connections that are kept."""

    async def talk() -> list[Trace]:
        traces = []
        async with Connections() as connections:
            for plan in plans:
                traces.append(await stream(engine.url + CHAT, asked(8, **plan), limits, connections))
                await asyncio.sleep(pause_s)
        return traces

    return asyncio.run(talk())


def connections_of_last(engine: TruthEngine, answers: int) -> list[int]:
    return [record["connection"] for record in engine.records()[-answers:]]


@pytest.mark.parametrize("framing", ["chunked", "exact"])
def test_a_connection_is_used_again(engine: TruthEngine, framing: str) -> None:
    traces = in_turn(engine, *[{"framing": framing}] * 3)
    assert [t.error for t in traces] == [None] * 3
    assert [t.new_connection for t in traces] == [True, False, False]
    assert len(set(connections_of_last(engine, 3))) == 1
    assert all(min(judge(t, engine.records()).arrivals_ms) >= 0 for t in traces)


def test_it_is_used_again_after_a_refusal(engine: TruthEngine) -> None:
    refused, served = in_turn(engine, {"fault": "429"}, {})
    assert refused.error is not None
    assert (served.error, served.new_connection) == (None, False)


@pytest.mark.parametrize(
    "first",
    [
        {"framing": "close"},
        {"fault": "hang"},
        {"fault": "cut"},
        {"fault": "reset"},
        {"framing": "long"},
        {"framing": "short"},
        {"fault": "no_last_chunk"},
    ],
    ids=lambda plan: "-".join(plan.values()),
)
def test_it_is_not_used_again_unless_the_answer_ended_well(engine: TruthEngine, first: dict[str, object]) -> None:
    _, served = in_turn(engine, first, {}, limits=Limits(idle_s=1))
    assert (served.error, served.output_tokens, served.new_connection) == (None, 8, True)
    assert len(set(connections_of_last(engine, 2))) == 2


def test_without_a_pool_each_request_has_its_own(engine: TruthEngine) -> None:
    assert all(t.new_connection and t.error is None for t in (ask(engine), ask(engine)))
    assert len(set(connections_of_last(engine, 2))) == 2


def test_a_connection_that_was_closed_meanwhile_is_not_taken(engine: TruthEngine) -> None:
    before = len(engine.records())
    _, served = in_turn(engine, {"fault": "drop"}, {}, pause_s=0.1)
    assert (served.error, served.new_connection) == (None, True)
    assert len(engine.records()) == before + 2


def test_one_that_closes_on_the_request_is_opened_again(engine: TruthEngine) -> None:
    """The server took the request and closed without a byte: it is sent again, and the new connection is timed."""
    before = len(engine.records())
    first, served = in_turn(engine, {}, {"fault": "silent_again", "ttft_s": 0.5})
    assert (first.error, served.error, served.output_tokens) == (None, None, 8)
    assert served.new_connection
    assert len(engine.records()) == before + 3
    assert abs(judge(served, engine.records()).ttft_ms) < 250


def test_a_new_connection_that_closes_is_not_asked_again(engine: TruthEngine) -> None:
    before = len(engine.records())
    trace, _ = in_turn(engine, {"fault": "silent"}, {})
    assert trace.error == "the server closed the connection without an answer"
    assert len(engine.records()) == before + 2


def test_an_answer_that_had_begun_is_not_asked_for_again(engine: TruthEngine) -> None:
    before = len(engine.records())
    _, broken = in_turn(engine, {}, {"fault": "cut"})
    assert broken.error is not None
    assert (broken.new_connection, len(broken.arrivals_ns)) == (False, 3)
    assert len(engine.records()) == before + 2


def test_faults_leave_no_socket_open(engine: TruthEngine) -> None:
    plans: list[dict[str, object]] = [{"fault": f} for f in ("", "reset", "hang", "cut", "429", "error_data", "drop")]
    in_turn(engine, *plans, limits=Limits(idle_s=1))
    before = len(os.listdir("/proc/self/fd"))
    in_turn(engine, *plans, limits=Limits(idle_s=1))
    assert len(os.listdir("/proc/self/fd")) == before


def test_bytes_that_nobody_asked_for_end_a_connection() -> None:
    """Otherwise they would count as the start of the next answer."""
    answer = b"".join(s.data for s in schedule(Plan(tokens=2), CHAT))

    async def talk() -> tuple[Trace, Trace]:
        babbled = asyncio.Event()

        async def babbler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await asyncio.sleep(0.05)
            writer.write(answer)
            babbled.set()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()

        server = await asyncio.start_server(babbler, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{CHAT}"
        async with server, Connections() as connections:
            first = await stream(url, {}, FEW_S, connections)
            await babbled.wait()
            await asyncio.sleep(0.1)  # until the client has read it
            return first, await stream(url, {}, FEW_S, connections)

    first, second = asyncio.run(talk())
    assert (first.error, second.error, second.new_connection) == (None, None, True)


# Connecting


def test_a_refused_connection_is_said() -> None:
    port = free_port()
    trace = asyncio.run(stream(f"http://127.0.0.1:{port}/v1/chat/completions", {}))
    assert trace.error is not None
    assert trace.error.startswith(f"no connection to 127.0.0.1:{port}: ")
    assert "refused" in trace.error or "Connect call failed" in trace.error
    assert (trace.ttft_ms, trace.output_tokens) == (None, None)


@contextlib.contextmanager
def never_accepting() -> Iterator[int]:
    """A port that accepts no connection: when its queue is full, a listening socket lets further clients wait."""
    with socket.socket() as deaf, contextlib.ExitStack() as callers:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(3):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        yield deaf.getsockname()[1]


def test_a_connection_that_is_never_accepted_is_said() -> None:
    with never_accepting() as port:
        trace = asyncio.run(stream(f"http://127.0.0.1:{port}/", {}, Limits(connect_s=0.3)))
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
