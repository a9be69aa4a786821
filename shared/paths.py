"""Where things live. Three places, each with one environment variable that moves it."""

import os
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def cache() -> Path:
    """Engines, converted weights, logs (`LABS_CACHE`): outside the checkout, made again at any time."""
    return Path(os.environ.get("LABS_CACHE") or Path.home() / ".cache" / "inference-labs").expanduser()


def installing() -> Path:
    """The lock of a running set-up."""
    return cache() / "install.lock"


def install_status() -> Path:
    """One line: what a running set-up is doing."""
    return cache() / "logs" / "install-status.txt"


def browsers() -> Path:
    """Where Playwright puts the Chromium that it downloads."""
    return cache() / "browsers"


def measuring() -> Path:
    """The lock of a running measurement: a set-up holds its builds still, other measurements wait."""
    return cache() / "measuring.lock"


def results() -> Path:
    """What was measured (`LABS_RESULTS`): a student's own work, never deleted by this project."""
    return Path(os.environ.get("LABS_RESULTS") or REPO / "results").expanduser()


def show(path: Path) -> str:
    """The path as a reader should see it: relative to the project, or with `~`."""
    path = Path(path)
    if path.is_relative_to(REPO):
        return str(path.relative_to(REPO))
    if path.is_relative_to(Path.home()):
        return f"~/{path.relative_to(Path.home())}"
    return str(path)
