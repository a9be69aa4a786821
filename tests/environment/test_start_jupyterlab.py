"""`make lab` on a machine that has everything: JupyterLab answers, and ends in every way of ending it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from shared import paths
from shared.processes import port_taken
from tests.helpers.processes import START_S, eventually


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        ({"LABS_PROFILE": "gpu"}, "LABS_PROFILE is 'gpu'"),
        ({"LABS_CACHE": "/dev/null/x"}, "/dev/null/x/logs/install.log can't be written: Not a directory.\nFix: "),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(setting: dict[str, str], error: str) -> None:
    command = [sys.executable, "-m", "environment.start_jupyterlab"]
    done = subprocess.run(
        command, cwd=paths.REPO, env={**os.environ, **setting}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert error in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def lab() -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """The program of `make lab`, and the address that it prints."""
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
    assert eventually(lambda: port_taken(port), START_S)
    return port


@pytest.mark.programs
def test_jupyterlab_opens_on_the_first_lab(lab: "tuple[subprocess.Popen[str], str]") -> None:
    program, address = lab
    port = port_of(address)
    with httpx.Client(trust_env=False, follow_redirects=True, timeout=20) as client:  # never through a proxy
        page = client.get(address)
    assert page.status_code == 200
    assert "JupyterLab" in page.text
    assert "/lab/tree/labs/lab-3.3.1-engine-benchmark.ipynb" in address
    for _ in range(2):  # JupyterLab asks for confirmation after the first
        os.killpg(program.pid, signal.SIGINT)
    program.communicate(timeout=START_S)
    assert not port_taken(port)


@pytest.mark.programs
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_it_takes_jupyterlab_along(lab: "tuple[subprocess.Popen[str], str]", number: signal.Signals) -> None:
    program, address = lab
    port = port_of(address)
    program.send_signal(number)  # to it alone, as `kill` does
    program.communicate(timeout=START_S)
    assert not port_taken(port)
