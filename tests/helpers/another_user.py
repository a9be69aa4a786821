"""A second user of this machine, for tests that run as root."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared import paths

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
NOBODY = 65534


def as_another(code: str, *arguments: object, **env: str) -> "subprocess.Popen[str]":
    """Run the code as user `nobody`, with `exclusive`, `held`, `write`, `install`, `paths` and `LabError` at hand.

    All imports come first, because that user may not see the folder of the Python that runs.
    """
    first = (
        "import os, sys, tempfile, time; from pathlib import Path\n"
        "from environment import install\nfrom shared import LabError, paths\n"
        "from shared.files import exclusive, held, write\n"
        "with tempfile.TemporaryDirectory() as folder, exclusive(Path(folder) / 'lock', ''): pass\n"
        f"os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", first + code, *map(str, arguments)],
        cwd=paths.REPO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def opened(*folders: Path) -> None:
    """Let every user look into these folders, as far up as pytest made them."""
    for folder in folders:
        for one in (folder, *folder.parents):
            if one != Path("/tmp") and one.is_relative_to("/tmp"):
                one.chmod(0o755)
