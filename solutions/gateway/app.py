"""The routes: OpenAI's surface, and what operators need."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import aiohttp
import orjson
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import FileResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from gateway.errors import ApiError
from gateway.keys import Key, Keys
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.relay import Relay, Tools
from gateway.settings import Settings, is_loopback

# What the gateway itself needs of a body. Unknown fields are the engine's business.
NEEDS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": {"type": ["string"]}, "messages": {"type": ["array"]}},
    "/v1/completions": {"model": {"type": ["string"]}, "prompt": {"type": ["string", "array"]}},
}
TYPES = {"string": str, "array": list}
ERROR = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}
KINDS: dict[str, Any] = {"application/json": {}, "text/event-stream": {}}
ERRORS = {"description": "An error in OpenAI's form", "content": {"application/json": {"schema": ERROR}}}
PAGE = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:"
)
HERE = Path(__file__).parent


def make_app(settings: Settings) -> FastAPI:
    """The gateway with these settings."""
    metrics = Metrics()
    keys, pool = Keys(settings, metrics), Pool(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # No limit on connections (aiohttp's default is 100): the seats are the limit. No compression: the bytes are
        # passed on as they come. No proxy: engines are near. No connection is kept: llama.cpp's server closes one, now
        # and then, in the moment in which the next request is sent over it, and a generation costs far more than a
        # new connection.
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            headers={"accept-encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        ) as session:
            app.state.tools = Tools(settings, keys, pool, metrics, session)
            await pool.check(session)  # before the first request, which would else find no engine
            watching = asyncio.create_task(pool.watch(session))
            yield
            watching.cancel()

    app = FastAPI(title="Gateway", lifespan=lifespan, docs_url=None, redoc_url=None, responses={"default": ERRORS})

    async def with_key(request: Request) -> Key:
        key = keys.find(request.headers.get("authorization", ""))
        request.state.log["key"] = key.name
        return key

    async def operator(request: Request) -> None:
        """Counters name keys and models: they are for this machine, and for callers with a key."""
        if not (request.client and is_loopback(request.client.host)):
            await with_key(request)

    async def complete(request: Request, key: Annotated[Key, Depends(with_key)]) -> Response:
        try:
            async with asyncio.timeout(settings.body_s):
                body = checked(request, await request.body())
        except TimeoutError:
            raise ApiError(408, "The body did not come in time.", "slow_body") from None
        if not pool.serving(body["model"]):
            if not all(engine.models for engine in pool.engines):  # an engine has not answered since the start
                raise ApiError(503, "No engine that serves this model is available yet.", "no_engine", 1)
            text = f"The model {body['model'][:100]!r} does not exist here."
            raise ApiError(404, text, "model_not_found", retry=False)
        if settings.log_prompts:
            request.state.log["body"] = body
        return Relay(request.url.path, body, key, request.state.log, app.state.tools)

    for path, needs in NEEDS.items():
        body = {"type": "object", "required": list(needs), "properties": needs}
        asked = {"required": True, "content": {"application/json": {"schema": body}}}
        app.post(path, responses={200: {"content": KINDS}}, openapi_extra={"requestBody": asked})(complete)

    @app.get("/v1/models", dependencies=[Depends(with_key)])
    async def models() -> Any:
        listed = [{"id": name, "object": "model", "created": 0, "owned_by": "gateway"} for name in pool.models()]
        return {"object": "list", "data": listed}

    @app.get("/health")
    async def health() -> Any:
        return {"status": "ok", **({"keys": keys.problem} if keys.problem else {})}

    @app.get("/ready")
    async def ready() -> Any:
        up = [engine.name for engine in pool.engines if engine.available]
        if not up:
            raise ApiError(503, "No engine is available.", "no_engine", 1)
        return {"status": "ready", "engines": up}

    @app.get("/metrics", dependencies=[Depends(operator)], response_class=PlainTextResponse)
    async def counters() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/dashboard", dependencies=[Depends(operator)], include_in_schema=False)
    async def dashboard() -> Response:
        return FileResponse(HERE / "dashboard.html", headers={"content-security-policy": PAGE})

    @app.get("/dashboard.js", dependencies=[Depends(operator)], include_in_schema=False)
    async def script() -> Response:
        return FileResponse(HERE / "dashboard.js", media_type="text/javascript")

    @app.exception_handler(ApiError)
    async def as_openai_does(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> Response:
        """A fault of the gateway's own. Starlette raises it again afterwards, so it is logged, too."""
        return ApiError(500, "The gateway failed.", "internal_error").response()

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        response = ApiError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    return app


def checked(request: Request, body: bytes) -> dict[str, Any]:
    """The body, parsed and with what the gateway needs. Raises ApiError."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # A page of another origin can send text without asking first, but not this type.
        raise ApiError(415, "Send Content-Type: application/json.", "unsupported_media_type", retry=False)
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise ApiError(400, f"The body is not JSON: {e}.", "invalid_json", retry=False) from None
    if not isinstance(found, dict):
        raise ApiError(400, "The body is not a JSON object.", "invalid_json", retry=False)
    try:
        orjson.dumps([found])  # orjson can't write all that it reads. The log holds the body one level deeper
    except TypeError:
        raise ApiError(400, "The body is nested too deeply.", "invalid_json", retry=False) from None
    for field, wanted in NEEDS[request.url.path].items():
        if not isinstance(found.get(field), tuple(TYPES[kind] for kind in wanted["type"])):
            raise ApiError(400, f"`{field}` is missing or of the wrong type.", f"missing_{field}", retry=False)
    return found
