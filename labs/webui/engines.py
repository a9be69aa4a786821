"""One streamed answer of Ollama, or of an OpenAI-compatible server, as the same kinds of events.

{"text": "Hel"}          a piece of the answer (a piece is not a token)
{"thinking": "..."}      a piece of what a reasoning model thinks first
{"counters": {...}}      the last event: the engine's own counters
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import aiohttp

from webui.errors import WebError, refused, unreachable
from webui.settings import Settings

Event = dict[str, Any]
OPENAI_KNOWS = {"temperature": "temperature", "top_p": "top_p", "seed": "seed", "num_predict": "max_tokens"}


class Engines:
    """The engines of these settings. A target names one of them and a model: `ollama:smollm2:135m`."""

    def __init__(self, settings: Settings, session: aiohttp.ClientSession) -> None:
        self.settings, self.session = settings, session

    def stream(self, target: str, messages: list[dict[str, str]], parameters: Event) -> AsyncGenerator[Event, None]:
        """The events of one answer. Raises WebError. Closing the iterator closes the connection: the engine stops."""
        engine, _, model = target.partition(":")
        if engine == "ollama":
            return self.ollama(model, messages, parameters)
        if engine == "gateway" and self.settings.gateway:
            return self.openai(model, messages, parameters)
        raise WebError(400, f"There is no engine {engine[:50]}.", "Choose a model of the list.")

    async def ollama(
        self, model: str, messages: list[dict[str, str]], parameters: Event
    ) -> AsyncGenerator[Event, None]:
        """POST /api/chat: one JSON object a line."""
        options = {name: value for name, value in parameters.items() if name != "keep_alive"}
        body: Event = {"model": model, "messages": messages, "stream": True, "options": options}
        if keep_alive := parameters.get("keep_alive"):
            body["keep_alive"] = -1 if keep_alive == "-1" else keep_alive
        async for line in self.lines("Ollama", f"{self.settings.ollama}/api/chat", body):
            event = parsed("Ollama", line)
            if "error" in event:
                raise refused("Ollama", 500, str(event["error"]))
            message = event.get("message", {})
            for name, field in (("thinking", "thinking"), ("text", "content")):
                if message.get(field):
                    yield {name: message[field]}
            if event.get("done"):
                yield {"counters": ollama_counters(event)}
                return
        raise unreachable("Ollama", self.settings.ollama, EOFError())

    async def openai(
        self, model: str, messages: list[dict[str, str]], parameters: Event
    ) -> AsyncGenerator[Event, None]:
        """POST /v1/chat/completions: server-sent events."""
        options = {OPENAI_KNOWS[name]: value for name, value in parameters.items() if name in OPENAI_KNOWS}
        if options.get("max_tokens") == -1:  # Ollama's word for "no limit"
            del options["max_tokens"]
        body = {"model": model, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        counters: Event = {}
        async for line in self.lines("Gateway", f"{self.settings.gateway}/v1/chat/completions", body | options):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                yield {"counters": counters}
                return
            event = parsed("Gateway", data)
            if event.get("error"):
                raise refused("Gateway", 500, error_text(data.decode(errors="replace")))
            for choice in event.get("choices") or []:
                delta = choice.get("delta") or {}
                if thought := delta.get("reasoning") or delta.get("reasoning_content"):
                    yield {"thinking": thought}
                if delta.get("content"):
                    yield {"text": delta["content"]}
                counters["reason"] = choice.get("finish_reason") or counters.get("reason")
            if usage := event.get("usage"):
                counters["prompt_tokens"] = usage.get("prompt_tokens")
                counters["output_tokens"] = usage.get("completion_tokens")
        raise unreachable("Gateway", self.settings.gateway, EOFError())

    async def lines(self, engine: str, url: str, body: Event) -> AsyncIterator[bytes]:
        """The lines of a streamed answer, one by one."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=self.settings.idle_s)
        key = self.settings.gateway_key.get_secret_value() if engine == "Gateway" else ""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        try:
            async with self.session.post(url, json=body, headers=headers, timeout=timeout) as response:
                try:
                    if response.status != 200:
                        raise refused(engine, response.status, error_text(await response.text(errors="replace")))
                    rest = b""
                    async for block in response.content.iter_any():
                        whole, rest = whole_lines(rest + block)
                        for line in whole:
                            yield line
                    for line in whole_lines(rest + b"\n")[0]:
                        yield line
                finally:
                    response.close()  # an engine stops when its client has gone
        except (aiohttp.ClientError, OSError) as e:
            raise unreachable(engine, url.partition("/v1/")[0].partition("/api/")[0], e) from None

    async def context_length(self, target: str) -> int | None:
        """How many tokens the loaded model holds, as Ollama reports it; None if the engine doesn't."""
        engine, _, model = target.partition(":")
        if engine != "ollama":
            return None
        try:
            timeout = aiohttp.ClientTimeout(total=2)
            async with self.session.get(f"{self.settings.ollama}/api/ps", timeout=timeout) as response:
                loaded = (await response.json()).get("models") or []
        except (aiohttp.ClientError, OSError, ValueError):
            return None
        names = {model, f"{model}:latest"}
        return next((one.get("context_length") for one in loaded if one.get("name") in names), None)


def whole_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """The lines that are whole, and what is left: the beginning of a line that is not whole yet.

    A line with nothing but spaces, or with nothing at all, is left out.

    The network cuts a stream anywhere, also in the middle of a UTF-8 character. So lines are cut as bytes.
    """
    # TODO: what follows the last newline is not whole
    raise NotImplementedError("engines: what follows the last newline is not whole")


def parsed(engine: str, line: bytes) -> Event:
    """A line's JSON object. Raises WebError."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise WebError(502, f"{engine} sent what is not JSON: {line[:60]!r}.", f"Is this the address of {engine}?")
    return found


def ollama_counters(last: Event) -> Event:
    """Ollama's counters of its last line. Its durations are in nanoseconds."""
    seconds = (last.get("eval_duration") or 0) / 1e9
    tokens = last.get("eval_count")
    return {
        "reason": last.get("done_reason"),
        "prompt_tokens": last.get("prompt_eval_count"),
        "output_tokens": tokens,
        "tok_s": tokens / seconds if tokens and seconds else None,
        "load_ms": (last.get("load_duration") or 0) / 1e6,
        "prompt_ms": (last.get("prompt_eval_duration") or 0) / 1e6,
    }


def error_text(body: str) -> str:
    """The message of an engine's error body."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return body
    return str(error.get("message", error)) if isinstance(error, dict) else str(error)
