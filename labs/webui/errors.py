"""An error that the page shows: what happened, and what to do about it."""

import re

import aiohttp
from starlette.responses import JSONResponse


class WebError(Exception):
    """An answer that is an error, in one sentence, with its fix."""

    def __init__(self, status: int, what: str, fix: str) -> None:
        super().__init__(what)
        self.status, self.what, self.fix = status, what, fix

    def response(self) -> JSONResponse:
        return JSONResponse({"what": self.what, "fix": self.fix}, self.status)


NO_MEMORY = re.compile(
    r"(system|gpu|more) memory|out of memory|\boom\b|cudaMalloc|failed to allocate|unable to alloc", re.I
)
MISSING = re.compile(r"not found|no such model|does not exist", re.I)
FIXES = [
    (NO_MEMORY, "Unload other models under Models, choose a smaller model, or lower the context length."),
    (MISSING, "Pull it under Models, or choose another model."),
    (
        re.compile(r"does not support", re.I),
        "Choose a model that can do this. Models > Show lists what a model can do.",
    ),
    (re.compile(r"context|too long|exceed", re.I), "Raise the context length, or start a new chat."),
]


def refused(engine: str, status: int, text: str, pulling: bool = False) -> WebError:
    """What an engine answered instead of 200. `pulling`: it was asked to fetch a model from a registry."""
    if status == 401:
        return WebError(502, f"{engine} refused the key.", "Start this page with the right WEBUI_GATEWAY_KEY.")
    if status == 429:
        return WebError(502, f"{engine} has too many requests: {text[:300]}", "Wait a moment, then press Regenerate.")
    fixes = [(MISSING, "Check its name and tag: ollama.com/search lists the models."), *FIXES] if pulling else FIXES
    fix = next((fix for pattern, fix in fixes if pattern.search(text)), f"Look into the log of {engine}.")
    what = f"{engine} answered with an error ({status}): {text[:300].strip().rstrip('.') or 'no text'}."
    return WebError(404 if status == 404 else 502, what, fix)


def unreachable(engine: str, url: str, error: Exception) -> WebError:
    """An engine that does not answer, or ended in the middle of an answer."""
    if isinstance(error, aiohttp.ClientConnectorError):
        start = "ollama serve" if engine == "Ollama" else "the gateway"
        return WebError(
            503,
            f"{engine} does not answer at {url}.",
            f"Start {start}. If it runs elsewhere, start this page with WEBUI_{engine.upper()}=<its address>.",
        )
    if isinstance(error, TimeoutError):
        return WebError(504, f"{engine} sent nothing for too long.", f"Look into the log of {engine}, and try again.")
    return WebError(
        502,
        f"{engine} ended in mid-answer ({type(error).__name__}).",
        f"What had come is kept. Look into the log of {engine}, then press Regenerate.",
    )
