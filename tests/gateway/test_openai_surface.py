"""OpenAI's surface: its own client, unchanged but for its address, and requests made up from the gateway's schema."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.helpers.gateway import MANY, Gateway, running, write_keys
from tests.helpers.truth import TruthEngine

HELLO: dict[str, Any] = {"model": "truth", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
ANSWER = (
    '{"id": "chatcmpl-1", "object": "chat.completion", "created": 1790000000, "model": "truth", '
    '"choices": [{"index": 0, "message": {"role": "assistant", "content": "a wave"}, "finish_reason": "stop"}], '
    '"usage": {"prompt_tokens": 11, "completion_tokens": 2, "total_tokens": 13}}'
)
WHOLE = {"truth": {"kind": "application/json", "framing": "exact", "raw": [ANSWER], "ttft_s": 0}}


@pytest.fixture(scope="module")
def guarded(one: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with keys: `anna`, and `slow`, which may ask once in three seconds."""
    folder = tmp_path_factory.mktemp("guarded")
    slow = {"limits": {"requests_per_minute": 20, "burst": 1}}
    write_keys(folder / "keys.toml", {"anna": {}, "slow": slow})
    with running(folder, {"one": one.url}, **{**MANY, "keys_file": str(folder / "keys.toml")}) as gateway:
        yield gateway


def client(gateway: Gateway, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", **{"api_key": "sk-anna", "max_retries": 0, **options})


def fault(**plan: object) -> dict[str, object]:
    return {"truth": {"ttft_s": 0.01, **plan}}


def test_a_stream_comes_in_order_with_its_usage_last(guarded: Gateway) -> None:
    stream = client(guarded).chat.completions.create(**HELLO, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("#")
    assert text.endswith(" naïve🌊7")
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens if chunks[-1].usage else None) == ([], 8)


def test_a_stream_without_usage_has_no_chunk_that_a_program_does_not_expect(guarded: Gateway) -> None:
    for chunk in client(guarded).chat.completions.create(**HELLO, stream=True):
        assert chunk.usage is None
        assert chunk.choices[0].index == 0  # a program that doesn't know of usage looks at the first choice of each


def test_a_whole_answer_and_its_headers(guarded: Gateway) -> None:
    raw = client(guarded).chat.completions.with_raw_response.create(**HELLO, extra_body=WHOLE)
    parsed = raw.parse()
    assert (parsed.choices[0].message.content, parsed.usage and parsed.usage.total_tokens) == ("a wave", 13)
    assert raw.headers["x-request-id"] == parsed._request_id
    assert raw.headers["x-content-type-options"] == "nosniff"
    with client(guarded).chat.completions.with_streaming_response.create(**HELLO, stream=True) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert list(answer.iter_lines())[-2:] == ["data: [DONE]", ""]


def test_reasoning_tool_calls_and_several_choices_arrive(guarded: Gateway) -> None:
    call = '{"index":0,"id":"c1","type":"function","function":{"name":"f","arguments":"{\\"a\\": "}}'
    more = '{"index":0,"function":{"arguments":"7}"}}'
    deltas = (
        f'{{"tool_calls":[{call}]}}', f'{{"tool_calls":[{more}]}}', '{"reasoning_content":"hm"}', '{"content":"x"}'
    )  # fmt: skip
    raw = [f'data: {{"choices":[{{"index":{i},"delta":{delta}}}]}}\n\n' for i, delta in enumerate(deltas)]
    found = list(
        client(guarded).chat.completions.create(**HELLO, stream=True, extra_body=fault(raw=[*raw, "data: [DONE]\n\n"]))
    )
    arguments = [c.choices[0].delta.tool_calls[0].function.arguments for c in found[:2]]  # type: ignore[index,union-attr]
    assert arguments == ['{"a": ', "7}"]
    assert found[2].choices[0].delta.reasoning_content == "hm"  # type: ignore[attr-defined]
    assert [c.choices[0].index for c in found] == [0, 1, 2, 3]


def test_plain_completions_models_and_the_asynchronous_client(guarded: Gateway) -> None:
    stream = client(guarded).completions.create(model="truth", prompt="Hello", max_tokens=3, stream=True)
    assert sum(bool(chunk.choices[0].text) for chunk in stream) == 3
    assert [model.id for model in client(guarded).models.list()] == ["truth"]

    async def ten() -> list[int]:
        async with openai.AsyncOpenAI(base_url=guarded.url + "/v1", api_key="sk-anna", max_retries=0) as many:

            async def chunks() -> int:
                return len([chunk async for chunk in await many.chat.completions.create(**HELLO, stream=True)])

            return await asyncio.gather(*(chunks() for _ in range(10)))

    assert len(set(asyncio.run(ten()))) == 1


def test_a_rate_limit_is_waited_for_as_long_as_it_states(guarded: Gateway) -> None:
    asking = client(guarded, api_key="sk-slow", max_retries=3)
    refused = guarded.count("requests_refused_total", key="slow")
    began = time.monotonic()
    asking.chat.completions.create(**HELLO, extra_body=WHOLE)
    raw = asking.chat.completions.with_raw_response.create(**HELLO, extra_body=WHOLE)
    assert (raw.status_code, raw.retries_taken) == (200, 1), "one refusal, then the wait was long enough"
    assert guarded.count("requests_refused_total", key="slow") == refused + 1
    assert time.monotonic() - began >= 3.0
    with pytest.raises(openai.RateLimitError) as refusal:
        client(guarded, api_key="sk-slow").chat.completions.create(**HELLO)
    assert refusal.value.code == "rate_limit_exceeded"


@pytest.mark.parametrize(
    ("status", "wait", "error", "tries"),
    [
        ("429", "1", openai.RateLimitError, 2),  # the client waits for the second that the engine asks for
        ("500", "", openai.InternalServerError, 2),
        ("400", "", openai.BadRequestError, 1),
        ("404", "", openai.NotFoundError, 1),
        ("422", "", openai.UnprocessableEntityError, 1),
    ],
)
def test_an_engines_errors_are_tried_again_where_it_helps(
    guarded: Gateway, one: TruthEngine, status: str, wait: str, error: type[openai.APIStatusError], tries: int
) -> None:
    before = len(one.records())
    with pytest.raises(error):
        client(guarded, max_retries=1).chat.completions.create(
            **HELLO, stream=True, extra_body=fault(fault=status, retry_after=wait)
        )
    records = one.records()[before:]
    assert len(records) == tries
    if wait:
        assert records[1]["received_ns"] - records[0]["received_ns"] >= 1e9


def test_the_gateways_own_refusals_are_the_clients_exceptions_and_are_not_tried_again(guarded: Gateway) -> None:
    before = guarded.count("requests_refused_total", reason="key")
    for key in ("sk-wrong", "sk-anna2", ""):
        with pytest.raises(openai.AuthenticationError) as wrong:
            client(guarded, api_key=key or "-", max_retries=2).chat.completions.create(**HELLO)
        assert wrong.value.code == "invalid_api_key"
    assert guarded.count("requests_refused_total", reason="key") == before + 3
    known = client(guarded, max_retries=2)
    with pytest.raises(openai.NotFoundError) as missing:
        known.chat.completions.create(**{**HELLO, "model": "gpt-17"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        known.embeddings.create(model="truth", input="x")
    with pytest.raises(openai.BadRequestError) as bad:
        known.chat.completions.create(model="truth", messages="Hello")  # type: ignore[call-overload]
    assert (bad.value.code, bad.value.type) == ("missing_messages", "invalid_request_error")
    with pytest.raises(openai.APIStatusError) as large:
        known.chat.completions.create(**HELLO, extra_body={"more": "x" * 5 * 10**6})
    assert large.value.status_code == 413


def test_time_limits_and_broken_streams_are_the_clients_exceptions(single: Gateway, one: TruthEngine) -> None:
    asking = client(single)
    with pytest.raises(openai.APITimeoutError):
        asking.with_options(timeout=0.3).chat.completions.create(**HELLO, extra_body=fault(fault="silent", ttft_s=60))
    with pytest.raises(openai.InternalServerError) as late:
        asking.chat.completions.create(**HELLO, stream=True, extra_body=fault(fault="late_headers", ttft_s=60))
    assert (late.value.status_code, late.value.code) == (504, "engine_timeout")
    before = len(one.records())
    for broken in ("reset", "hang", "no_done", "error_event", "error_data"):
        stream = client(single, max_retries=2).chat.completions.create(
            **HELLO, stream=True, extra_body=fault(fault=broken)
        )
        assert next(stream).choices, broken
        with pytest.raises(openai.APIError):
            list(stream)
    assert len(one.records()) == before + 5, "nobody asked again for a stream that had begun"


# Requests made up from the schema: valid ones are served, others are refused in OpenAI's form

GETS = ("/v1/models", "/health", "/ready", "/metrics")
POSTS = ("/v1/chat/completions", "/v1/completions")
STATUSES = {"GET": {200}, "POST": {200, 400, 404, 415}}  # with one engine that never fails


@pytest.fixture(scope="module")
def offered(single: Gateway) -> Any:
    return schemathesis.openapi.from_url(single.url + "/openapi.json")


@pytest.mark.parametrize(
    ("path", "mode"),
    [(path, GenerationMode.POSITIVE) for path in GETS + POSTS] + [(path, GenerationMode.NEGATIVE) for path in POSTS],
)
def test_no_request_makes_the_gateway_fail(offered: Any, single: Gateway, path: str, mode: GenerationMode) -> None:
    operation = offered[path]["GET" if path in GETS else "POST"]
    seen = set()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode == GenerationMode.POSITIVE and isinstance(case.body, dict) and len(case.body) % 2:
            case.body["model"] = "truth"  # else nothing would get as far as an engine
        answer = case.call_and_validate(timeout=20)
        seen.add(answer.status_code)
        assert answer.headers["x-request-id"]
        if answer.status_code >= 400:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()
    assert seen <= STATUSES[operation.method.upper()]
