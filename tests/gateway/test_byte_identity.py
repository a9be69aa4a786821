"""A client gets the bytes that the engine sent, whatever their form, and the gateway counts the tokens that they name.

The test makes up the bytes of each stream and where they are cut, the truth server sends them, and a client reads them
through the gateway. So what was sent is known without asking the engine.
"""

import asyncio
import itertools
import json
import random
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.helpers.gateway import HELLO, Gateway
from tests.helpers.truth import TruthEngine

# Text that a careless reader of streams takes for something else, or cuts in two.
PIECES = (
    "Hello", " wörld", "🌊", "👩‍👩‍👧", "日本語", "é", "\u2028", "\x85", "\n\n", "\r\n\r\n", "[DONE]",
    "data: [DONE]\n\n", "data: ", '"usage":{"completion_tokens":99}', "event: error", ": ", "\\", "\x00", "<|im_end|>",
)  # fmt: skip
COMMENTS = (b": ping", b":", b": keep-alive 2026-11-26 06:00:00+00:00", ": 🌊".encode())
BEFORE_DATA = (b"id: 7", b"retry: 3000", b"event: message", b": in the same event")


@dataclass(frozen=True)
class Stream:
    """What an engine sends, and what of it a client gets that didn't ask for the usage."""

    whole: bytes
    without_usage: bytes
    completion_tokens: int


def delta(source: random.Random) -> dict[str, Any]:
    text = "".join(source.choices(PIECES, k=source.randint(0, 3)))
    call = {"index": source.randint(0, 1), "id": "call_1", "type": "function", "function": {"arguments": text}}
    return source.choice(
        (
            {"role": "assistant", "content": ""},
            {"content": text},
            {"content": text},
            {"content": None, "reasoning_content": text},
            {"reasoning": text},
            {"tool_calls": [call]},
            {"refusal": text},
            {},
        )
    )


def drawn(source: random.Random) -> Stream:
    """A stream of any form that server-sent events and OpenAI's chunks allow."""
    escaped, spaced = source.choice((True, False)), source.choice((True, False))
    ends = source.choice(((b"\n",), (b"\r\n",), (b"\n", b"\r\n")))
    usage_in_chunks, named = source.choice((None, "null", "so far")), source.choice((True, False))
    tokens = 0
    whole, shown = bytearray(), bytearray()

    def add(*lines: bytes, is_usage: bool = False) -> None:
        end = source.choice(ends)
        event = end.join((*lines, b"", b""))
        whole.extend(event)
        shown.extend(b"" if is_usage else event)

    def add_data(content: object, is_usage: bool = False) -> None:
        separators = (", ", ": ") if spaced else (",", ":")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=escaped, separators=separators)
        before = source.choices(BEFORE_DATA, k=source.randint(1, 2)) if named and source.random() < 0.3 else []
        colon = b"data: " if source.random() < 0.8 else b"data:"
        add(*before, colon + text.encode(), is_usage=is_usage)

    for _ in range(source.randint(1, 25)):
        tokens += source.randint(1, 3)
        if source.random() < 0.1:
            add(source.choice(COMMENTS))
        reason = source.choice((None, None, None, "stop", "tool_calls"))
        chunk: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1790000000}
        chunk["choices"] = [
            {"index": index, "delta": delta(source), "logprobs": None, "finish_reason": reason}
            for index in sorted(source.sample(range(3), k=source.choice((1, 1, 1, 2, 3))))
        ]
        if usage_in_chunks:
            so_far = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
            chunk["usage"] = None if usage_in_chunks == "null" else so_far
        add_data(chunk)
    usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
    add_data({"id": "chatcmpl-1", "choices": [], "usage": usage, "timings": {"predicted_n": tokens}}, is_usage=True)
    add_data("[DONE]")
    return Stream(bytes(whole), bytes(shown), tokens)


def pieces(source: random.Random, whole: bytes) -> list[str]:
    """The bytes in blocks as an engine may send them: event by event, several at once, or cut anywhere."""
    way = source.choice(("whole", "few", "many", "events"))
    if way == "whole":
        cuts = []
    elif way == "events":
        cuts = [i + 2 for i in range(len(whole)) if whole[i : i + 2] == b"\n\n"]
    else:
        cuts = sorted(source.sample(range(1, len(whole)), k=min(len(whole) - 1, 3 if way == "few" else 30)))
    places = [0, *cuts, len(whole)]
    blocks = [whole[a:b] for a, b in itertools.pairwise(places)]
    return [block.decode("latin-1") for block in blocks if block]


@dataclass(frozen=True)
class Exchange:
    """What a client asks for, and the bytes that it should get."""

    path: str
    body: dict[str, Any]
    should: bytes
    completion_tokens: int


def exchange(source: random.Random) -> Exchange:
    stream, with_usage = drawn(source), source.choice((True, False))
    truth = {
        "raw": pieces(source, stream.whole),
        "ttft_s": 0,
        "gap_s": source.choice((0, 0.0005, 0.002)),
        "framing": source.choice(("chunked", "chunked", "close", "exact")),
    }
    body = {"model": "truth", "messages": [], "prompt": "x", "stream": True, "truth": truth}
    if with_usage or source.choice((True, False)):
        body["stream_options"] = {"include_usage": with_usage}
    path = source.choice(("/v1/chat/completions", "/v1/completions"))
    return Exchange(path, body, stream.whole if with_usage else stream.without_usage, stream.completion_tokens)


async def differing(gateway: Gateway, exchanges: list[Exchange]) -> list[str]:
    """The streams that a client got differently from what it should get."""
    few, wrong = asyncio.Semaphore(24), []
    async with aiohttp.ClientSession(gateway.url, connector=aiohttp.TCPConnector(limit=0), trust_env=False) as session:

        async def one(number: int, asked: Exchange) -> None:
            async with few, session.post(asked.path, json=asked.body) as answer:
                got, should = await answer.read(), asked.should
            if (answer.status, got) != (200, should):
                same = next((i for i, (a, b) in enumerate(zip(got, should, strict=False)) if a != b), len(should))
                part = slice(max(0, same - 80), same + 80)
                wrong.append(f"{number}, status {answer.status}, byte {same}: {got[part]!r}, not {should[part]!r}")

        await asyncio.gather(*(one(number, asked) for number, asked in enumerate(exchanges)))
    return wrong


@pytest.mark.parametrize(
    "streams", [500, pytest.param(10_000, marks=pytest.mark.drill)], ids=["500 streams", "10000 streams"]
)
def test_streams_are_the_engines_bytes_and_their_tokens_are_counted(single: Gateway, streams: int) -> None:
    source, before, tokens = random.Random(streams), single.count("generation_tokens_total"), 0
    for begin in range(0, streams, 500):
        exchanges = [exchange(source) for _ in range(begin, min(begin + 500, streams))]
        wrong = asyncio.run(differing(single, exchanges))
        assert len(wrong) == 0, f"of {len(exchanges)} streams {len(wrong)} differ, such as {wrong[0]}"
        tokens += sum(asked.completion_tokens for asked in exchanges)
    assert single.count("generation_tokens_total") - before == tokens


def test_a_cut_at_every_byte_of_a_stream_changes_nothing(single: Gateway) -> None:
    line = json.dumps({"choices": [{"index": 0, "delta": {"content": "a🌊\u0301[DONE]"}}]}, ensure_ascii=False)
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}})
    head, counted, done = f"data: {line}\r\n\r\n".encode(), f"data: {usage}\r\n\r\n".encode(), b"data: [DONE]\r\n\r\n"
    whole = head + counted + done

    async def all_cuts() -> list[int]:
        few = asyncio.Semaphore(16)  # so that the gateway reads the first block before the second comes
        async with aiohttp.ClientSession(single.url, trust_env=False) as session:

            async def same(cut: int) -> bool:
                raw = [whole[:cut].decode("latin-1"), whole[cut:].decode("latin-1")]
                truth = {"raw": raw, "ttft_s": 0, "gap_s": 0.04}
                body = {"model": "truth", "messages": [], "stream": True, "truth": truth}
                async with few, session.post("/v1/chat/completions", json=body) as answer:
                    return await answer.read() == head + done

            found = await asyncio.gather(*(same(cut) for cut in range(1, len(whole))))
            return [cut for cut, fits in enumerate(found, 1) if not fits]

    before = single.count("generation_tokens_total")
    assert asyncio.run(all_cuts()) == []
    assert single.count("generation_tokens_total") - before == 3 * (len(whole) - 1)


def test_each_event_is_passed_on_before_the_engine_sends_the_next(single: Gateway, one: TruthEngine) -> None:
    stamps: list[int] = []
    with single.client.stream(
        "POST",
        "/v1/chat/completions",
        json={**HELLO, "max_tokens": 4, "stream": True, "truth": {"gap_s": 0.8, "first": "none"}},
    ) as answer:
        for block in answer.iter_raw():
            stamps += [time.perf_counter_ns()] * block.count(b'"content": ')
    sent = [ns for ns, tokens in one.records()[-1]["sends"] if tokens]
    assert len(stamps) == len(sent) == 4
    for came_ns, next_ns in zip(stamps, sent[1:], strict=False):
        assert came_ns < next_ns
