"""What the gateway counts. The names after the colon are vLLM's, so one dashboard serves both.

Every label has few values: models that an engine serves, names of engines, names of keys, reasons and status codes that
the gateway itself chooses. Nothing that a client sends becomes a label.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80)
BETWEEN_TOKENS_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
WHOLE_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """The counters of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        model, engine, key = ("model_name",), ("engine",), ("key",)
        self.first_token = self._histogram(
            "time_to_first_token_seconds", "From arrival to first text", model, FIRST_TOKEN_S
        )
        self.between = self._histogram("inter_token_latency_seconds", "Between two events", model, BETWEEN_TOKENS_S)
        self.whole = self._histogram("e2e_request_latency_seconds", "From arrival to end", model, WHOLE_S)
        self.queued = self._histogram("request_queue_time_seconds", "Waiting for a seat", model, FIRST_TOKEN_S)
        self.running = self._gauge("num_requests_running", "Requests that hold a seat", engine)
        self.waiting = self._gauge("num_requests_waiting", "Requests that wait for a seat", model)
        self.up = self._gauge("engine_up", "1 if the engine is healthy and its breaker closed", engine)
        self.seats = self._gauge("engine_seats", "Requests that the engine may run at once", engine)
        self.prompt_tokens = self._counter("prompt_tokens", "By the engines' usage", key)
        self.generation_tokens = self._counter("generation_tokens", "By the engines' usage", key)
        self.uncounted = self._counter("answers_without_usage", "Answers whose tokens no engine counted", engine)
        self.answers = self._counter("requests", "Answers by status", ("model_name", "status"))
        self.refused = self._counter("requests_refused", "Requests refused by the gateway", ("reason",))
        self.left = self._counter("clients_left", "Clients that left before their answer had ended", ("moment",))
        self.retried = self._counter("requests_retried", "Requests tried on another engine", engine)
        self.failures = self._counter("engine_failures", "Failures of engines", ("engine", "reason"))

    def _histogram(self, name: str, about: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"gateway:{name}", about, labels, registry=self.registry, buckets=buckets)

    def _gauge(self, name: str, about: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"gateway:{name}", about, labels, registry=self.registry)

    def _counter(self, name: str, about: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"gateway:{name}", about, labels, registry=self.registry)
