"""Builds pause while something is measured, and continue afterwards."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from environment import pause_builds
from environment.install_steps import Job, Step
from tests.helpers.processes import appears, eventually

pytest_plugins = ["tests.helpers.made_up_steps"]


def job_of(labs_cache: Path, stop: threading.Event, hush: pause_builds.Quiet) -> Job:
    step = Step(name="tool", title="TOOL", inputs=(), needs_gib=0.001, build=lambda job: None)
    step.log.parent.mkdir(parents=True, exist_ok=True)
    return Job(step, stop, hush, print)


def test_hold_stops_running_builds_and_lets_them_go_on(tmp_path: Path, labs_cache: Path) -> None:
    stop = threading.Event()
    hush = pause_builds.Quiet(stop)
    count = tmp_path / "count"
    script = f"(while [ ! -e {tmp_path}/go ]; do echo x >> {count}; sleep 0.01; done) & wait"
    job = job_of(labs_cache, stop, hush)
    build = threading.Thread(target=job.run, args=["counting", ["sh", "-c", script]], kwargs={"cwd": tmp_path})
    build.start()
    try:
        appears(count)
        with hush.hold():
            before = count.stat().st_size
            time.sleep(0.3)
            assert count.stat().st_size == before
        assert eventually(lambda: count.stat().st_size > before)
    finally:
        (tmp_path / "go").touch()
        build.join(30)
    assert not build.is_alive()


def test_hold_catches_a_command_that_is_just_being_started(tmp_path: Path, labs_cache: Path) -> None:
    stop = threading.Event()
    hush = pause_builds.Quiet(stop)
    job = job_of(labs_cache, stop, hush)
    build = threading.Thread(target=job.run, args=["working", ["sh", "-c", f"sleep 1; touch {tmp_path}/worked"]])
    build.start()
    while not hush._pids:  # its watchdog has started, its command has not
        time.sleep(0.001)
    with hush.hold():
        time.sleep(2)
        assert not (tmp_path / "worked").exists()
    build.join(30)
    assert (tmp_path / "worked").exists()


def test_nobody_waits_for_a_turn_once_all_is_stopping(tmp_path: Path, labs_cache: Path) -> None:
    stop = threading.Event()
    hush = pause_builds.Quiet(stop)
    job = job_of(labs_cache, stop, hush)
    ended: list[str] = []

    def attempt(name: str, work: Callable[[], object]) -> None:
        with pytest.raises(pause_builds.Stopped):
            work()
        ended.append(name)

    attempts = {
        "run": lambda: job.run("working", ["touch", str(tmp_path / "started")]),
        "hold": lambda: hush.hold().__enter__(),
    }
    threads = [threading.Thread(target=attempt, args=item) for item in attempts.items()]
    with hush.hold():
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert ended == []
        stop.set()
        for thread in threads:
            thread.join(20)
        assert sorted(ended) == ["hold", "run"]
    assert not (tmp_path / "started").exists()
