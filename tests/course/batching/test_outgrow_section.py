"""Lab 3.3.2's section on more than one machine, run cell by cell on loads that a quiet machine recorded."""

from pathlib import Path
from typing import Any

import pytest

from shared import metrics, models
from shared.course import checks, labs, registry
from shared.report import plots
from shared.report.table import Table
from tests.helpers import quiet_ledger

SECTION, NEXT = "outgrow", "concluding"  # the cells that begin this section and the next


@pytest.fixture
def cells() -> list[dict[str, Any]]:
    found = checks.notebook(registry.find_lab("3.3.2"))["cells"]
    ids = [cell["id"] for cell in found]
    return list(found[ids.index(SECTION) : ids.index(NEXT)])


def test_the_section_runs_on_recorded_loads(
    cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_RESULTS", str(tmp_path))
    quiet_ledger.record_loads()
    quiet_ledger.record_bandwidth()
    quiet_ledger.record_open_loops()
    shown: list[Table] = []
    monkeypatch.setattr(plots, "display", lambda *_, **__: None)
    lab = labs.open("3.3.2")
    notebook = {
        "lab": lab,
        "check": lab.check,
        "model": models.small(),
        "slo": metrics.Slo(ttft_ms=2000, tpot_ms=80),
        "show": shown.append,
        "metrics": metrics,
    }
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(cell["source"], notebook)
    titles = [table.title for table in shown]
    assert any("One Spark or two" in title for title in titles)
    assert any(isinstance(table, plots.Plot) for table in shown)
    assert len(titles) >= 6
