"""Requests made up from the gateway's own OpenAPI schema: valid ones are served, others refused in OpenAI's form."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.helpers.gateway import Gateway

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
