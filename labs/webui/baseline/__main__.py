"""A page, and one route that passes Ollama's stream on.

WEBUI_OLLAMA=http://127.0.0.1:11434 WEBUI_PORT=3001 python -m webui.baseline
"""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse

OLLAMA = os.environ.get("WEBUI_OLLAMA", "http://127.0.0.1:11434")
PORT = int(os.environ.get("WEBUI_PORT", "3001"))
HERE = Path(__file__).parent
HEADERS = {"content-security-policy": "default-src 'self'; frame-ancestors 'none'"}
app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.middleware("http")
async def only_this_page(request: Request, call_next: Any) -> Any:
    """Refuse what another web page sends through the visitor's browser."""
    ours = {f"127.0.0.1:{PORT}", f"localhost:{PORT}"}
    origin = request.headers.get("origin", "")
    if request.headers.get("host") not in ours or (origin and origin.partition("://")[2] not in ours):
        return JSONResponse({"error": "This is another page's request."}, 403)
    return await call_next(request)


@app.get("/")
async def page() -> Response:
    return FileResponse(HERE / "index.html", headers=HEADERS)


@app.get("/{name}")
async def file(name: str) -> Response:
    if name not in ("chat.js", "chat.css"):
        return Response("not found", 404)
    return FileResponse(HERE / name)


@app.get("/api/models")
async def models() -> Any:
    async with aiohttp.ClientSession() as session, session.get(f"{OLLAMA}/api/tags") as response:
        return [one["name"] for one in (await response.json())["models"]]


@app.post("/api/chat")
async def chat(request: Request) -> Response:
    """Ollama's own answer, line by line."""
    body = await request.json()

    async def lines() -> AsyncIterator[bytes]:
        async with aiohttp.ClientSession() as session, session.post(f"{OLLAMA}/api/chat", json=body) as response:
            async for line in response.content:
                yield line

    return StreamingResponse(lines(), media_type="application/x-ndjson")


if __name__ == "__main__":
    print(f"Open http://127.0.0.1:{PORT} (Ollama: {OLLAMA})", flush=True)
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
