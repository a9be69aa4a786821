"""What more machines add: the benchmark's table, and a second Spark by the exercise's arithmetic."""

import json
import re
from pathlib import Path

import pytest

from shared import LabError
from shared.course import checks, registry
from shared.course.batching import more_machines
from shared.results import scale_out

LAB = registry.find_lab("3.3.2")
[ASKED] = [e for e in LAB.exercises if e.function == "tensor_parallel_step_ms"]
STEP_MS = checks.reference(LAB, ASKED)


def test_a_model_that_one_spark_cannot_hold_has_no_time_there() -> None:
    rows = {(row[0], row[1]): row[2:] for row in more_machines.one_or_two_sparks(STEP_MS, 30).rows}
    assert rows["8B BF16", "1"] == ("58.8", "31.4", "1.88")
    assert rows["70B BF16", "1"] == ("does not fit (141 GB)", "264", "–")


def test_a_small_model_pays_more_for_the_sums_than_it_saves() -> None:
    """The control: two machines help only where reading takes longer than the sums."""
    rows = {row[0]: row[1:] for row in more_machines.by_model_size(STEP_MS, more_machines.SUM_LATENCY_US).rows}
    assert float(rows["SmolLM2-135M"][2]) < 1 < float(rows["Llama-3.1-8B"][2]) < 2
    assert rows["Llama-3.1-70B"][0] == "does not fit"


def test_the_plot_ends_where_the_model_does_not_fit() -> None:
    one, two = more_machines.by_model_size(STEP_MS, 41).figure.data
    assert [value is None for value in one.y] == [False] * 6 + [True]
    assert None not in two.y


def test_every_quoted_figure_has_a_source_and_a_date() -> None:
    for _, figure, source, date in more_machines.quoted_figures().rows:
        assert figure
        assert source
        assert re.search(r"202\d-\d\d", date)


SOURCE = {"processor": "X", "machine_cores": 2, "time": "2026-11-26T10:00:00"}
BENCH = {
    "schema": 1,
    "notes": [],
    "users": [1, 32],
    "columns": {"ray-2": {"tok_s/32": [100.0, 110.0, 120.0], "kill_failed": [0.0], "ttft_ms/1": [20.0]}},
    "provenance": SOURCE,
}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path))
    monkeypatch.setattr(more_machines, "PUBLISHED", tmp_path / "published.json")
    return tmp_path / "scale-out.json"


def test_without_a_benchmark_the_authors_run_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path))
    table = more_machines.replicas()
    assert "quoted from the authors' run: " in table.title
    assert [row[0] for row in table.rows] == list(scale_out.SYSTEMS.values())
    assert [row[3] == "–" for row in table.rows] == [True, True, False, False, False]  # one server has no spare
    assert "–" not in {cell for row in table.rows for cell in row[1:3]}


def test_this_machines_benchmark_goes_before_the_authors(kept: Path) -> None:
    more_machines.PUBLISHED.write_text(json.dumps(BENCH))
    table = more_machines.replicas()
    assert table.title == "Replicas on one machine (quoted from the authors' run: X, 2 cores, 2026-11-26)"
    assert list(table.rows) == [("Ray Serve LLM, 2 replicas", "110 (100–120)", "20", "–", "0", "–")]
    kept.write_text(json.dumps(BENCH))
    table = more_machines.replicas()
    assert "(measured: X" in table.title


@pytest.mark.parametrize("text", ["", "[]", '{"columns": {}}', json.dumps({**BENCH, "users": []})])
def test_another_file_is_refused(text: str, kept: Path) -> None:
    kept.write_text(text)
    with pytest.raises(LabError, match="holds no benchmark"):
        more_machines.replicas()
