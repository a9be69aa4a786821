"""`make lab` on a machine that has everything: JupyterLab answers, and ends however it is ended."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import pytest

from shared import paths
from shared.processes import port_taken
from tests.helpers.processes import eventually

pytestmark = pytest.mark.engine


@pytest.fixture
def lab() -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """`make lab`'s program, and the address that it shows."""
    program = subprocess.Popen(
        [sys.executable, "-m", "environment.start_jupyterlab"],
        cwd=paths.REPO,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "BROWSER": "true"},
        start_new_session=True,
    )
    assert program.stdout
    try:
        found = (re.search(r"http://127\S+token=\w+", line) for line in program.stdout)
        yield program, next(address[0] for address in found if address)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)


def port_of(address: str) -> int:
    port = int(re.findall(r":(\d+)/", address)[0])
    assert eventually(lambda: port_taken(port), 20)
    return port


def test_jupyterlab_opens_on_the_first_lab(lab: "tuple[subprocess.Popen[str], str]") -> None:
    program, address = lab
    port = port_of(address)
    with urllib.request.urlopen(address, timeout=20) as page:
        assert page.status == 200
        assert "JupyterLab" in page.read().decode()
    assert "/lab/tree/labs/lab-3.3.1-engine-benchmark.ipynb" in address
    for _ in range(2):  # the first asks whether it is meant
        os.killpg(program.pid, signal.SIGINT)
    program.communicate(timeout=30)
    assert not port_taken(port)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_takes_jupyterlab_along(lab: "tuple[subprocess.Popen[str], str]", number: signal.Signals) -> None:
    program, address = lab
    port = port_of(address)
    program.send_signal(number)  # to it alone, as `kill` does
    program.communicate(timeout=30)
    assert not port_taken(port)
