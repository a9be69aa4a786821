"""The scale-out benchmark without engines: its figures, its table, and the file that keeps it."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from shared import LabError
from shared.load import Run, Trace
from shared.processes import descendants
from shared.results import scale_out
from shared.results.scale_out import Benchmark
from tests.bench import scale_out as bench
from tests.bench import scale_out_table as shown
from tests.bench.scale_out_systems import answered_s

S = 10**9
ANSWER = Trace(
    sent_ns=0, arrivals_ns=(1 * S, 1 * S, 2 * S), texts=("a", "b", "c"), end_ns=3 * S, input_tokens=5, output_tokens=3,
    cached_tokens=0, finish_reason="length", error=None,
)  # fmt: skip
COLUMNS: dict[str, scale_out.Cells] = {
    "ray-2": {"tok_s/1": [40.0, 44.0, 42.0], "failed": [0.0, 0.0, 1.0], "kill_recovery_s": [55.5]},
    "direct": {"tok_s/1": [50.0], "ttft_ms/1": [80.25], "tok_s/32": [400.0]},
}


WHOLE = {"schema": 1, "columns": {}, "users": [1], "notes": [], "provenance": {}}


def loaded(*traces: Trace) -> Run:
    return Run(traces=traces, users=1, max_tokens=3, prompts="short", engine={}, client_cpu_share=0.0)


def test_the_table_has_a_column_for_each_system_and_a_range_for_several_rounds() -> None:
    found = shown.table(COLUMNS, [1, 32])
    assert list(found.header) == ["", "one vLLM server", "Ray Serve LLM, 2 replicas"]  # in the order of SYSTEMS
    rows = {row[0]: list(row[1:]) for row in found.rows}
    assert rows["output of 1 user, tok/s"] == ["50", "42 (40–44)"]
    assert rows["output of 32 users, tok/s"] == ["400", ""]  # not measured
    assert rows["failed requests of these loads"] == ["", "0 (0–1)"]
    assert rows["from the kill to the first answer of a new replica, s"] == ["", "55.5"]
    assert len(rows) == len(shown.rows([1, 32])), "two rows have one title"


def test_every_figure_of_the_benchmark_has_a_row() -> None:
    source = Path(bench.__file__).read_text()
    keys = {row.key.partition("/")[0] for row in shown.rows(bench.QUICK.users)}
    for key in keys:
        assert f'"{key}' in source, key


def test_a_kept_benchmark_is_read_back(own_results: Path) -> None:
    found = Benchmark(COLUMNS, [1, 32], ["a note"], {"time": "now"})
    file = scale_out.keep(found)
    assert file == own_results / "scale-out.json"
    assert scale_out.read(file) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "There is no benchmark in"),
        ("{", "holds no benchmark"),
        ("[]", "holds no benchmark"),
        ('{"schema": 1}', "holds no benchmark"),
        (json.dumps({**WHOLE, "columns": {"direct": {"tok_s/1": ["fast"]}}}), "holds no benchmark"),
        (json.dumps({**WHOLE, "users": []}), "holds no benchmark"),
        ('{"schema": 99}', "another version of the labs"),
    ],
)
def test_a_file_that_holds_none_is_named(own_results: Path, text: str | None, said: str) -> None:
    own_results.mkdir(exist_ok=True)
    if text is not None:
        scale_out.file().write_text(text)
    with pytest.raises(LabError, match=said):
        scale_out.read(scale_out.file())


def test_show_prints_the_kept_table(own_results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--show"]) == 1
    assert "Fix: make scale-out-bench" in capsys.readouterr().err
    scale_out.keep(Benchmark(COLUMNS, [1, 32], ["a replica was slow"], {}))
    assert bench.main(["--show"]) == 0
    said = capsys.readouterr().out
    assert "| output of 1 user, tok/s" in said
    assert "What it doesn't show" in said
    assert "- a replica was slow" in said


def test_without_the_installation_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    before = descendants(os.getpid())
    assert bench.main(["--quick"]) == 1
    assert "Fix: make scale-out" in capsys.readouterr().err
    assert set(descendants(os.getpid())) <= set(before)


def test_tokens_that_arrive_together_are_one_block() -> None:
    failed = dataclasses.replace(ANSWER, error="HTTP 500")
    assert bench.tokens_per_block([ANSWER, failed]) == [1.5]  # three tokens in two blocks
    assert bench.tokens_per_block([]) == []


def test_the_longest_time_without_an_answer_ignores_failures() -> None:
    def ending(at_s: float, error: str | None = None) -> Trace:
        return dataclasses.replace(ANSWER, end_ns=int(at_s * S), error=error)

    run = loaded(ending(1), ending(2), ending(4, "HTTP 500"), ending(9), ending(10))
    assert bench.longest_gap_s(run) == 7
    assert bench.longest_gap_s(loaded(ending(3))) == 3  # from the first request sent


def test_the_gateways_log_tells_when_a_restarted_server_answered() -> None:
    lines: list[dict[str, object]] = [
        {"time": 10.0, "engine": "e1", "status": 200},
        {"time": 20.5, "engine": "e1", "status": 200, "error": "the engine e1 ended the stream too early"},
        {"time": 21.0, "engine": "e2", "status": 200},
        {"time": 60.0, "engine": "e1", "status": 200},
        {"time": 61.0, "engine": "e1", "status": 200},
        {"event": "started"},
    ]
    assert answered_s(lines, "e1", 20.0) == 60.0
    assert answered_s(lines, "e1", 61.0) is None
