"""An engine that was started in a terminal: found by its command, refused for a wrong flag, ended like any other."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared import LabError
from shared.launch import launcher, typed
from shared.models import ModelChoice
from shared.processes import free_port

STANDIN = Path(__file__).parents[1] / "helpers" / "standin_engine.py"
# The stand-in reads its own arguments; the words of vLLM's command follow, where a look at the process sees them.
PROGRAM = f"import runpy, sys; sys.argv[2:] = []; runpy.run_path({str(STANDIN)!r}, run_name='__main__')"
FLAGS = {"--max-num-seqs": 32, "--enforce-eager": True}


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    def real(*_: object) -> None:
        raise AssertionError("a real engine would have been started")

    monkeypatch.delenv("LABS_ENGINES_OF", raising=False)
    monkeypatch.setattr(launcher, "launch", real)
    return free_port()


@pytest.fixture
def start(model: ModelChoice, port: int) -> Iterator[object]:
    """Starts a stand-in whose command line is the one that a student types."""
    started: list[subprocess.Popen[bytes]] = []

    def as_typed(flags: dict[str, object], **environment: str) -> subprocess.Popen[bytes]:
        plan = typed.plan_for("vllm", model, flags, port)
        words = typed.command("vllm", plan)[1:]
        env = {**typed.native("vllm").env(plan), **environment}
        started.append(subprocess.Popen([sys.executable, "-c", PROGRAM, str(port), *words], env=env))
        return started[-1]

    yield as_typed
    for one in started:
        one.kill()
        one.wait()


def test_differences_are_named() -> None:
    wanted = ["python", "-m", "server", "--port", "1", "--max-num-seqs", "32", "--enforce-eager"]
    same = ["python3", "-m", "server", "--enforce-eager", "--max-num-seqs=32", "--port", "8010"]
    assert typed.differences(same, wanted) == []
    other = ["python", "-m", "server", "--port", "1", "--max-num-seqs", "16", "--swap-space", "4"]
    assert typed.differences(other, wanted) == [
        "--enforce-eager is missing",
        "--max-num-seqs is 16 instead of 32",
        "--swap-space is not asked for",
    ]
    assert typed.unset({"A": "1"}, {"A": "1", "B": "2"}) == ["the variable B is not 2"]


def test_the_beginning_is_a_command_of_the_shell(model: ModelChoice) -> None:
    text = typed.beginning("vllm", model)
    assert text.startswith("VLLM_CPU_KVCACHE_SPACE=1 \\\n")
    assert f"--port {typed.PORT}" in text
    assert subprocess.run(["bash", "-n", "-c", text], check=False).returncode == 0


def test_a_typed_engine_is_found_and_ended_like_any_other(model: ModelChoice, port: int, start: object) -> None:
    process = start(FLAGS)  # type: ignore[operator]
    engine = typed.find_or_launch("vllm", model, FLAGS, port)
    assert engine.url.endswith(f":{port}")
    assert engine.process.pid == process.pid
    assert engine.provenance()["flags"] == FLAGS
    assert launcher._running.pop("vllm") is engine
    engine.end()
    assert not psutil.pid_exists(process.pid) or psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE


def test_a_wrong_flag_or_variable_is_named(model: ModelChoice, port: int, start: object) -> None:
    start({"--max-num-seqs": 16, "--enforce-eager": True}, VLLM_CPU_KVCACHE_SPACE="4")  # type: ignore[operator]
    with pytest.raises(
        LabError, match="--max-num-seqs is 16 instead of 32; the variable VLLM_CPU_KVCACHE_SPACE is not"
    ):
        typed.find_or_launch("vllm", model, FLAGS, port)
    assert "vllm" not in launcher._running


def test_without_one_the_cell_starts_it(
    model: ModelChoice, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(launcher, "launch", lambda *arguments: asked.append(arguments))
    typed.find_or_launch("vllm", model, FLAGS, port)
    assert asked == [("vllm", model, FLAGS)]
    assert f"No vLLM was started on port {port} in a terminal" in capsys.readouterr().out
