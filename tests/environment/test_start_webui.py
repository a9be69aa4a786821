"""`make webui` waits for the page's server, however it is ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared import paths
from tests.helpers.processes import alive, eventually, read_pid

SERVER = """
import os, pathlib, signal, sys, time
here = pathlib.Path(__file__).parent
def end(*_):
    time.sleep(1.5)  # its answers end
    (here / "ended").touch()
    sys.exit()
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
(here / "pid").write_text(f"{os.getpid()}\\n")
while True:
    time.sleep(0.1)
"""


def whole_group(program: "subprocess.Popen[bytes]") -> None:
    """As a terminal does at Ctrl-C."""
    os.killpg(program.pid, signal.SIGINT)


def program_only(program: "subprocess.Popen[bytes]") -> None:
    program.terminate()


@pytest.mark.parametrize("end", [whole_group, program_only])
def test_the_server_ends_its_answers_first(tmp_path: Path, end: "Callable[[subprocess.Popen[bytes]], None]") -> None:
    (tmp_path / "webui").mkdir()
    (tmp_path / "webui" / "__main__.py").write_text(SERVER)
    code = "import os; from environment.start_webui import run; run(os.environ, [])"
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=paths.REPO,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        start_new_session=True,
    )
    try:
        server = read_pid(tmp_path / "webui" / "pid")
        end(program)
        program.wait(60)
        assert (tmp_path / "webui" / "ended").exists()
        assert eventually(lambda: not alive(server))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
