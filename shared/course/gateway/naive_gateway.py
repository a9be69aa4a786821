"""The naive gateway, in five versions. Each repairs the failure of the version before it, and has one of its own.

    python -m shared.course.gateway.naive_gateway blocks_the_loop 9000 http://127.0.0.1:8080

A version is what turns the request's body into the stream that the client gets. The rest is the same for all.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry, Counter, generate_latest

Body = dict[str, Any]
REGISTRY = CollectorRegistry()
TOKENS = Counter("naive:generation_tokens", "Output tokens, as this gateway counts them", registry=REGISTRY)


async def blocks_the_loop(url: str, body: Body) -> AsyncIterator[str]:
    """The outline's sketch, with the HTTP client that most scripts use."""
    with httpx.stream("POST", url, json=body, timeout=None) as answer:
        for line in answer.iter_lines():
            if line:
                yield f"{line}\n\n"


async def buffers(url: str, body: Body) -> AsyncIterator[str]:
    """Awaits the engine, so other requests can run meanwhile."""
    async with httpx.AsyncClient(timeout=None) as client:
        answer = await client.post(url, json=body)
        for line in answer.iter_lines():
            if line:
                yield f"{line}\n\n"


async def keeps_the_slot(url: str, body: Body) -> AsyncIterator[str]:
    """Passes each line on as it comes. A task reads from the engine, so a slow client does not hold the engine up."""
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    async def read() -> None:
        async with httpx.AsyncClient(timeout=None) as client, client.stream("POST", url, json=body) as answer:
            async for line in answer.aiter_lines():
                await lines.put(line)
        await lines.put(None)

    reading = asyncio.create_task(read())
    while (line := await lines.get()) is not None:
        if line:
            yield f"{line}\n\n"
    await reading


async def counts_chunks(url: str, body: Body) -> AsyncIterator[str]:
    """Reads from the engine in the client's own task, which ends when the client leaves. Counts the tokens."""
    async with httpx.AsyncClient(timeout=None) as client, client.stream("POST", url, json=body) as answer:
        async for line in answer.aiter_lines():
            if line:
                TOKENS.inc()
                yield f"{line}\n\n"


async def retries_too_late(url: str, body: Body) -> AsyncIterator[str]:
    """Counts the tokens of the engine's own `usage`, and asks again when the connection to the engine breaks."""
    for _attempt in range(3):
        with contextlib.suppress(httpx.HTTPError):
            async with httpx.AsyncClient(timeout=None) as client, client.stream("POST", url, json=body) as answer:
                async for line in answer.aiter_lines():
                    if '"usage":{' in line:
                        TOKENS.inc(json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"])
                    if line:
                        yield f"{line}\n\n"
            return


VERSIONS: dict[str, Callable[[str, Body], AsyncIterator[str]]] = {
    version.__name__: version for version in (blocks_the_loop, buffers, keeps_the_slot, counts_chunks, retries_too_late)
}


def make_app(version: str, engine_url: str) -> FastAPI:
    """The naive gateway in front of one engine."""
    app, url = FastAPI(), engine_url + "/v1/chat/completions"

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        return StreamingResponse(VERSIONS[version](url, await request.json()), media_type="text/event-stream")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(REGISTRY), media_type="text/plain")

    return app


if __name__ == "__main__":
    # asyncio's own loop writes at once. uvloop would write at the end of a turn, which never comes in a blocked loop.
    uvicorn.run(make_app(sys.argv[1], sys.argv[3]), port=int(sys.argv[2]), loop="asyncio", log_level="warning")
