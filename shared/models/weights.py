"""Weights on this disk: the size and hash that the set-up recorded for each file, and the check against them."""

import functools
import hashlib
import json
import os
import time
from pathlib import Path

from shared import paths
from shared.errors import LabError

JUST_CHANGED_S = 2


def manifest(folder: Path) -> dict[str, dict[str, str]]:
    """The files that the set-up wrote into this folder: name → {bytes, sha256}. Raises LabError if unreadable."""
    try:
        found: dict[str, dict[str, str]] = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError) as e:
        why = e.strerror if isinstance(e, OSError) else e
        raise LabError(f"The model is not in {paths.show(folder)}: manifest.json: {why}.", repair(folder)) from None
    return found


def repair(folder: Path) -> str:
    """The command that makes the weights in this folder again."""
    return f"rm -r {paths.show(folder)}; make engines" if os.path.exists(folder) else "make engines"


def verify_file(folder: Path, name: str) -> None:
    """Raise LabError unless this file equals, byte for byte, the one that the set-up wrote."""
    expected = manifest(folder).get(name)
    file = folder / name
    if expected is None:
        raise LabError(f"{name} is not in the manifest of {paths.show(folder)}.", repair(folder))
    if not file.exists():
        raise LabError(f"{paths.show(file)} is missing.", repair(folder))
    if file.stat().st_size != int(expected["bytes"]):
        size, wrote = file.stat().st_size, expected["bytes"]
        raise LabError(
            f"{paths.show(file)} is damaged: it has {size} bytes, but the set-up wrote {wrote}.", repair(folder)
        )
    if sha256(file) != expected["sha256"]:
        raise LabError(f"{paths.show(file)} was altered: its hash differs from the one at set-up.", repair(folder))


def sha256(file: Path) -> str:
    """The hash of a file. This program reads a file again only if it may have changed since."""
    found = file.stat()
    # Two changes within one tick of the file system's clock have the same time, so a new file is always read.
    hashed = _sha256 if time.time() - found.st_ctime > JUST_CHANGED_S else _sha256.__wrapped__
    return hashed(file, found.st_ino, found.st_size, found.st_ctime_ns)


@functools.cache
def _sha256(file: Path, *_unchanged: int) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
