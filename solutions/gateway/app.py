"""The routes: OpenAI's surface, and what operators need."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson
from fastapi import Depends, FastAPI, Request, Response
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException

from gateway.admission import Admission
from gateway.errors import ApiError
from gateway.keys import Key, Keys
from gateway.metrics import Metrics
from gateway.middleware import Edge
from gateway.pool import Pool
from gateway.relay import Asked, Relay, Tools
from gateway.settings import Settings

BODY = {"content": {"application/json": {"schema": {"type": "object", "required": ["model"]}}}, "required": True}
NEEDS = {"/v1/chat/completions": ("messages", list), "/v1/completions": ("prompt", (str, list))}


def make_app(settings: Settings) -> FastAPI:
    """The gateway with these settings."""
    metrics, keys = Metrics(), Keys(settings.keys_file, settings.limits)
    keys.check()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = Pool(settings, metrics)
        admission = Admission(settings, pool, metrics)
        # No limit on connections (aiohttp's default is 100): the seats are the limit. Loopback goes through no proxy.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)
        async with aiohttp.ClientSession(connector=connector, trust_env=False, auto_decompress=False) as session:
            app.state.tools, app.state.pool = Tools(settings, admission, metrics, session), pool
            watching = [asyncio.create_task(pool.watch(session)), asyncio.create_task(admission.wake_up())]
            yield
            for task in watching:
                task.cancel()

    app = FastAPI(title="Gateway", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Edge, settings=settings)

    def who(request: Request) -> Key:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        key = keys.find(token.strip() if scheme.lower() == "bearer" else "")
        if key is None:
            metrics.refused.labels("key").inc()
            raise ApiError(401, "The API key is missing or wrong.", "invalid_api_key", retry=False)
        request.state.log["key"] = key.name
        return key

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": BODY})
    @app.post("/v1/completions", openapi_extra={"requestBody": BODY})
    async def complete(request: Request, key: Key = Depends(who)) -> Any:
        path = request.url.path
        body = checked(await request.body(), *NEEDS[path])
        if not app.state.pool.serving(body["model"]):
            text = f"The model {str(body['model'])[:100]!r} does not exist here."
            raise ApiError(404, text, "model_not_found", retry=False)
        return Relay(Asked(path, body, key, request.state.request_id), app.state.tools, request.state.log)

    @app.get("/v1/models")
    async def models(key: Key = Depends(who)) -> Any:
        return {
            "object": "list",
            "data": [{"id": m, "object": "model", "owned_by": "gateway"} for m in app.state.pool.models()],
        }

    @app.get("/health")
    async def health() -> Any:
        return {"status": "ok", **({"keys": keys.problem} if keys.problem else {})}

    @app.get("/ready")
    async def ready() -> Any:
        up = [engine.name for engine in app.state.pool.engines if engine.available]
        if not up:
            raise ApiError(503, "No engine is available.", "no_engine", 1)
        return {"status": "ready", "engines": up}

    @app.get("/metrics")
    async def counters() -> Response:
        return Response(generate_latest(metrics.registry), media_type="text/plain; version=0.0.4")

    @app.exception_handler(ApiError)
    async def as_openai_does(request: Request, error: ApiError) -> Response:
        return Response(error.body(), error.status, error.headers())

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        same = ApiError(error.status_code, str(error.detail))
        return Response(same.body(), same.status, {**(error.headers or {}), **same.headers()})

    return app


def checked(body: bytes, field: str, kinds: type | tuple[type, ...]) -> dict[str, Any]:
    """The body as JSON, with what the gateway itself needs of it. Unknown fields are the engine's business."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise ApiError(400, f"The body is not JSON: {e}.", "invalid_json", retry=False) from None
    if not isinstance(found, dict):
        raise ApiError(400, "The body is not a JSON object.", "invalid_json", retry=False)
    if not isinstance(found.get("model"), str):
        raise ApiError(400, "`model` is missing or not a text.", "missing_model", retry=False)
    if not isinstance(found.get(field), kinds):
        raise ApiError(400, f"`{field}` is missing or of the wrong type.", f"missing_{field}", retry=False)
    return found
