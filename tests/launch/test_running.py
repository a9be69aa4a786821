"""The memory of a running engine, with real processes in place of the engine."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared import LabError
from shared.engines import ENGINES, LaunchPlan
from shared.hardware import Machine
from shared.launch import running
from shared.launch.memory import Need
from shared.launch.process import Guarded, inherited_environment
from shared.launch.running import Engine
from shared.models import ModelChoice
from shared.processes import descendants
from tests.helpers.processes import eventually

FAMILY = "sleep 60 & sleep 60 & wait"


@pytest.fixture
def engine(model: ModelChoice, tmp_path: Path) -> Iterator[Engine]:
    with (tmp_path / "log").open("wb") as log:
        process = Guarded(["sh", "-c", FAMILY], log)
    need = Need("llama.cpp", 0, 0, 0, 0)
    with Engine(ENGINES["llamacpp"], model, "BF16", {}, 2, "1", [], 4711, tmp_path / "log", process, need) as engine:
        assert eventually(lambda: [psutil.Process(pid).name() for pid in below(engine)] == ["sh", "sleep", "sleep"])
        yield engine


def below(engine: Engine) -> list[int]:
    return descendants(engine.process.pid)


def test_memory_is_the_sum_over_all_processes_with_shared_pages_counted_once(engine: Engine) -> None:
    def by_kernel() -> int:
        total = 0
        for pid in below(engine):
            found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
            assert found
            total += int(found[1])
        return total

    for _ in range(50):  # until no other program started or ended meanwhile that maps the same libraries
        by_kernel_kib, resident_gib = by_kernel(), engine.resident_gib()
        if abs(by_kernel() - by_kernel_kib) < 20:
            break
    assert resident_gib is not None
    # Other programs map the same libraries, so a share moves by a few KiB when one starts or ends.
    assert resident_gib * 2**20 == pytest.approx(by_kernel_kib, abs=100)
    assert by_kernel_kib > 200


def test_memory_that_can_not_be_read_is_unknown(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: psutil.Process) -> Any:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "memory_full_info", refuse)
    assert engine.resident_gib() is None
    monkeypatch.undo()
    engine.container = "its processes belong to another user"
    assert engine.resident_gib() is None
    engine.container = ""


def test_a_process_that_ends_during_the_reading_makes_it_unknown(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    monkeypatch.setattr("shared.launch.running.descendants", lambda _: [gone.pid])
    assert engine.resident_gib() is None


def test_what_torch_sets_itself_is_not_reported_as_the_users() -> None:
    mine = {"HOME": "/home/me", "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": "/tmp/torch"}
    assert inherited_environment(mine) == ({"HOME": "/home/me"}, ["OMP_NUM_THREADS"])


def test_a_paused_engine_stands_still_when_pause_returns_however_busy_the_machine_is(
    model: ModelChoice, tmp_path: Path
) -> None:
    with (tmp_path / "log").open("wb") as log:
        process = Guarded(["sh", "-c", "for _ in 1 2 3 4 5 6 7 8; do sh -c 'while :; do :; done' & done; wait"], log)
    need = Need("llama.cpp", 0, 0, 0, 0)
    with Engine(ENGINES["llamacpp"], model, "BF16", {}, 2, "1", [], 4711, tmp_path / "log", process, need) as engine:
        assert eventually(lambda: len(below(engine)) == 9)
        for _ in range(5):
            engine.pause()
            assert {psutil.Process(pid).status() for pid in below(engine)} == {psutil.STATUS_STOPPED}
            engine.resume()


def test_an_engine_whose_record_can_not_be_written_is_ended(
    model: ModelChoice, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk. `down` would not find it, and the notebook has no name for it."""
    started: list[Guarded] = []

    def guarded(*arguments: Any, **more: Any) -> Guarded:
        started.append(Guarded(*arguments, **more))
        return started[-1]

    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    (tmp_path / "run").write_text("a file where the folder of the records should be")
    monkeypatch.setattr(running, "Guarded", guarded)
    what = LaunchPlan(tmp_path, model, "BF16", 4711, 1)
    need = Need("llama.cpp", 0, 0, 0, 0)
    with pytest.raises(LabError, match=r"run/\d+\.json can't be written"):
        running.start_guarded(ENGINES["llamacpp"], what, ["sleep", "60"], 4711, {}, "1", need, machine)
    [process] = started
    assert process.exit_code() is not None
    assert descendants(process.pid) == []


def test_an_engine_that_runs_keeps_its_log_however_many_are_started_after_it(
    model: ModelChoice, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of its death shows the last lines."""
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    what = LaunchPlan(tmp_path, model, "BF16", 4711, 1)
    need = Need("llama.cpp", 0, 0, 0, 0)
    logs = tmp_path / "logs"
    logs.mkdir()
    ended = logs / "engine-20000101-000000-vllm-4712.log"
    ended.write_text("of an engine that has ended long ago")
    command = ["sh", "-c", "echo at work; exec sleep 60"]
    with running.start_guarded(ENGINES["llamacpp"], what, command, 4711, {}, "1", need, machine) as first:
        for number in range(30):  # their names say that they are newer
            (logs / f"engine-99990101-{number:06d}-vllm-4713.log").touch()
        with running.start_guarded(ENGINES["llamacpp"], what, command, 4714, {}, "1", need, machine):
            assert eventually(lambda: "at work" in first.tail())
            assert not ended.exists()
