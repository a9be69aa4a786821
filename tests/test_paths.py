"""The cache and the results are one folder for every program, whatever folder it runs in."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import paths
from shared.models import hub

FOLDERS = [("LABS_RESULTS", paths.results), ("LABS_CACHE", paths.cache), ("HF_HOME", hub.home)]


@pytest.mark.parametrize(("variable", "folder"), FOLDERS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("res", paths.REPO / "res"),
        ("./res/", paths.REPO / "res"),
        ("../res", paths.REPO / ".." / "res"),
        ("/big/disk", Path("/big/disk")),
        ("~/res", Path.home() / "res"),
    ],
)
def test_a_relative_path_starts_at_the_repository(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    variable: str,
    folder: Callable[[], Path],
    value: str,
    expected: Path,
) -> None:
    monkeypatch.setenv(variable, value)
    for here in (paths.REPO, paths.REPO / "labs", tmp_path):
        monkeypatch.chdir(here)
        assert folder() == expected


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, _ in FOLDERS:
        monkeypatch.setenv(variable, "")
    assert paths.results() == paths.REPO / "results"
    assert paths.cache() == Path.home() / ".cache" / "inference-labs"


@pytest.mark.parametrize("value", ["res", "./res", "/big/disk", "~/res", ""])
def test_the_scripts_find_the_same_cache(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LABS_CACHE", value)
    command = ["sh", "environment/cache_folder.sh"]
    shown = subprocess.run(command, cwd=paths.REPO, capture_output=True, text=True, check=True).stdout.strip()
    assert os.path.normpath(shown) == os.path.normpath(paths.cache())


def test_what_a_notebook_records_is_found_by_the_report(tmp_path: Path) -> None:
    relative = os.path.relpath(tmp_path / "res", paths.REPO)
    env = {**os.environ, "LABS_RESULTS": relative}
    record = "from shared import results; results.record('3.3.1', 'x', {'a': 1})"
    subprocess.run([sys.executable, "-c", record], cwd=paths.REPO / "labs", env=env, check=True)
    load = "from shared import results; print(sorted(results.load_results('3.3.1')))"
    found = subprocess.run([sys.executable, "-c", load], cwd=paths.REPO, env=env, check=True, capture_output=True)
    assert found.stdout == b"['x']\n"
