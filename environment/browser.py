"""Find or install the Chromium of the tests: one on the PATH, else Debian's (as root), else Playwright's own.

Playwright's goes into the cache, where shared.hardware.host.browser also looks. Without a browser this program fails,
because a skipped test proves nothing.
"""

import os
import shutil
import subprocess
import sys

from shared import LabError, paths
from shared.hardware.host import browser

DEBIAN = ("chromium", "fonts-dejavu-core")


def ensure() -> str:
    """The path of a Chromium that starts. Raises LabError if none is available."""
    if not browser() and os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Debian's Chromium ...", flush=True)
        for command in (["update", "-qq"], ["install", "-y", "-qq", *DEBIAN]):
            subprocess.run(["apt-get", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not browser():
        print(f"Fetching Chromium into {paths.show(paths.browsers())} ...", flush=True)
        env = {**os.environ, "PLAYWRIGHT_BROWSERS_PATH": str(paths.browsers())}
        subprocess.run([sys.executable, "-m", "playwright", "install", "--no-shell", "chromium"], env=env)
    found = browser()
    if found is None:
        raise LabError(
            "The tests need Chromium, but none is installed and the download failed (see above).",
            "check the network, or install one (Debian: sudo apt install chromium; Ubuntu has no such package), then "
            "run the same command again",
        )
    version = subprocess.run([found, "--version"], capture_output=True, text=True)
    if version.returncode:
        raise LabError(
            f"{found} does not start: {version.stderr.strip()[-300:]}",
            "install the libraries that it lacks: sudo .venv/bin/python -m playwright install-deps chromium; then run "
            "the same command again",
        )
    return found


if __name__ == "__main__":
    try:
        ensure()
    except LabError as error:
        sys.exit(str(error))
