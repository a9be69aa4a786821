"""Requests to an engine's REST API that go wrong, and what the engine answers."""

import json
import textwrap
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from shared.launch.running import Engine
from shared.report.table import Table

NO_JSON = b"{not json"


def answer_to(engine: Engine, path: str, body: Mapping[str, Any] | bytes) -> tuple[int, str]:
    """Send the body as JSON (bytes as they are). Returns the HTTP status and the text of the answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(engine.url + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as got:
            return got.status, got.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def refusals(engine: Engine, tries: Mapping[str, tuple[str, Mapping[str, Any] | bytes]]) -> Table:
    """The status and message that each request gets. tries: what is wrong with it → (path, body)."""
    rows = []
    for what, (path, body) in tries.items():
        status, text = answer_to(engine, path, body)
        rows.append((what, str(status), textwrap.shorten(message_of(text), 110, placeholder=" …")))
    return Table("What a bad request gets", ("request", "status", "the server's message"), rows)


def message_of(text: str) -> str:
    """The message of an OpenAI-shaped error; any other text as it is."""
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return text
