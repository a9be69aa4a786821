"""The report of `trtllm-bench --report_json`, read into the values of a ledger entry.

The form was read in TensorRT-LLM's source (tensorrt_llm/bench/dataclasses/reporting.py at commit 024997657505). No
report of a Spark was seen: not verified on hardware.
"""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import LabError
from shared.report.table import Table

# our name → (section, key) of the report
ALWAYS = {
    "requests": ("request_info", "num_requests"),
    "users": ("request_info", "avg_num_concurrent_requests"),
    "prompt_tokens": ("request_info", "avg_input_length"),
    "answer_tokens": ("request_info", "avg_output_length"),
    "output_tok_s": ("performance", "system_output_throughput_tok_s"),
    "total_tok_s": ("performance", "system_total_throughput_tok_s"),
    "request_ms": ("performance", "avg_request_latency_ms"),
    "total_ms": ("performance", "total_latency_ms"),
}
STREAMING = {
    "ttft_ms": ("streaming_metrics", "avg_ttft_ms"),
    "tpot_ms": ("streaming_metrics", "avg_tpot_ms"),
}


def form(streaming: bool = True) -> dict[str, dict[str, Any]]:
    """A report without a measurement: the sections and keys that `read` wants, with 0 for every figure."""
    found: dict[str, dict[str, Any]] = {"engine": {"version": "", "backend": ""}}
    for section, key in (ALWAYS | (STREAMING if streaming else {})).values():
        found.setdefault(section, {})[key] = 0
    return found


def places() -> Table:
    """Where the reader finds each figure."""
    rows = [(name, f"{section}.{key}") for name, (section, key) in (ALWAYS | STREAMING).items()]
    return Table(
        "The report of trtllm-bench (from its source; not verified on hardware)", ("here", "in the report"), rows
    )


def try_form() -> None:
    """Print what the reader makes of the documented form, and of a form without its figures."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "form.json"
        file.write_text(json.dumps(form()))
        print(f"A made-up report of the documented form, with 0 for every figure, is read as:\n{read(file)}\n")
        file.write_text(json.dumps(form() | {"performance": {}}))
        try:
            read(file)
        except LabError as e:
            print(f"The same report without its section `performance` is refused:\n{e}")


def read(file: Path) -> dict[str, Any]:
    """The figures of a report, with their units in their names; `ttft_ms` and `tpot_ms` only of a streaming run.

    Raises LabError if the file is no such report, or a figure is missing or no number.
    """
    try:
        report = json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise LabError(f"{file.name} is no report: {e}.", "run trtllm-bench with --report_json again") from None
    wanted = ALWAYS | (STREAMING if isinstance(report, dict) and report.get("streaming_metrics") else {})
    return {name: figure(report, file, *place) for name, place in wanted.items()} | {
        "engine_version": report.get("engine", {}).get("version"),
        "backend": report.get("engine", {}).get("backend"),
    }


def figure(report: Any, file: Path, section: str, key: str) -> float:
    inner = report.get(section) if isinstance(report, Mapping) else None
    value = inner.get(key) if isinstance(inner, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LabError(
            f"{file.name} has no number {section}.{key}; it is {value!r}.",
            "its form belongs to another version of TensorRT-LLM: compare it with ALWAYS in bench_report.py",
        )
    return float(value)
