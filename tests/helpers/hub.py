"""A small hub: a real HTTP server that answers huggingface_hub as Hugging Face does, from folders on disk."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REVISION = "a" * 40


@dataclass
class Hub:
    """What it holds and how it behaves; what it was asked."""

    repositories: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    tear: set[str] = field(default_factory=set)  # repositories whose weights break off half-way, once
    short: set[str] = field(default_factory=set)  # ... whose weights end half-way, as if that were all
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # (method, path, Range)
    url: str = ""

    def files(self, repository: str) -> list[dict[str, object]]:
        folder = self.repositories[repository]
        inside = sorted(file for file in folder.rglob("*") if file.is_file())
        return [{"rfilename": str(f.relative_to(folder)), "size": f.stat().st_size} for f in inside]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.answer(status, b"{}", X_Error_Code=code, X_Error_Message=code, Content_Type="application/json")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range", "")))
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+)|/tree/(.+))?", path):
                return self.describe(*found.groups())
            if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(*found.groups())
            return self.refuse(404, "EntryNotFound")

        def describe(self, repository: str, revision: str | None, tree: str | None) -> None:
            if repository not in hub.repositories:
                return self.refuse(401, "RepoNotFound")
            if (revision or tree or "main") not in ("main", REVISION):
                return self.refuse(404, "RevisionNotFound")
            said: object
            if tree:
                said = [
                    {"type": "file", "path": f["rfilename"], "size": f["size"], "oid": "0" * 40}
                    for f in hub.files(repository)
                ]
            else:
                said = {
                    "id": repository, "modelId": repository, "sha": REVISION, "private": False, "tags": [],
                    "downloads": 0, "likes": 0, "gated": "manual" if repository in hub.gated else False,
                    "cardData": {"license": "apache-2.0"}, "siblings": hub.files(repository),
                }  # fmt: skip
            return self.answer(200, json.dumps(said).encode(), Content_Type="application/json")

        def file(self, repository: str, revision: str, name: str) -> None:
            if repository in hub.gated:
                return self.refuse(403, "GatedRepo")
            file = hub.repositories[repository] / name
            if not file.exists():
                return self.refuse(404, "EntryNotFound")
            data = file.read_bytes()
            etag = f'"{hashlib.sha256(data).hexdigest()}"'
            common = {"ETag": etag, "X_Repo_Commit": REVISION, "Accept_Ranges": "bytes"}
            start = int(m[1]) if (m := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
            weights = name.endswith(".safetensors") and self.command == "GET"
            if weights and repository in hub.short:
                return self.answer(200, data[: len(data) // 2], **common)
            if weights and repository in hub.tear:
                hub.tear.remove(repository)
                self.send_response(200)
                self.send_header("ETag", etag)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[: len(data) // 2])
                self.close_connection = True
                return None
            if start:
                where = f"bytes {start}-{len(data) - 1}/{len(data)}"
                return self.answer(206, data[start:], Content_Range=where, **common)
            return self.answer(200, data, **common)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
