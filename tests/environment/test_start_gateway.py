"""`make gateway`: in front of an engine that runs, or an error that names the command which starts one."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from shared import paths
from shared.processes import free_port
from tests.helpers.truth import TruthEngine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path / "engine.log") as engine:
        yield engine


def start(cache: Path, *arguments: str, port: int | None = None) -> "subprocess.Popen[str]":
    env = {**os.environ, "LABS_CACHE": str(cache), "GATEWAY_PORT": str(port or free_port())}
    program = [sys.executable, "-m", "environment.start_gateway", *arguments]
    return subprocess.Popen(
        program, cwd=paths.REPO, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def test_without_an_engine_the_command_that_starts_one_is_named(tmp_path: Path) -> None:
    program = start(tmp_path)
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    assert "Fix: make gateway ENGINE=llamacpp" in said
    assert "Traceback" not in said


def test_a_taken_port_is_named(tmp_path: Path, engine: TruthEngine) -> None:
    program = start(tmp_path, port=engine.port)
    said, _ = program.communicate(timeout=60)
    assert program.returncode == 1
    assert f"GATEWAY_PORT={engine.port + 1} make gateway" in said


def test_the_printed_example_works(tmp_path: Path, engine: TruthEngine) -> None:
    program = start(tmp_path, "--url", engine.url)
    assert program.stdout
    try:
        said = ""
        while "Ctrl-C ends it" not in said:
            line = program.stdout.readline()
            assert line, said
            said += line
        typed = re.search(r"curl .*?}'", said, re.S)
        assert typed
        answer = subprocess.run(["bash", "-c", "curl() { command curl -s --noproxy '*' \"$@\"; }; " + typed[0]],
                                capture_output=True, text=True, timeout=60)  # fmt: skip
        assert "data: {" in answer.stdout, answer.stderr
        url = re.search(r"http://127\S+(?=/dashboard)", said)
        assert url
        assert httpx.get(url[0] + "/dashboard", trust_env=False).status_code == 200
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) is not None
        with pytest.raises(httpx.TransportError):
            httpx.get(url[0] + "/health", trust_env=False)
    finally:
        program.kill()
