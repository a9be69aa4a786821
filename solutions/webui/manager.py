"""Ollama's models: what is there, what is loaded, pulls that the server owns, and files that become models."""

import asyncio
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from webui.engines import error_text
from webui.errors import WebError, refused, unreachable
from webui.history import Row
from webui.settings import Settings

# [host[:port]/][namespace/]model[:tag], as Ollama reads it. No part begins with a dot, so none is `..`.
PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
NAME = re.compile(rf"(?:{PART}(?::\d{{1,5}})?/)?(?:{PART}/){{0,2}}{PART}(?::{PART})?")
DIGEST = re.compile(r"[0-9a-f]{64}")


def checked_name(name: str) -> str:
    """A model's name. Raises WebError for anything else, such as a path."""
    if not NAME.fullmatch(name):
        raise WebError(
            400, f"{name[:100]!r} is not a model's name.", "A name looks like smollm2:135m or hf.co/me/model:Q4_0."
        )
    return name


class Manager:
    """Talks to Ollama about models."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.settings, self.session = settings, session
        self.pulls: dict[str, Row] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.uploads = settings.data / "uploads"
        shutil.rmtree(self.uploads, ignore_errors=True)  # halves of an earlier run

    async def call(
        self, method: str, path: str, body: Any = None, timeout_s: float = 30, engine: str = "Ollama"
    ) -> Any:
        """One request and its JSON (None for an empty answer). Raises WebError."""
        base = self.settings.ollama if engine == "Ollama" else self.settings.gateway
        key = self.settings.gateway_key.get_secret_value() if engine == "Gateway" else ""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            request = self.session.request(method, base + path, json=body, headers=headers, timeout=timeout)
            async with request as response:
                text = await response.text(errors="replace")
        except (aiohttp.ClientError, OSError) as e:
            raise unreachable(engine, base, e) from None
        if response.status >= 400:
            raise refused(engine, response.status, error_text(text))
        try:
            return json.loads(text) if text.strip() else None
        except ValueError:
            raise WebError(502, f"{base} sent what is not JSON.", f"Is this the address of {engine}?") from None

    async def models(self) -> Row:
        """Everything that the page lists. An engine that does not answer is a problem in the list, not an error."""
        problems: list[Row] = []

        async def tried(path: str, field: str, engine: str = "Ollama") -> list[Row]:
            try:
                return (await self.call("GET", path, timeout_s=5, engine=engine) or {}).get(field) or []
            except WebError as e:
                problem = {"what": e.what, "fix": e.fix}
                problems.extend([problem] if problem not in problems else [])
                return []

        tags, loaded = await asyncio.gather(tried("/api/tags", "models"), tried("/api/ps", "models"))
        served = await tried("/v1/models", "data", "Gateway") if self.settings.gateway else []
        targets = [f"ollama:{one['name']}" for one in tags] + [f"gateway:{one['id']}" for one in served]
        return {
            "targets": targets,
            "models": tags,
            "loaded": loaded,
            "pulls": list(self.pulls.values()),
            "problems": problems,
            "ollama": self.settings.ollama,
            "gateway": self.settings.gateway,
        }

    def pull(self, name: str) -> None:
        """Begin a pull, or go on with one: Ollama keeps what it has of a file."""
        if name in self.tasks:
            return
        self.pulls[name] = {"name": name, "state": "running", "status": "asking the registry", "done": 0, "total": 0}
        self.tasks[name] = asyncio.create_task(self.run_pull(name, self.pulls[name]))
        self.tasks[name].add_done_callback(lambda _: self.tasks.pop(name, None))

    async def run_pull(self, name: str, pull: Row) -> None:
        """Follow a pull until its end. Closing the connection makes Ollama stop it."""
        body = {"model": name, "stream": True, "insecure": is_local(name)}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self.settings.idle_s)
        layers: dict[str, tuple[int, int]] = {}
        try:
            async with self.session.post(f"{self.settings.ollama}/api/pull", json=body, timeout=timeout) as response:
                if response.status != 200:
                    text = error_text(await response.text(errors="replace"))
                    raise refused("Ollama", response.status, text, pulling=True)
                async for line in response.content:
                    event = json.loads(line)
                    if "error" in event:
                        raise refused("Ollama", 500, str(event["error"]), pulling=True)
                    pull["status"] = event.get("status", "")
                    if digest := event.get("digest"):
                        layers[digest] = event.get("completed", 0), event.get("total", 0)
                    pull["done"], pull["total"] = (sum(one[i] for one in layers.values()) for i in (0, 1))
            if pull["status"] != "success":
                raise WebError(502, "Ollama ended the pull before it was whole.", "Press Resume.")
            self.pulls.pop(name, None)
        except asyncio.CancelledError:
            pull |= {"state": "cancelled", "status": "cancelled; what was downloaded is kept"}
        except WebError as e:
            pull |= {"state": "failed", "status": f"{e.what} Fix: {e.fix}"}
        except (aiohttp.ClientError, OSError, ValueError) as e:
            error = unreachable("Ollama", self.settings.ollama, e)
            pull |= {"state": "failed", "status": f"{error.what} Fix: start Ollama again, then press Resume."}

    def cancel_pull(self, name: str) -> None:
        """Stop a pull that runs; take one that has ended off the list."""
        if task := self.tasks.get(name):
            task.cancel()
        else:
            self.pulls.pop(name, None)

    async def upload(self, blocks: AsyncIterator[bytes]) -> Row:
        """Keep a GGUF file and hand it to Ollama under its hash. The browser's own file name is used nowhere."""
        self.uploads.mkdir(parents=True, exist_ok=True)
        size, sha256 = 0, hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self.uploads) as file:
            async for block in blocks:
                if size == 0 and block[:4] != b"GGUF"[: len(block[:4])]:
                    raise WebError(400, "This is not a GGUF file: it does not begin with GGUF.", "Choose a .gguf file.")
                size += len(block)
                if size > self.settings.most_upload_bytes:
                    raise WebError(413, "The file is larger than allowed.", "Raise WEBUI_MOST_UPLOAD_BYTES.")
                if shutil.disk_usage(self.uploads).free < 2 * 2**30:
                    raise WebError(507, "Less than 2 GiB of the disk are free.", "Free some, or use a smaller file.")
                await asyncio.to_thread(file.write, block)
                await asyncio.to_thread(sha256.update, block)
            if size < 24:
                raise WebError(400, "The file is too short to be a GGUF file.", "Choose a whole .gguf file.")
            file.flush()
            digest = sha256.hexdigest()
            await self.hand_over(Path(file.name), digest)
        return {"digest": digest, "size": size}

    async def hand_over(self, file: Path, digest: str) -> None:
        """Send a file to Ollama's store, which checks its hash."""
        url = f"{self.settings.ollama}/api/blobs/sha256:{digest}"
        try:
            with file.open("rb") as data:
                timeout = aiohttp.ClientTimeout(total=3600)
                async with self.session.post(url, data=data, timeout=timeout) as response:
                    if response.status >= 400:
                        raise refused("Ollama", response.status, error_text(await response.text()))
        except (aiohttp.ClientError, OSError) as e:
            raise unreachable("Ollama", self.settings.ollama, e) from None

    async def create(self, asked: Row) -> None:
        """Make a model from an uploaded file or another model, with a system prompt, a template and parameters."""
        body = {"model": checked_name(asked["name"]), "stream": False}
        if digest := asked.get("digest"):
            if not DIGEST.fullmatch(digest):
                raise WebError(400, "This is not the hash of an uploaded file.", "Choose the file again.")
            body["files"] = {"model.gguf": f"sha256:{digest}"}
        else:
            body["from"] = checked_name(asked.get("source") or "")
        parameters = {name: value for name, value in asked["parameters"].items() if name != "keep_alive"}
        body |= {name: asked[name] for name in ("system", "template") if asked.get(name)}
        body |= {"parameters": parameters} if parameters else {}
        await self.call("POST", "/api/create", body, timeout_s=3600)

    async def unload(self, name: str) -> None:
        """Take a model out of memory now."""
        await self.call("POST", "/api/generate", {"model": name, "keep_alive": 0})
        for _ in range(50):  # Ollama answers before the memory is free
            if all(one["name"] != name for one in (await self.call("GET", "/api/ps") or {}).get("models") or []):
                return
            await asyncio.sleep(0.1)

    async def end(self) -> None:
        """Stop all pulls."""
        for task in list(self.tasks.values()):
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


def is_local(name: str) -> bool:
    """Whether the name's registry is on this machine, where no certificate is needed."""
    return "/" in name and urlsplit(f"//{name}").hostname in ("127.0.0.1", "localhost")
