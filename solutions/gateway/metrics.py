"""What the gateway counts, and what a stream carries. Names after the colon are vLLM's: one dashboard serves both.

Every label has few values: models that an engine serves, names of engines and keys, and reasons and status codes that
the gateway itself chooses. Nothing that a client sends becomes a label.
"""

import os
import re
import struct
import time
from contextlib import suppress
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
BETWEEN_TOKENS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
WHOLE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

EVENT = re.compile(rb".*?\n\r?\n", re.S)  # up to and with an empty line
DATA = re.compile(rb"^data:(.*)$", re.M)
TEXTS = ("content", "reasoning_content", "reasoning", "tool_calls")


class Metrics:
    """The counters of one process. With several workers they lie in files, and every worker shows the sum of all."""

    def __init__(self) -> None:
        self._shared = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        self._registry = CollectorRegistry()
        if not self._shared:
            ProcessCollector(registry=self._registry)
        model, engine, key = ("model_name",), ("engine",), ("key",)
        histogram, gauge, counter = self._histogram, self._gauge, self._counter
        self.first_token = histogram("time_to_first_token_seconds", "From arrival to first text", FIRST_TOKEN_S)
        self.between = histogram("inter_token_latency_seconds", "Between two blocks of text", BETWEEN_TOKENS_S)
        self.whole = histogram("e2e_request_latency_seconds", "From arrival to end, of whole answers", WHOLE_S)
        self.queued = histogram("request_queue_time_seconds", "Waiting for a seat", FIRST_TOKEN_S)
        self.running = gauge("num_requests_running", "Requests that hold a seat", engine)
        self.waiting = gauge("num_requests_waiting", "Requests that wait for a seat", model)
        self.up = gauge("engine_up", "1 if the engine is healthy and its breaker closed", engine, "livemin")
        self.seats = gauge("engine_seats", "Requests that the engine may run at once", engine)
        self.prompt_tokens = counter("prompt_tokens", "By the engines' usage", key)
        self.generation_tokens = counter("generation_tokens", "By the engines' usage", key)
        self.goodput = counter("generation_tokens_within_slo", "Of answers within the SLO", key)
        self.cache_queries = counter("prefix_cache_queries", "Prompt tokens whose cache hits are known", key)
        self.cache_hits = counter("prefix_cache_hits", "Prompt tokens that came from the engine's cache", key)
        self.uncounted = counter("answers_without_usage", "Answers whose tokens no engine counted", engine)
        self.answers = counter("requests", "Answers by status", ("model_name", "status"))
        self.refused = counter("requests_refused", "Requests refused by the gateway", ("reason", "key"))
        self.left = counter("clients_left", "Clients that left before their answer had ended", ("moment",))
        self.retried = counter("requests_retried", "Requests tried on another engine", engine)
        self.failures = counter("engine_failures", "Failures of engines", ("engine", "reason"))
        self.send_wait = counter("send_wait_seconds", "Streams waited because their client did not read", key)

    def page(self) -> bytes:
        """All counters in Prometheus' text format."""
        for _ in range(20):
            with suppress(struct.error):  # a worker made its file of counters just now, and it is still empty
                return self._page()
            time.sleep(0.01)
        return self._page()

    def _page(self) -> bytes:
        registry = CollectorRegistry() if self._shared else self._registry
        if self._shared:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def tokens(self, key: str, usage: dict[str, Any], within_slo: bool) -> None:
        """Count an answer's tokens as its engine counted them."""
        prompt, generated = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        self.prompt_tokens.labels(key).inc(prompt)
        self.generation_tokens.labels(key).inc(generated)
        self.goodput.labels(key).inc(generated if within_slo else 0)
        if isinstance(details := usage.get("prompt_tokens_details"), dict):
            self.cache_queries.labels(key).inc(prompt)
            self.cache_hits.labels(key).inc(details.get("cached_tokens") or 0)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gateway:{name}", about, ("model_name",), registry=self._registry, buckets=buckets)

    def _gauge(self, name: str, about: str, labels: tuple[str, ...], mode: Any = "livesum") -> Gauge:
        return Gauge(f"gateway:{name}", about, labels, registry=self._registry, multiprocess_mode=mode)

    def _counter(self, name: str, about: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"gateway:{name}", about, labels, registry=self._registry)


class Events:
    """What the events of one stream carry, read block by block."""

    def __init__(self, pass_usage: bool) -> None:
        self.pass_usage = pass_usage  # whether the client asked for the usage
        self.text_seen = False  # a chunk with text, reasoning or a tool call has come
        self.usage: dict[str, Any] | None = None  # the newest: some engines send it with every chunk
        self.done = False  # [DONE] has come
        self.whole = b""  # the events that became whole with the last block
        self.rest = b""  # the beginning of the next one

    def feed(self, block: bytes) -> bytes:
        """Read the next block of bytes. Returns the events that are whole now, and keeps them in `self.whole`.

        A block ends anywhere: it carries no event, or three, or ends in the middle of a character or of a line end.
        An event ends with an empty line (line ends are \\n or \\r\\n). What follows stays in `self.rest` for the next
        block. `data_of(event)` returns an event's data; `self.note(data)` sets `text_seen` and `usage` from it. The
        data [DONE], which is no JSON, sets `done`; a text that contains these letters doesn't. Nothing is raised: a
        stream that can't be read is still passed on.
        """
        # BEGIN SOLUTION: feed: join, cut behind the last empty line, look into the whole events
        data = self.rest + block
        end = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        end = end if end > 3 else 0  # rfind returned -1, and 2 or 3 was added: there is no empty line
        self.whole, self.rest = data[:end], data[end:]
        # JSON is the costly part, and most blocks carry only text. Engines send "usage":null with every chunk.
        has_usage = self.whole.count(b'"usage":') != self.whole.count(b'"usage":null')
        if has_usage or not self.text_seen or b"[DONE]" in self.whole:
            for event in EVENT.findall(self.whole):
                if (said := data_of(event)) == b"[DONE]":
                    self.done = True
                else:
                    self.note(said)
        return self.whole
        # END SOLUTION

    def note(self, data: bytes) -> None:
        """Note what the data of one event carries. What can't be read is left to the client."""
        event = parsed(data)
        self.usage = usage if isinstance(usage := event.get("usage"), dict) else self.usage
        for choice in choices if isinstance(choices := event.get("choices"), list) else ():
            with suppress(AttributeError):  # not an object
                said = choice.get("delta") or {}
                self.text_seen = self.text_seen or bool(choice.get("text") or any(said.get(name) for name in TEXTS))

    def for_client(self, block: bytes) -> bytes:
        """What of the stream may go to the client after `feed(block)`.

        The gateway asks every stream for its usage. Where the client did not, the event that holds nothing else is left
        out, and an event that is not whole yet is held back.
        """
        if self.pass_usage:
            return block
        if b'"usage":' not in self.whole:
            return self.whole
        return b"".join(event for event in EVENT.findall(self.whole) if not only_usage(parsed(data_of(event))))


def data_of(event: bytes) -> bytes:
    """The data of one event: what follows `data:` in its lines."""
    return b"\n".join(DATA.findall(event)).strip()


def parsed(data: bytes) -> dict[str, Any]:
    """The data as an object; empty if it is none."""
    with suppress(orjson.JSONDecodeError):
        if isinstance(found := orjson.loads(data), dict):
            return found
    return {}


def only_usage(event: dict[str, Any]) -> bool:
    return isinstance(event.get("usage"), dict) and not event.get("choices")
