"""A registry on this machine that serves the models of an Ollama's store, and can hold a download up in the middle."""

import asyncio
import threading
from pathlib import Path

from aiohttp import web

from shared.processes import free_port

STEP_BYTES = 2**18


class Registry:
    """Serves `<address>/library/<model>:<tag>` from the store (OLLAMA_MODELS) of an Ollama that has this model."""

    def __init__(self, store: Path) -> None:
        self.store, self.port = store, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.most_bytes: int | None = None  # of blobs altogether; then every download waits. None: no limit
        self.served_bytes = 0
        self.starts: list[int] = []  # the offset at which each download of a part began
        self.ready = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True).start()
        assert self.ready.wait(10)

    async def serve(self) -> None:
        app = web.Application()
        app.router.add_get("/v2/library/{model}/manifests/{tag}", self.manifest)
        app.router.add_get("/v2/library/{model}/blobs/sha256:{digest}", self.elsewhere, allow_head=False)
        app.router.add_head("/v2/library/{model}/blobs/sha256:{digest}", self.blob)
        app.router.add_get("/data/{digest}", self.blob)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        self.ready.set()
        await asyncio.Event().wait()

    async def manifest(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info
        file = self.store / "manifests" / "registry.ollama.ai" / "library" / name["model"] / name["tag"]
        return web.Response(body=file.read_bytes()) if file.exists() else web.Response(status=404)

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        """Ollama insists on a redirect to another host, as a real registry sends to its content network."""
        raise web.HTTPTemporaryRedirect(f"http://localhost:{self.port}/data/{request.match_info['digest']}")

    async def blob(self, request: web.Request) -> web.StreamResponse:
        file = self.store / "blobs" / f"sha256-{request.match_info['digest']}"
        size = file.stat().st_size
        part = request.http_range
        start, end = part.start or 0, part.stop or size
        response = web.StreamResponse(status=206 if "Range" in request.headers else 200)
        response.content_length = end - start
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        self.starts.append(start)
        with file.open("rb") as data:
            data.seek(start)
            while start < end:
                while self.most_bytes is not None and self.served_bytes >= self.most_bytes:
                    await asyncio.sleep(0.02)
                block = data.read(min(STEP_BYTES, end - start))
                await response.write(block)
                start += len(block)
                self.served_bytes += len(block)
        return response
