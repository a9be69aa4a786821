"""What the lab's tables state beyond the recorded figures."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shared import LabError
from shared.course.batching import batch_tables, spark_arithmetic
from shared.engines import ENGINES
from shared.launch.diagnosis import likely_causes
from tests.helpers.ledger import trace


def kv_bytes(config: dict[str, int], size: int) -> int:
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim * size


def users(memory: int, weights: float, each: int, context: int) -> int:
    return max(0, int((memory - weights) // (each * context)))


def test_growth_carries_the_range_of_its_rounds() -> None:
    found = batch_tables.growth([10.0, 20.0], [120.0, 150.0])
    assert (found.median, found.low, found.high) == (9.0, 6.0, 15.0)


def test_one_value_is_compared_with_all_rounds() -> None:
    assert batch_tables.beside_rounds(16, [11, 13]) == "higher than in all 2"
    assert batch_tables.beside_rounds(12, [11, 13]) == "within the range of the 2"
    assert batch_tables.beside_rounds(77, [91, 118]) == "lower than in all 2"


def entry(tok_s: float) -> dict[str, Any]:
    return {"values": {"output_tok_s": tok_s}, "provenance": {"startup_s": 38.0}}


def test_a_request_that_failed_in_the_stall_was_not_answered_in_time() -> None:
    seen = {"open": [*[trace(start_ms=200 * n) for n in range(3)], trace(ttft_ms=1, gap_ms=0, error="refused")]}
    [row] = batch_tables.stall(seen, 300, 1).rows
    assert row == ("open", "4", "121", "1 (25 %)", "121")
    [row] = batch_tables.stall({"open": seen["open"][-1:]}, 300, 1).rows
    assert row == ("open", "1", "–", "1 (100 %)", "–")


def test_compiled_is_judged_by_the_eager_rounds() -> None:
    eager = {f"load/users-{u}/vllm/round-{n}": entry(u * 10 + n) for u in (1, 16) for n in (1, 2)}
    table, sentences = batch_tables.eager_or_compiled(eager, (1, 16))
    assert ([row[0] for row in table.rows], sentences) == (["eager"], [])
    both = {**eager, "compiled/users-1": entry(16), "compiled/users-16": entry(77)}
    table, sentences = batch_tables.eager_or_compiled(both, (1, 16))
    assert table.rows[1] == ("compiled", "38", "16", "77")
    assert sentences == [
        "1 user: compiled throughput is higher than in all 2 eager rounds",
        "16 users: compiled throughput is lower than in all 2 eager rounds",
    ]


def test_compiled_results_of_another_size_are_not_compared() -> None:
    """They stay in the ledger: at the quick size nothing is compiled, so nothing sets them aside."""
    eager = {f"load/users-{u}/vllm/round-1": entry(u * 10) for u in (1, 16)}
    both = {**eager, "compiled/users-1": entry(16), "compiled/users-16": entry(77)}
    for key, one in both.items():
        one["provenance"]["size"] = "full" if key.startswith("compiled/") else "quick"
    table, sentences = batch_tables.eager_or_compiled(both, (1, 16))
    assert ([row[0] for row in table.rows], sentences) == (["eager"], [])


def test_users_that_fit_follow_from_the_students_functions() -> None:
    rows = {row[0]: row[1:] for row in spark_arithmetic.users_that_fit(kv_bytes, users).rows}
    assert rows["8B BF16"] == ("128 KiB", "168", "21", "5")
    assert rows["70B BF16"] == ("320 KiB", "0", "0", "0")


def test_the_reason_of_a_refused_start_is_the_line_of_its_log(tmp_path: Path) -> None:
    line = (
        "  Value error, Total number of attention heads (9) must be divisible by tensor parallel size (2). [type=x, y]"
    )
    log = tmp_path / "log"
    log.write_text(f"pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig\n{line}\n")
    causes = likely_causes(ENGINES["vllm"], log, in_container=False)
    error = LabError("vLLM ended.\nLikeliest causes:\n  1. " + causes[0])
    reason = "Total number of attention heads (9) must be divisible by tensor parallel size (2)."
    assert batch_tables.logged_reason(error).endswith(reason)


@pytest.fixture
def server() -> Iterator[SimpleNamespace]:
    """Answers an OpenAI-shaped error, or for an unknown path one of another form."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == "/v1/chat/completions"
            body = json.dumps({"error": {"message": "no such model"}} if known else {"detail": "Not Found"}).encode()
            self.send_response(400 if known else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    httpd = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield SimpleNamespace(url=f"http://127.0.0.1:{httpd.server_port}")
    httpd.shutdown()
    httpd.server_close()


def test_refusals_show_the_servers_own_message(server: Any) -> None:
    tries: dict[str, tuple[str, Any]] = {
        "model": ("/v1/chat/completions", {"model": "x"}),
        "json": ("/v1/chat/completions", batch_tables.NO_JSON),
        "path": ("/v1/chats", {}),
    }
    assert batch_tables.refusals(server, tries).rows == [
        ("model", "400", "no such model"),
        ("json", "400", "no such model"),
        ("path", "404", '{"detail": "Not Found"}'),
    ]
