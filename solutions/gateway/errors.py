"""Errors in OpenAI's form, which its clients turn into exceptions.

    {"error": {"message": …, "type": …, "param": null, "code": …}}

The `openai` client retries 408, 409, 429 and 5xx, waits as long as `Retry-After` states, and obeys `x-should-retry`.
"""

import math

import orjson
from starlette.responses import Response

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
         429: "rate_limit_error"}  # fmt: skip


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(
        self, status: int, message: str, code: str | None = None, retry_after_s: float | None = None, retry: bool = True
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.retry_after_s, self.retry = retry_after_s, retry

    def body(self) -> bytes:
        kind = "server_error" if self.status >= 500 else TYPES.get(self.status, "invalid_request_error")
        return orjson.dumps(
            {"error": {"message": self.message, "type": kind, "param": None, "code": self.code or kind}}
        )

    def headers(self) -> dict[str, str]:
        found = {"content-type": "application/json"}
        if self.retry_after_s is not None:
            found["retry-after"] = str(max(1, math.ceil(self.retry_after_s)))
        if not self.retry:
            found["x-should-retry"] = "false"
        return found

    def response(self) -> Response:
        return Response(self.body(), self.status, self.headers())

    def event(self) -> bytes:
        """The last event of a stream that has begun already. No [DONE] follows, so no client takes it for whole."""
        return b"\n\nevent: error\ndata: " + self.body() + b"\n\n"
