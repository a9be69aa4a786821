"""How nbval runs the course's notebooks here: `pytest -p tests.helpers.nbval_plugin --nbval-lax labs solutions`.

Engines belong to pytest, not to a notebook's kernel: the next notebook goes on with those whose flags are equal.
When a cell fails, the logs of the engines stand below its error. The run ends with the time of each notebook.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared import launch, paths

KEEPER = "LABS_ENGINES_OF"
# Tests that use what a notebook has left: its engines, its results.
AFTER = {
    "test_jupyterlab.py": "lab-3.3.1-engine-benchmark.ipynb",
    "test_open_webui_page.py": "lab-3.3.6-ollama-web-ui.ipynb",
}


def is_cell(item: pytest.Item) -> bool:
    return type(item).__name__ == "IPyNbCell"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A kernel is started with the first cell of its notebook, and takes the environment of that moment."""
    if is_cell(item):
        os.environ[KEEPER] = str(os.getpid())
    try:
        return (yield)
    finally:
        os.environ.pop(KEEPER, None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    if report.failed and is_cell(item):
        for record in engines():
            log = Path(record["log"])
            if not log.exists():  # only the newest logs are kept
                continue
            lines = log.read_text(errors="replace").splitlines()[-15:]
            report.sections.append((f"log of {record['engine']}, its last lines", "\n".join(lines)))
    return report


def engines() -> list[dict[str, Any]]:
    """Those that this test run's notebooks have started."""
    found = []
    for file in sorted((paths.state() / "run").glob("*.json")):
        record = json.loads(file.read_text())
        if record.get("parent") == os.getpid() and "log" in record:
            found.append(record)
    return found


def pytest_sessionfinish() -> None:
    launch.down(parent=os.getpid())


def pytest_terminal_summary(terminalreporter: Any) -> None:
    took_s: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if not isinstance(report, pytest.TestReport):
                continue  # what was left out has no duration
            notebook, _, cell = report.nodeid.partition("::")
            if notebook.endswith(".ipynb") and cell:
                took_s[notebook] = took_s.get(notebook, 0) + report.duration
    if took_s:
        terminalreporter.section("notebooks")
        for notebook, seconds in took_s.items():
            terminalreporter.write_line(f"{seconds:7.1f}s {notebook}")


@pytest.hookimpl(tryfirst=True)  # before pytest chooses by markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A lab and its solution run one after the other, on the same engines, and then the tests of what they left."""
    for item in filter(is_cell, items):
        item.add_marker("engine")
    items.sort(key=turn)


def turn(item: pytest.Item) -> tuple[str, int]:
    """Where an item stands: the plain tests first, as they were collected, then lab by lab."""
    if is_cell(item):
        return item.path.name, ("labs", "solutions").index(item.path.parent.name)
    return AFTER.get(item.path.name, ""), 2
