"""`make gateway`: in front of an engine that runs, or an error that names the command which starts one."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from environment import start_gateway
from shared import paths
from shared.processes import free_port, start_time
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


def test_a_running_engine_has_as_many_seats_as_its_flags_state(tmp_path: Path, engine: TruthEngine) -> None:
    pid, port = engine.process.pid, free_port()
    record = {"pid": pid, "started": start_time(pid), "engine": "vllm", "port": engine.port}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f"{pid}.json").write_text(json.dumps({**record, "flags": {"--max-num-seqs": 2}}))
    program = start(tmp_path, port=port)
    try:
        assert program.stdout
        said = ""
        while "Ctrl-C ends it" not in said:
            line = program.stdout.readline()
            assert line, said
            said += line
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert 'gateway:engine_seats{engine="vllm"} 2.0' in page
    finally:
        program.terminate()
        program.wait(60)


@pytest.mark.parametrize(
    ("engine_name", "flags", "seats"),
    [("llamacpp", {"-np": 2}, 2), ("sglang", {"--max-running-requests": "8"}, 8), ("vllm", {}, None), ("", None, None),
     ("vllm", {"-np": 2}, None), ("ollama", {"OLLAMA_NUM_PARALLEL": 0}, None)],
)  # fmt: skip
def test_seats_follow_from_the_flag_of_this_engine(
    engine_name: str, flags: dict[str, object] | None, seats: int | None
) -> None:
    assert start_gateway.table("http://x", engine_name, flags).get("seats") == seats


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


def test_an_engine_that_ends_while_the_running_ones_are_listed_is_no_error(
    tmp_path: Path, engine: TruthEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record is gone between two looks at it."""
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "4711.json").symlink_to(tmp_path / "gone")
    pid = engine.process.pid
    record = {"pid": pid, "started": start_time(pid), "engine": "vllm", "port": engine.port}
    (tmp_path / "run" / f"{pid}.json").write_text(json.dumps(record))
    assert start_gateway.running_engines() == {"vllm": {"url": engine.url}}
