"""Where files are: the repository, the cache (moved by `LABS_CACHE`) and the results (moved by `LABS_RESULTS`)."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Engines, converted weights and logs (`LABS_CACHE`). It is outside the checkout and can be rebuilt at any time."""
    return folder_of("LABS_CACHE", Path.home() / ".cache" / "inference-labs")


def state() -> Path:
    """What this user's programs leave while they run: logs, records of engines, Ollama's store.

    It is the cache, except where that belongs to another user: engines and weights are then shared, and the state is in
    ~/.local/state/inference-labs (moved by `XDG_STATE_HOME`).
    """
    folder = cache()
    if not os.path.exists(folder) or os.stat(folder).st_uid == os.geteuid():
        return folder
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "inference-labs"


def compiled() -> Path:
    """What torch compiles for an engine, so that its next start needn't. Torch would keep it in TMPDIR."""
    return state() / "torchinductor"


def installing() -> Path:
    """The lock file of a running set-up."""
    return cache() / "install.lock"


def install_status() -> Path:
    """The file with one line about the current step of a running set-up."""
    return state() / "logs" / "install-status.txt"


def browsers() -> Path:
    """The folder into which Playwright downloads Chromium."""
    return cache() / "browsers"


def measuring() -> Path:
    """The lock file of a running measurement: meanwhile a set-up pauses its builds, and other measurements wait."""
    return cache() / "measuring.lock"


def results() -> Path:
    """Measured results (`LABS_RESULTS`). They are a student's own work, and this project never deletes them."""
    return folder_of("LABS_RESULTS", REPO / "results")


def folder_of(variable: str, default: Path) -> Path:
    """The folder that this variable names, else the default. A relative path starts at the repository.

    It would otherwise start at each program's own folder: a notebook's is labs/ or solutions/, and `make report` runs
    in the repository.
    """
    return REPO / Path(os.environ.get(variable) or default).expanduser()


def show(path: Path) -> str:
    """The path for a message: relative to the repository, or with `~`."""
    path = Path(path)
    if path.is_relative_to(REPO):
        return str(path.relative_to(REPO))
    if path.is_relative_to(Path.home()):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)
