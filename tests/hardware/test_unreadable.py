"""What can't be read is None, is named, and leads to the careful choice. No odd file or answer ends detection."""

from pathlib import Path
from typing import Any

import pytest

from shared import LabError
from shared.engines import ENGINES
from shared.hardware import Machine, detect, doctor
from shared.hardware.gpu import find_docker, gpu_holders
from shared.hardware.host import cpu_quota, meminfo, memory_limit
from shared.launch import memory
from shared.models import ModelChoice
from tests.helpers.fake_spark import FLAGS
from tests.machines import RecordedHost, facts

QUERY = "nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader"
TOTAL = "MemTotal:       65800000 kB\n"
AVAILABLE = "MemAvailable:   60000000 kB\n"


def host(name: str, files: dict[str, str | None] | None = None, **commands: Any) -> RecordedHost:
    """A recorded machine with other files (None: it can't be read), or another answer of `smi` or `docker`."""
    recorded = facts(name)
    there = {**recorded["files"], **(files or {})}
    recorded["files"] = {path: text for path, text in there.items() if text is not None}
    for short, full in (("smi", QUERY), ("docker", "docker info --format {{json .}}")):
        if short in commands:
            recorded.setdefault("commands", {})[full] = commands[short]
    return RecordedHost(recorded)


def row(checks: list[doctor.Check], name: str) -> doctor.Check:
    return next(check for check in checks if check.name == name)


@pytest.mark.parametrize("text", [None, "", TOTAL, AVAILABLE, "\n", "garbage", "MemTotal: kB\nMemAvailable: lots kB\n"])
@pytest.mark.parametrize("name", ["no-gpu", "h100", "dgx-spark", "in-container"])
def test_memory_that_can_not_be_read_is_none_and_named(name: str, text: str | None) -> None:
    found = detect(host(name, {"/proc/meminfo": text}))
    assert (found.memory_gib is None) == (text is None or "MemTotal:  " not in text)
    assert (found.available_gib is None) == (text is None or "MemAvailable:  " not in text)
    if found.memory_gib is None:
        assert "an unknown amount of memory" in str(found)
    machine, checks = doctor.doctor(host(name, {"/proc/meminfo": text}))
    assert row(checks, "memory").state == ("failed" if machine.runner == "container" else "warning")
    assert "/proc/meminfo" in row(checks, "memory").observed
    assert not [check.observed for check in checks if "the check itself failed" in check.observed]
    assert "unknown" in doctor.table(machine, checks)


@pytest.mark.parametrize(
    "odd", ["\n", "no colon here\n", "HugePages: many\n", ":\n", "Odd:\n", "Swap: -1 kB\n", "\0\n"]
)
def test_an_odd_line_hides_no_other(odd: str) -> None:
    found = meminfo(
        host("no-gpu", {"/proc/meminfo": odd + TOTAL + odd + AVAILABLE + "HugePages_Total:       0\n" + odd})
    )
    assert found == {"MemTotal": 65800000 * 1024, "MemAvailable": 60000000 * 1024, "HugePages_Total": 0}


@pytest.mark.parametrize("odd", ["", "\n", "no colons\n", "1:memory\n", "::\n", "0::(unreachable)/x\n", "a:b:c:d\n"])
def test_an_odd_line_of_the_cgroups_hides_no_limit(odd: str) -> None:
    there = host(
        "in-container", {"/proc/self/cgroup": f"{odd}0::/\n{odd}", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}
    )
    assert detect(there).available_gib == 5.0
    assert cpu_quota(there) == 2.0
    alone = host("in-container", {"/proc/self/cgroup": odd})
    assert (memory_limit(alone), cpu_quota(alone)) == (None, None)


def test_a_limit_counts_where_the_machines_memory_is_unknown() -> None:
    there = host("in-container", {"/proc/meminfo": ""})
    assert detect(there).container_limit_gib == 8
    unlimited = {"/proc/meminfo": "", "/sys/fs/cgroup/memory.max": "9223372036854771712\n"}
    assert detect(host("in-container", unlimited)).container_limit_gib is None


WARNINGS = [
    "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n",
    "Warning: persistence mode is disabled, see nvidia-smi(1), driver 580, now\n",
    "\n",
    "libdebuginfod.so.1: no version information available\n",
]


@pytest.mark.parametrize("code", [0, 14])
@pytest.mark.parametrize("warning", WARNINGS)
@pytest.mark.parametrize("name", ["dgx-spark", "h100"])
def test_a_warning_beside_nvidia_smis_answer_hides_no_gpu(name: str, warning: str, code: int) -> None:
    answer = facts(name)["commands"][QUERY]["out"]
    plain = detect(host(name))
    for out in (warning + answer, answer + warning):
        assert detect(host(name, smi={"out": out, "exit": code})) == plain
    assert detect(host(name, smi={"out": warning, "exit": code})).gpu is None


@pytest.mark.parametrize(
    "memory_field", ["[N/A]", "[Insufficient Permissions]", "[Unknown Error]", "[GPU requires reset]"]
)
def test_a_discrete_gpu_whose_memory_may_not_be_read_is_no_spark(memory_field: str) -> None:
    smi = {"out": f"NVIDIA H100 80GB HBM3, 9.0, 580.126.09, {memory_field}\n"}
    found, checks = doctor.doctor(host("h100", smi=smi))
    assert (found.unified_memory, found.gpu_memory_gib, found.profile) == (False, None, "cpu")
    assert found.why == (
        "nvidia-smi reports NVIDIA H100 80GB HBM3, but nvidia-smi doesn't report how much memory it has, so engines "
        "run on the processor"
    )
    assert "not used: nvidia-smi doesn't report how much memory" in row(checks, "GPU").observed
    assert "docker" not in {check.name for check in checks}
    assert detect(host("dgx-spark", smi={"out": f"NVIDIA GB10, 12.1, 580.95.05, {memory_field}\n"})).profile == "spark"


@pytest.mark.parametrize("name", ["Orin (nvgpu)", "NVIDIA Thor", "Xavier (nvgpu)", "NVIDIA Tegra X1"])
def test_a_jetson_runs_engines_on_its_processor(name: str) -> None:
    for files in ({}, {"/etc/nv_tegra_release": None, "/proc/device-tree/model": None}):
        found = detect(host("jetson-orin", files, smi={"out": f"{name}, 8.7, 540.4.0, [N/A]\n"}))
        assert (found.profile, found.runner, found.unified_memory) == ("cpu", "native", False)
        assert "part of a Jetson" in found.why


def test_a_jetson_that_is_forced_to_its_gpu_is_told_why_nothing_starts(spark_model: ModelChoice) -> None:
    there = host("jetson-orin")
    there.env = {"LABS_PROFILE": "cuda"}
    machine, vllm = detect(there), ENGINES["vllm"]
    needed = memory.need(vllm, spark_model, "BF16", FLAGS["vllm"], machine)
    with pytest.raises(
        LabError, match=r"nvidia-smi doesn't report how much memory Orin \(nvgpu\) has.*\n.*LABS_PROFILE"
    ):
        memory.require(vllm, needed, FLAGS["vllm"], machine, ())


def test_a_spark_whose_free_memory_is_unknown_starts_nothing(spark: Machine, spark_model: ModelChoice) -> None:
    for name, flags in FLAGS.items():
        blind = detect(host("dgx-spark", {"/proc/meminfo": TOTAL}))
        needed = memory.need(ENGINES[name], spark_model, "BF16", flags, blind)
        with pytest.raises(LabError, match="but /proc/meminfo doesn't report how much is available"):
            memory.require(ENGINES[name], needed, flags, blind, ())


def test_a_laptop_whose_free_memory_is_unknown_starts_engines_without_a_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: ModelChoice
) -> None:
    blind = detect(host("no-gpu", {"/proc/meminfo": None}))
    needed = memory.need(ENGINES["llamacpp"], model, "BF16", {}, blind)
    memory.require(ENGINES["llamacpp"], needed, {}, blind, ())
    for text in (None, TOTAL):
        file = tmp_path / "meminfo"
        if text:
            file.write_text(text)
        monkeypatch.setattr(memory, "MEMINFO", file)
        assert memory.guard(blind, tmp_path / "samples") is None
    file.write_text(TOTAL + AVAILABLE)
    assert memory.guard(blind, tmp_path / "samples") == {
        "meminfo": str(file), "loading_gib": 1.0, "running_gib": 0.5, "samples": str(tmp_path / "samples")
    }  # fmt: skip


@pytest.mark.parametrize("before", ["WARNING: No swap limit support\n", "Emulate Docker CLI using podman.\n", "\n"])
def test_a_warning_before_dockers_answer_hides_no_docker(before: str) -> None:
    out = facts("h100")["commands"]["docker info --format {{json .}}"]["out"]
    assert find_docker(host("h100", docker={"out": before + out})) == find_docker(host("h100"))


@pytest.mark.parametrize(
    "out", ["null", "[]", "{", "3", '{"ServerVersion": 3}', '{"ServerVersion":"1","Runtimes":null}']
)
def test_an_odd_answer_of_docker_is_a_trouble_and_no_traceback(out: str) -> None:
    assert find_docker(host("h100", docker={"out": out})).trouble in ("down", "no GPU")


def test_holders_are_seen_beside_a_warning() -> None:
    recorded = facts("dgx-spark-busy")
    command = "nvidia-smi --query-compute-apps=pid,process_name,used_memory --format=csv,noheader"
    plain = gpu_holders(RecordedHost(facts("dgx-spark-busy")))
    recorded["commands"][command]["out"] = WARNINGS[0] + recorded["commands"][command]["out"]
    recorded["commands"][command]["exit"] = 14
    assert gpu_holders(RecordedHost(recorded)) == plain
