"""`make gateway`: in front of an engine that runs, or an error that names the command which starts one."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from environment import start_gateway, start_webui
from shared import LabError, hardware, paths
from shared.engines import ENGINES, Flags
from shared.launch import memory
from shared.models import ModelChoice
from shared.processes import free_port, start_time
from tests.helpers.truth import TruthEngine


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path / "engine.log") as engine:
        yield engine


def start(cache: Path, *arguments: str, port: int | None = None, config: Path | None = None) -> "subprocess.Popen[str]":
    env = {**os.environ, "LABS_CACHE": str(cache)}
    env |= {"GATEWAY_CONFIG": str(config)} if config else {"GATEWAY_PORT": str(port or free_port())}
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
     ("trtllm", {"--max_batch_size": 4}, 4), ("vllm", {"-np": 2}, None), ("ollama", {"OLLAMA_NUM_PARALLEL": 0}, None)],
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


def test_the_port_of_the_settings_file_is_the_gateways(tmp_path: Path, engine: TruthEngine) -> None:
    config, port = tmp_path / "gateway.toml", free_port()
    config.write_text(f"port = {port}\n")
    program = start(tmp_path, "--url", engine.url + "/v1/", config=config)  # as OpenAI's clients want the address
    try:
        assert program.stdout
        said = ""
        while "Ctrl-C ends it" not in said:
            line = program.stdout.readline()
            assert line, said
            said += line
        assert f"http://127.0.0.1:{port}/dashboard" in said
        assert f"engine answers on {engine.url}." in said
    finally:
        program.terminate()
        program.wait(60)
    config.write_text(f"port = {engine.port}\n")
    said, _ = start(tmp_path, "--url", engine.url, config=config).communicate(timeout=60)
    assert f"Port {engine.port} is taken" in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GATEWAY_PORT": "nine"}, "port is 'nine', but must be from 1 to 65535"),
        ({"GATEWAY_PORT": "70000"}, "port is '70000'"),
        ({"GATEWAY_CONFIG": "port = true"}, "port is 'True'"),
        ({"GATEWAY_CONFIG": "port = = 1"}, "which can't be read: Invalid value"),
        ({"GATEWAY_CONFIG": ""}, "which can't be read: .*No such file"),
    ],
)
def test_a_port_that_is_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    if "GATEWAY_CONFIG" in variables:
        if text := variables["GATEWAY_CONFIG"]:
            (tmp_path / "gateway.toml").write_text(text)
        variables = {"GATEWAY_CONFIG": str(tmp_path / "gateway.toml")}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LabError, match=said) as refused:
        start_gateway.port_of_settings()
    assert refused.value.fix


def test_a_variable_takes_precedence_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gateway.toml").write_text("port = 9002\n")
    monkeypatch.setenv("GATEWAY_CONFIG", str(tmp_path / "gateway.toml"))
    assert start_gateway.port_of_settings() == 9002
    monkeypatch.setenv("GATEWAY_PORT", "9003")
    assert start_gateway.port_of_settings() == 9003


@pytest.mark.parametrize("name", ENGINES)
def test_on_a_spark_the_kv_cache_is_limited(
    tmp_path: Path, name: str, spark: hardware.Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without a limit no container is started, and neither `make gateway` nor `make webui` takes flags."""

    def launch(name: str, model: ModelChoice, flags: Flags | None = None) -> None:
        needed = memory.need(ENGINES[name], model, "BF16", flags or {}, spark)
        raise LabError(f"It would start with {needed.kv:.1f} GiB for the KV cache.")

    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    monkeypatch.setenv("GATEWAY_PORT", str(free_port()))
    monkeypatch.delenv("WEBUI_OLLAMA", raising=False)
    monkeypatch.setattr(hardware, "detect", lambda: spark)
    for program in (start_gateway, start_webui):
        monkeypatch.setattr(program, "launch", launch)
    start_gateway.main(["--engine", name])
    assert "It would start with 2.0 GiB" in capsys.readouterr().err
    start_webui.main([])
    assert "It would start with 2.0 GiB" in capsys.readouterr().err


def test_where_no_engine_answers_the_terminal_shows_it(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    code = f"from environment import start_gateway as g; g.START_S = 2; g.main(['--url', {url!r}])"
    env = {**os.environ, "LABS_CACHE": str(tmp_path), "GATEWAY_PORT": str(free_port())}
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=paths.REPO, env=env, text=True, stdout=subprocess.PIPE
    ) as program:
        assert program.stdout
        threading.Timer(30, program.terminate).start()  # a terminal that stays silent ends the test, too
        try:
            said = next((line for line in program.stdout if "No engine has answered" in line), "")
            assert said == f"No engine has answered the gateway within 2 s. It goes on asking {url}.\n"
        finally:
            program.terminate()


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
