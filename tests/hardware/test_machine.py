"""A machine is described by facts that were read; a fact that can't be read is None or named as unknown.

Other machines are recorded ones (tests/machines/), with a stand-in for Host. Time limits and ports are tested on real
processes and sockets.
"""

import dataclasses
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared import LabError, hardware
from shared.hardware import detect
from shared.hardware.gpu import docker_gpu_arguments, gpu_holders
from shared.hardware.host import GIB, MISSING, TIMED_OUT, Host, browser, cpu_quota, memory_limit
from tests.machines import NAMES, RecordedHost, facts, machine

GB10 = {"gpu": "NVIDIA GB10, 12.1", "unified_memory": True, "gpu_memory_gib": None, "compute_capability": "12.1"}
# recorded machine → name, profile, part of `why`, further facts
EXPECTED: dict[str, tuple[str, str, str, dict[str, object]]] = {
    "dgx-spark": ("DGX Spark", "spark", "reports NVIDIA GB10", {**GB10, "cuda": "13.0", "driver": "580.159.03"}),
    "dgx-spark-busy": ("DGX Spark", "spark", "reports NVIDIA GB10", {**GB10, "processor": "Cortex-X925 + Cortex-A725"}),
    "dgx-spark-kho": ("DGX Spark", "spark", "reports NVIDIA GB10", {**GB10, "driver": "580.173.02"}),
    "gb10-asus": ("GB10 of another maker (ASUSTeK COMPUTER INC. GX10)", "spark", "reports NVIDIA GB10", GB10),
    "gb10-64gb": ("GB10 of another maker (Example GB10-64)", "spark", "reports NVIDIA GB10", {**GB10, "cuda": "12.8"}),
    "h100": ("NVIDIA H100 80GB HBM3", "cuda", "reports NVIDIA H100", {"unified_memory": False, "cuda": "13.0"}),
    "h200": ("NVIDIA H200", "cuda", "reports NVIDIA H200", {"cuda": "13.3", "driver": "610.43.02"}),
    "rtx-laptop": (
        "NVIDIA GeForce RTX 4070 Laptop GPU",
        "cpu",
        "but docker has no way to give a GPU to a container, so engines run on the processor; make doctor shows",
        {"compute_capability": "8.9"},
    ),
    "wsl": ("NVIDIA GeForce RTX 4070 Laptop GPU", "cuda", "reports NVIDIA GeForce", {"driver": "551.88", "cores": 32}),
    "jetson-orin": (
        "Orin (nvgpu)",
        "cpu",
        "it is part of a Jetson, for which the labs have no container images, so engines run on the processor",
        {"unified_memory": False, "gpu_memory_gib": None, "compute_capability": None},
    ),
    "no-gpu": ("no NVIDIA GPU", "cpu", "nvidia-smi is not on the PATH", {"gpu": None, "driver": None, "cuda": None}),
    "no-docker": (
        "NVIDIA H100 80GB HBM3",
        "cpu",
        "nvidia-smi reports NVIDIA H100 80GB HBM3, but docker is not on the PATH, so engines run on the processor; "
        "make doctor shows the fix",
        {"gpu": "NVIDIA H100 80GB HBM3, 9.0"},
    ),
    "docker-permission": (
        "DGX Spark",
        "cpu",
        "but this user has no permission to use docker, so engines run on the processor",
        GB10,
    ),
    "broken-driver": ("no working NVIDIA GPU", "cpu", "nvidia-smi failed (exit 9)", {"gpu": None}),
    "hanging-nvidia-smi": (
        "DGX Spark",
        "cpu",
        "this is a DGX Spark, but nvidia-smi gave no answer in 10 s",
        {"gpu": None, "unified_memory": True},
    ),
    "in-container": ("no NVIDIA GPU", "cpu", "nvidia-smi is not on the PATH", {"container_limit_gib": 8.0}),
}
GIBS = {"h100": 81559 / 1024, "h200": 143771 / 1024, "wsl": 8188 / 1024}


def test_every_recorded_machine_says_where_it_was_published() -> None:
    assert set(NAMES) == set(EXPECTED)
    for name in NAMES:
        source = facts(name)["source"]
        assert "https://github.com/" in source or "synthetic" in source.lower(), name


@pytest.mark.parametrize("name", NAMES)
def test_a_machine_is_told_by_its_facts(name: str) -> None:
    called, profile, why, more = EXPECTED[name]
    found = detect(machine(name))
    assert (found.name, found.profile) == (called, profile)
    assert found.runner == ("native" if profile == "cpu" else "container")
    assert why in found.why
    assert {field: getattr(found, field) for field in more} == more
    assert found.gpu_memory_gib == GIBS.get(name, found.gpu_memory_gib)
    assert called in str(found)


def test_memory_is_what_the_kernel_says_with_swap_apart() -> None:
    busy = detect(machine("dgx-spark-busy"))
    assert (round(busy.memory_gib, 1), round(busy.available_gib, 1), round(busy.swap_gib)) == (121.7, 43.0, 16)


def test_in_a_container_its_own_limit_counts() -> None:
    found = detect(machine("in-container"))
    # 8 GiB, of which 4 are in use; 1 of these is file cache that the kernel would free
    assert found.available_gib == 5.0
    assert found.memory_gib > 60


@pytest.mark.parametrize(
    ("files", "cores", "quota"),
    [
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2, 2.0),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, 0.5),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, 64, None),
        (
            {
                "/proc/self/cgroup": "0::/pod/one\n",
                "/sys/fs/cgroup/pod/cpu.max": "250000 100000\n",
                "/sys/fs/cgroup/pod/one/cpu.max": "max 100000\n",
            },
            2,
            2.5,
        ),  # of the group above
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/docker/a\n0::/\n",
                "/sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "300000\n",
                "/sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000\n",
            },
            3,
            3.0,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            64,
            None,
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "100000000 100000\n"}, 64, 1000.0),
    ],
    ids=["v2", "half a core", "v2 unlimited", "a group above", "v1", "v1 unlimited", "more than there are"],
)
def test_a_quota_leaves_fewer_cores_than_the_affinity(files: dict[str, str], cores: int, quota: float | None) -> None:
    """docker --cpus=2 on 64 cores: 64 threads would be stopped most of the time."""
    recorded = facts("no-gpu")
    host = RecordedHost({**recorded, "cores": 64, "files": {**recorded["files"], **files}})
    assert cpu_quota(host) == quota
    found = hardware.detect(host)
    assert (found.cores, found.cpu_quota) == (cores, quota)


def test_the_older_cgroups_are_read_too() -> None:
    recorded = facts("in-container")
    files = {name: text for name, text in recorded["files"].items() if "cgroup" not in name}
    files["/proc/self/cgroup"] = "9:name=systemd:/\n4:memory:/docker/abc\n0::/\n"
    folder = "/sys/fs/cgroup/memory/docker/abc"
    files[f"{folder}/memory.limit_in_bytes"] = f"{6 * GIB}\n"
    files[f"{folder}/memory.usage_in_bytes"] = f"{2 * GIB}\n"
    files[f"{folder}/memory.stat"] = f"total_inactive_file {GIB}\n"
    files["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n"  # none
    files["/sys/fs/cgroup/memory/memory.usage_in_bytes"] = f"{3 * GIB}\n"
    found = memory_limit(RecordedHost({**recorded, "files": files}))
    assert found
    assert (found.limit, found.left) == (6 * GIB, 5 * GIB)
    files[f"{folder}/memory.limit_in_bytes"] = "max\n"
    assert memory_limit(RecordedHost({**recorded, "files": files})) is None


def test_commands_are_asked_once_and_memory_each_time() -> None:
    recorded = facts("dgx-spark")
    host = RecordedHost(recorded)
    before = detect(host)
    asked = list(host.asked)
    recorded["files"]["/proc/meminfo"] = "MemTotal: 127601228 kB\nMemAvailable: 1048576 kB\n"
    assert detect(host).available_gib == 1.0 != before.available_gib
    assert host.asked == asked == list(dict.fromkeys(asked))


@pytest.mark.parametrize("name", ["cpu", "cuda", "spark"])
def test_the_profile_can_be_chosen(name: str) -> None:
    found = detect(machine("dgx-spark", LABS_PROFILE=name))
    assert (found.profile, found.why) == (name, f"LABS_PROFILE={name}")


def test_a_profile_that_cannot_be_is_refused() -> None:
    with pytest.raises(LabError, match="LABS_PROFILE is 'gpu'; it can be 'cpu', 'cuda' or 'spark'") as refused:
        detect(machine("dgx-spark", LABS_PROFILE="gpu"))
    assert refused.value.fix
    for name in ("no-gpu", "broken-driver"):
        with pytest.raises(LabError, match="needs an NVIDIA GPU, but nvidia-smi"):
            detect(machine(name, LABS_PROFILE="cuda"))


def test_sizes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert max(detect(machine("no-gpu")).effort.prompt_tokens) == 2048
    assert max(detect(machine("dgx-spark")).effort.prompt_tokens) == 8192
    monkeypatch.setenv("LABS_SIZE", "quick")
    assert detect().effort.rounds == 2
    monkeypatch.setenv("LABS_SIZE", "huge")
    with pytest.raises(LabError, match="LABS_SIZE is 'huge'"):
        detect()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("dgx-spark", "--gpus all"),  # CDI devices, no runtime
        ("dgx-spark-kho", "--gpus all"),  # a runtime, no CDI
        ("gb10-asus", "--runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all"),
        ("h200", "--runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all"),
    ],
)
def test_docker_is_told_to_give_the_gpu_in_the_way_that_it_can(name: str, arguments: str) -> None:
    assert " ".join(docker_gpu_arguments(machine(name))) == arguments


def test_a_cdi_file_alone_forbids_the_plain_way() -> None:
    recorded = facts("dgx-spark-kho")
    recorded["files"]["/etc/cdi/nvidia.yaml"] = "kind: nvidia.com/gpu\n"
    assert docker_gpu_arguments(RecordedHost(recorded))[0] == "--runtime"


def test_holders_of_the_gpu_are_named_with_what_they_hold() -> None:
    assert gpu_holders(machine("dgx-spark-busy")) == {
        1784176: "...ollama/llama-server (process 1784176, 67012 MiB)",
        1790001: "python3 (process 1790001, memory unknown)",
    }
    assert gpu_holders(machine("wsl")) == {24: "unnamed (process 24, memory unknown)"}
    assert gpu_holders(machine("no-gpu")) == {}


def test_a_box_that_names_itself_is_known_without_its_gpu() -> None:
    recorded = facts("gb10-asus")
    del recorded["commands"]
    found = detect(RecordedHost(recorded))
    assert (found.name, found.profile) == ("GB10 of another maker (ASUSTeK COMPUTER INC. GX10)", "cpu")
    assert found.why.endswith("but nvidia-smi is not on the PATH")


def test_this_machine_is_described() -> None:
    found = detect()
    assert found.memory_gib >= found.available_gib > 0
    assert found.architecture == os.uname().machine
    assert all(getattr(found, field.name) != "" for field in dataclasses.fields(found))


def test_cores_are_those_that_this_process_may_use() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nfrom shared import hardware\n"
    out = subprocess.check_output([sys.executable, "-c", code + "print(hardware.detect().cores)"], text=True)
    assert out.strip() == "1"


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real program replaces nvidia-smi. Its child keeps the pipes open, so the child must be killed too."""
    stuck = tmp_path / "nvidia-smi"
    stuck.write_text(f"#!/bin/sh\nsleep 600 &\necho $! >{tmp_path}/child\nwait\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    began = time.monotonic()
    answer = Host().run("nvidia-smi", limit_s=2.5)  # in which the program has started, on a busy machine, too
    assert (answer.failure, answer.first_line) == (TIMED_OUT, "no answer in 2.5 s")
    assert time.monotonic() - began < 20, "its child lives for 600 s"
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.02)
    else:
        pytest.fail("the child lives on")


def test_a_command_answers_or_says_how_it_failed() -> None:
    host = Host()
    assert host.run("sh", "-c", "echo seen").out == "seen\n"
    failed = host.run("sh", "-c", "echo out; echo wrong >&2; exit 9")
    assert (failed.failure, failed.first_line) == ("exit 9", "wrong")
    assert host.run("no-such-command-here").failure == MISSING
    assert host.read("/no/such/file") is None


def test_a_listener_is_found_with_its_process() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"(process {os.getpid()})" in Host().listeners()[port]
    assert port not in Host().listeners()


def test_listeners_that_cannot_be_read_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: str) -> None:
        raise PermissionError("/proc/net/tcp")

    monkeypatch.setattr(psutil, "net_connections", refused)
    assert Host().listeners() == {}


@pytest.mark.parametrize(
    ("line", "dtype"),
    [
        ("flags\t\t: fpu sse4_2 avx avx2 fma", "float32"),
        ("flags\t\t: avx2 avx512f avx512bw avx512_vnni", "float32"),
        ("flags\t\t: avx2 avx512f avx512bw avx512_bf16 amx_bf16", "bfloat16"),
        ("Features\t: fp asimd bf16 i8mm", "bfloat16"),
        ("Features\t: fp asimd", "float32"),
        ("nothing", "float32"),
    ],
)
def test_engines_on_torch_compute_in_what_the_processor_multiplies_fast(line: str, dtype: str) -> None:
    recorded = facts("no-gpu")
    recorded["files"]["/proc/cpuinfo"] = f"processor\t: 0\n{line}\n"
    assert hardware.torch_dtype(RecordedHost(recorded)) == dtype


@pytest.mark.alone  # it measures a time
def test_importing_is_quick_and_brings_neither_torch_nor_plotly() -> None:
    code = "import shared.hardware.machine, sys; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
        assert done.returncode == 0
        modules = [line for line in done.stderr.splitlines() if line.split("|")[-1].strip().startswith("shared")]
        times.append(sum(int(line.split("|")[0].split(":")[1]) for line in modules) / 1e6)
        total = [line for line in done.stderr.splitlines() if line.rstrip().endswith(" shared.hardware.machine")]
        times[-1] = max(times[-1], int(total[-1].split("|")[1]) / 1e6)
    assert min(times) < 0.3


def test_the_doctor_finds_the_browser_that_the_set_up_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chrome = tmp_path / "browsers" / "chromium-1" / "chrome-linux" / "chrome"
    chrome.parent.mkdir(parents=True)
    chrome.touch()
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    monkeypatch.setattr(Host, "which", lambda self, tool: None)
    assert browser() == browser(Host()) == str(chrome)  # the doctor reads every fact afresh, from a Host of its own


def test_the_browser_is_looked_for_on_the_path() -> None:
    assert browser(machine("dgx-spark")) == "/usr/bin/chromium"
    assert browser(machine("no-gpu")) is None
