"""`make lab` on a machine that has everything: JupyterLab answers, and ends with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import urllib.request

import pytest
from processes import eventually

from shared import paths
from shared.process import taken

pytestmark = pytest.mark.engine


def test_jupyterlab_opens_on_the_first_lab() -> None:
    lab = subprocess.Popen(
        [sys.executable, "environment/lab.py"], cwd=paths.REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env={**os.environ, "BROWSER": "true"}, start_new_session=True,
    )  # fmt: skip
    assert lab.stdout
    try:
        address = next(found[0] for line in lab.stdout if (found := re.search(r"http://127\S+token=\w+", line)))
        port = int(re.findall(r":(\d+)/", address)[0])
        assert eventually(lambda: taken(port), 20)
        with urllib.request.urlopen(address, timeout=20) as page:
            assert page.status == 200
            assert "JupyterLab" in page.read().decode()
        assert "/lab/tree/labs/lab-3.3.1-engine-benchmark.ipynb" in address
        for _ in range(2):  # the first asks whether it is meant
            os.killpg(lab.pid, signal.SIGINT)
        lab.communicate(timeout=30)
        assert not taken(port)
    finally:
        if lab.poll() is None:
            os.killpg(lab.pid, signal.SIGKILL)
