"""A machine is described by what was seen; a failed check says how to fix it."""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from shared import LabError, hardware
from shared.hardware import Check, detect, doctor


def smi(monkeypatch: pytest.MonkeyPatch, answer: str | None) -> None:
    """As if nvidia-smi printed this; None: there is no nvidia-smi."""

    def run(*_: object, **__: object) -> SimpleNamespace:
        if answer is None:
            raise FileNotFoundError("nvidia-smi")
        return SimpleNamespace(stdout=answer)

    hardware.nvidia_gpu.cache_clear()
    monkeypatch.setattr(hardware.subprocess, "run", run)


@pytest.fixture(autouse=True)
def forget() -> None:
    hardware.nvidia_gpu.cache_clear()


@pytest.mark.parametrize(
    ("answer", "profile"),
    [("NVIDIA GB10, 12.1\n", "spark"), ("NVIDIA H200, 9.0\n", "cuda"), ("", "cpu"), (None, "cpu")],
)
def test_the_profile_follows_from_the_gpu(monkeypatch: pytest.MonkeyPatch, answer: str | None, profile: str) -> None:
    smi(monkeypatch, answer)
    machine = detect()
    assert machine.profile == profile
    assert machine.why
    assert (machine.gpu is None) == (profile == "cpu")
    hardware.nvidia_gpu.cache_clear()


def test_cores_are_those_that_this_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nfrom shared import hardware\n"
    out = subprocess.check_output([sys.executable, "-c", code + "print(hardware.detect().cores)"], text=True)
    assert out.strip() == "1"


def test_sizes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_SIZE", "quick")
    assert detect().rounds == 2
    monkeypatch.setenv("LABS_SIZE", "huge")
    with pytest.raises(LabError, match="LABS_SIZE is 'huge'"):
        detect()


def test_each_failed_check_says_how_to_fix_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert all(isinstance(c, Check) and c.observed for c in doctor())
    monkeypatch.setenv("PATH", str(tmp_path))
    failed = {c.name: c.fix for c in doctor() if not c.ok}
    assert failed["c++"] == "sudo apt install g++"
    assert failed["git"] == "sudo apt install git"


def test_a_foreign_package_named_shared_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hardware.check_package().ok
    monkeypatch.setattr(hardware, "__file__", str(tmp_path / "shared" / "hardware.py"))
    assert not hardware.check_package().ok


def test_importing_the_package_is_quick_and_brings_no_torch() -> None:
    code = "import shared, sys; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    times = []
    for _ in range(3):
        start = time.process_time()
        children = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
        assert children.returncode == 0
        total = [line for line in children.stderr.splitlines() if line.rstrip().endswith(" shared")]
        times.append(int(total[-1].split("|")[1]) / 1e6)
        assert time.process_time() - start < 60
    assert min(times) < 0.3
