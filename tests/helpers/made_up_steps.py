"""A real installing process for the tests: install.main(), on small made-up steps in place of engines."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.processes import Run

# The installing process: install.main() on the steps that follow. `script` is what a step's build runs.
DRIVER = """
import sys, types
from pathlib import Path
sys.modules["environment.small_model.recipe"] = types.SimpleNamespace(STEPS=())  # imports numpy and more: half a second
from environment import install
from environment.install_steps import Step
from shared import LabError
here = Path(sys.argv[1])

def step(name, script, *, lock=None, **more):
    def build(job):
        if lock:
            job.download(lock, job.dest / "downloads")
        job.run("working", ["sh", "-ec", script], cwd=job.dest)
    more = {"needs_gib": 0.001, **more}
    return Step(name=name, title=name.upper(), inputs=(str(here / "input"),), build=build, **more)

install.STEPS = {s.name: s for s in eval(sys.argv[2])}
del sys.argv[1:3]
sys.exit(install.main())
"""


@pytest.fixture
def labs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own: the real one is never touched. `input` is what the made-up steps are made from."""
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    (tmp_path / "input").write_text("one")
    return tmp_path / "cache"


@pytest.fixture
def installing(tmp_path: Path, labs_cache: Path) -> Iterator[Run]:
    """Starts the installing process on steps written as Python source; ended after the test."""
    started = []

    def start(steps: str, *names: str, **env: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(tmp_path), f"({steps},)", *names],
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **env},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
