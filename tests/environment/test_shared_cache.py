"""One cache for several users: engines and weights are shared read-only, and each user has a state of one's own."""

import os
from pathlib import Path

import pytest

from environment.install import STEPS
from shared import paths
from shared.engines import ENGINES, LaunchPlan
from shared.launch import running
from shared.models import ModelChoice
from tests.helpers.another_user import as_another, as_root, opened


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that the set-up of its owner has filled."""
    folder = tmp_path / "cache"
    folder.mkdir()
    for lock in ("install.lock", "measuring.lock"):
        (folder / lock).touch()
    monkeypatch.setenv("LABS_CACHE", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    opened(folder)
    return folder


def test_the_owner_keeps_everything_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.state() == cache
    monkeypatch.setenv("LABS_CACHE", str(cache / "not yet"))
    assert paths.state() == cache / "not yet"


def test_nothing_that_a_run_writes_goes_into_the_cache_of_another_user(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ModelChoice
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    state = tmp_path / "state" / "inference-labs"
    assert paths.state() == state
    native = ENGINES["ollama"].native
    assert native is not None
    plan = LaunchPlan(cache, model, "BF16", 1, 1, {})
    written = [
        running.record_file(1),
        paths.install_status(),
        STEPS["torch"].log,
        Path(native.env(plan)["OLLAMA_MODELS"]),
        Path(native.env(plan)["HOME"]),
    ]
    assert all(path.is_relative_to(state) for path in written)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.state() == tmp_path / ".local" / "state" / "inference-labs"


SET_UP = (
    "import types\n"
    "def step(name, root): return types.SimpleNamespace(title=name, root=root, ready=lambda: False)\n"
    "steps = {one.title: one for one in (step('torch', Path('.venv')), *[step(n, None) for n in sys.argv[1:]])}\n"
    "try:\n  with install.one_at_a_time(steps): print('inside')\nexcept LabError as e: print(e)\n"
)


@as_root
def test_a_second_user_may_install_into_a_venv_of_ones_own(cache: Path) -> None:
    out, err = as_another(SET_UP).communicate(timeout=60)
    assert (out, err) == ("inside\n", "")


@as_root
def test_what_the_cache_of_another_user_lacks_is_named(cache: Path) -> None:
    out, err = as_another(SET_UP, "vLLM 1", "llama.cpp 2").communicate(timeout=60)
    assert err == ""
    assert f"{cache}: Permission denied. It lacks: vLLM 1, llama.cpp 2." in out
    assert "let its owner run make engines" in out


@as_root
def test_a_cache_that_may_not_be_opened_is_an_error_with_a_fix(cache: Path) -> None:
    cache.chmod(0o700)
    code = "sys.argv = ['install']\nsys.exit(install.main())"
    process = as_another(code)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(f"The set-up can't write to its cache, {cache}: Permission denied.")
    assert "Traceback" not in err
