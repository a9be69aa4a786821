"""A job of TensorRT-LLM that failed: the end of its log, the likeliest cause, and what to change."""

import sys
from pathlib import Path

import pytest

from shared.course.prefill.tensorrt import detached_build, job_failure, on_this_machine
from shared.course.prefill.tensorrt.detached_build import Job, Task
from tests.helpers.processes import eventually


def run(folder: Path, *command: str) -> Job:
    """A job of one step, when it has ended."""
    job = detached_build.start([Task("build the engine", command)], folder)
    assert eventually(lambda: not job.alive(), 60)
    return job


@pytest.mark.parametrize(
    ("script", "cause", "fix"),
    [
        (
            "exit 137",
            "memory ran out, and the kernel killed",
            "which set --max_batch_size, --max_num_tokens; or choose",
        ),
        ("kill -9 $$", "exit code 137 (SIGKILL)", "close other programs and stop other engines"),
        ("echo CUDA out of memory; exit 1", "memory ran out, by this line: CUDA out of memory", "smaller flows.Sizes"),
        ("echo '[TRT] [E] OutOfMemory'; exit 1", "memory ran out, by this line: [TRT] [E] OutOfMemory", "smaller"),
        (
            "echo no space left on device; exit 125",
            "the disk is full, by this line: no space left",
            "docker image prune",
        ),
        ("echo No such option; exit 2", "TensorRT-LLM doesn't know a flag", "--help"),
        (
            "echo The engine plan file is generated on an incompatible device, expecting compute 12.1; exit 1",
            "built for another kind of GPU",
            "build the engine again on this machine",
        ),
        (
            "echo Version tag does not match. Note: Current Version: 226, Serialized Engine Version: 228; exit 1",
            "another version of TensorRT built the engine",
            "in the image that loads it",
        ),
        ("echo odd; exit 3", "exit code 3. Last lines of", "correct what the log reports"),
    ],
)
def test_a_job_that_failed_gets_its_cause_and_a_fix(tmp_path: Path, script: str, cause: str, fix: str) -> None:
    job = run(tmp_path, "sh", "-c", script, "--max_batch_size", "8", "--max_num_tokens", "2048")
    error = job_failure.of(job)
    assert error
    assert cause in str(error)
    assert fix in error.fix


def test_only_flags_that_the_step_has_are_named(tmp_path: Path) -> None:
    error = job_failure.of(run(tmp_path, "sh", "-c", "exit 137"))
    assert error
    assert error.fix.endswith("If that is not enough, choose a smaller model")


def test_a_job_that_did_not_fail_has_no_error(tmp_path: Path) -> None:
    assert job_failure.of(Job(tmp_path / "none")) is None
    assert job_failure.of(run(tmp_path / "good", "true")) is None
    job = detached_build.start([Task("build the engine", ("sleep", "100"))], tmp_path / "interrupted")
    job.end()
    assert job_failure.of(job) is None


def test_following_a_job_that_fails_prints_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = detached_build.start([Task("build the engine", ("sh", "-c", "exit 137"))], tmp_path)
    assert on_this_machine.follow(job).state == "failed"
    printed = capsys.readouterr().out
    assert "The step 'build the engine' ended with exit code 137 (SIGKILL)" in printed
    assert "Fix: close other programs" in printed


def test_a_step_of_python_can_be_followed_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = "import time; print('half', 'done'); time.sleep(100)"
    job = detached_build.start([Task("build the engine", (sys.executable, "-c", code))], tmp_path)
    try:
        assert eventually(lambda: "half done" in job.newest_lines(), 30)
        assert job.progress().state == "running"
    finally:
        job.end()
