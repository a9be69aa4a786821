"""How the tests find their Chromium: one that starts, or an error with its fix."""

import stat
import subprocess
import sys
from pathlib import Path

from shared import paths

NO_LIBRARY = "Fix: install the libraries that it lacks: sudo .venv/bin/python -m playwright install-deps chromium"
NO_BROWSER = "Fix: check the network, or install one (Debian: sudo apt install chromium; Ubuntu has no such package)"


def ensure(programs: Path, cache: Path, user: int = 1000) -> subprocess.CompletedProcess[str]:
    """environment/browser.py where only `programs` is on the PATH and nothing can be fetched."""
    env = {
        "PATH": str(programs), "HOME": str(cache), "LABS_CACHE": str(cache), "PYTHONPATH": str(paths.REPO),
        "PLAYWRIGHT_DOWNLOAD_HOST": "http://127.0.0.1:9",
    }  # fmt: skip
    script = paths.REPO / "environment" / "browser.py"
    run = f"import os, runpy; os.geteuid = lambda: {user}; runpy.run_path({str(script)!r}, run_name='__main__')"
    return subprocess.run([sys.executable, "-c", run], env=env, capture_output=True, text=True, timeout=120)


def program(folder: Path, name: str, does: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{does}\n")
    (folder / name).chmod(stat.S_IRWXU)


def test_one_on_the_path_is_taken_as_it_is(tmp_path: Path) -> None:
    program(tmp_path / "bin", "google-chrome", "echo Chrome 1")
    done = ensure(tmp_path / "bin", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_that_does_not_start_is_no_browser(tmp_path: Path) -> None:
    program(tmp_path / "bin", "chromium", "echo 'libnss3.so: cannot open' >&2; exit 127")
    done = ensure(tmp_path / "bin", tmp_path)
    assert done.returncode == 1
    assert "does not start: libnss3.so: cannot open" in done.stderr
    assert NO_LIBRARY in done.stderr


def test_where_none_can_be_had_it_says_so_and_fails(tmp_path: Path) -> None:
    done = ensure(tmp_path / "bin", tmp_path)
    assert done.returncode == 1
    assert "Fetching Chromium into" in done.stdout
    assert "none is installed and the download failed" in done.stderr
    assert NO_BROWSER in done.stderr


def test_root_tries_debians_package_first(tmp_path: Path) -> None:
    bin_, asked = tmp_path / "bin", tmp_path / "asked"
    installs = f"printf '#!/bin/sh\\necho Chromium 1\\n' > {bin_}/chromium; /bin/chmod +x {bin_}/chromium"
    program(bin_, "apt-get", f'echo "$*" >> {asked}\n[ "$1" = install ] && {{ {installs}; }}')
    done = ensure(bin_, tmp_path, user=0)
    assert (done.returncode, done.stderr) == (0, "")
    assert asked.read_text().splitlines() == ["update -qq", "install -y -qq chromium fonts-dejavu-core"]
