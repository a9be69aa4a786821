"""Each check that isn't ok names what was seen, why it matters and the fix. No check crashes or runs sudo."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import shared
from shared import paths
from shared.hardware import doctor
from shared.hardware.doctor import CHECKS
from shared.hardware.doctor_checks import DROP_CACHES, PORTS, Check
from shared.hardware.doctor_gpu_checks import REGISTER
from shared.processes import start_time
from tests.machines import NAMES, RecordedHost, facts, machine

NO_TOKEN = ("warning", ".venv/bin/hf auth login")
# Recorded machine → check → (state, start of the fix), for every check that isn't ok
NOT_OK: dict[str, dict[str, tuple[str, str]]] = {
    "dgx-spark": {},
    "dgx-spark-busy": {
        "memory": ("failed", "close other programs"),
        "swap": ("warning", "stop other engines, then: sudo swapoff -a"),
        "GPU in use": ("warning", "end the processes that you don't need"),
        "ports": ("warning", "sudo ss -ltnp 'sport = :11434'"),
        "Hugging Face token": NO_TOKEN,
    },
    "dgx-spark-kho": {"kernel": ("warning", "sudo apt update && sudo apt install nvidia-spark-grub-kho")},
    "gb10-asus": {},
    "gb10-64gb": {"CUDA of the driver": ("failed", "sudo apt update && sudo apt dist-upgrade && sudo reboot")},
    "h100": {},
    "h200": {"disk for images": ("warning", "docker system df"), "Hugging Face token": NO_TOKEN},
    "rtx-laptop": {
        "CUDA of the driver": ("warning", "install driver release 580"),
        "docker and the GPU": ("failed", REGISTER),
    },
    "wsl": {
        "CUDA of the driver": ("warning", "update the NVIDIA driver in Windows"),
        "GPU in use": ("warning", "end the processes that you don't need"),
        "Hugging Face token": NO_TOKEN,
        "Chromium": ("warning", ".venv/bin/python -m environment.browser"),
    },
    "jetson-orin": {},
    "no-gpu": {
        "c++": ("failed", "sudo apt install g++"),
        "memory": ("failed", "close other programs"),
        "ports": ("warning", "sudo ss -ltnp 'sport = :8080'"),
        "Chromium": ("warning", ".venv/bin/python -m environment.browser"),
    },
    "no-docker": {"docker": ("failed", "sudo apt install docker.io")},
    "docker-permission": {"docker": ("failed", "sudo usermod -aG docker $USER")},
    "broken-driver": {"GPU": ("failed", "sudo reboot")},
    "hanging-nvidia-smi": {"GPU": ("failed", "sudo reboot")},
    "in-container": {"memory": ("failed", "start the container with more memory")},
}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache with a path as short as a real one, because the table cuts no word."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setenv("LABS_CACHE", f"{folder}/cache")
        yield Path(folder) / "cache"


def checks(host: RecordedHost) -> dict[str, Check]:
    return {c.name: c for c in doctor.doctor(host)[1]}


@pytest.mark.parametrize("name", NAMES)
def test_exactly_what_is_wrong_is_said_with_its_fix(name: str) -> None:
    wrong = {c.name: c for c in checks(machine(name)).values() if c.state != "ok"}
    assert {n: c.state for n, c in wrong.items()} == {n: state for n, (state, _) in NOT_OK[name].items()}
    for check, (_, fix) in NOT_OK[name].items():
        assert wrong[check].fix.startswith(fix)
        assert wrong[check].why
        assert wrong[check].observed


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_plain_text_of_a_hundred_columns(name: str) -> None:
    found, rows = doctor.doctor(machine(name))
    text = doctor.table(found, rows)
    assert all(len(line) <= doctor.WIDTH for line in text.splitlines())
    assert "\033" not in text
    for c in rows:
        assert re.search(rf"^{c.state:<8} {re.escape(c.name)} ", text, re.M)
        if c.state != "ok":
            assert c.fix in " ".join(text.split()) or c.fix in re.sub(r"\n +", " ", text)
    assert DROP_CACHES not in text or f"fix  {DROP_CACHES}\n" in text  # on one line, to be copied


@pytest.mark.parametrize("name", NAMES)
def test_checks_that_do_not_apply_are_left_out(name: str) -> None:
    found, rows = doctor.doctor(machine(name))
    names = {c.name for c in rows}
    assert ("swap" in names) <= found.unified_memory
    assert ("c++" in names) == ("git" in names) == (found.runner == "native")
    assert ("disk for images" in names) == ("Hugging Face token" in names) == (found.runner == "container")
    assert ("docker" in names) == (found.gpu is not None and "Jetson" not in found.why)
    assert len(names) == len(rows)


def test_nothing_is_run_as_root_and_nothing_is_changed() -> None:
    for name in NAMES:
        host = machine(name)
        doctor.doctor(host)
        assert {command.split()[0] for command in host.asked} <= {"nvidia-smi", "docker", "lscpu"}
        assert not any(word in command for command in host.asked for word in ("sudo", "drop_caches", "restart"))


def test_a_check_that_goes_wrong_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_stars(*_: object) -> Check:
        raise RuntimeError("the moon is full")

    monkeypatch.setattr(doctor, "CHECKS", (check_stars, *CHECKS))
    first = doctor.doctor(machine("h100"))[1][0]
    assert (first.name, first.state) == ("stars", "failed")
    assert first.observed == "the check itself failed: RuntimeError: the moon is full"
    assert len(doctor.doctor(machine("h100"))[1]) > 10


def test_memory_that_cannot_be_read_does_not_end_the_doctor() -> None:
    recorded = facts("dgx-spark")
    recorded["files"]["/proc/sys/kernel/osrelease"] = "strange"
    recorded["commands"]["docker info --format {{json .}}"] = {"out": "not json"}
    assert checks(RecordedHost(recorded))["docker"].fix == "sudo systemctl start docker"


@pytest.mark.parametrize(
    ("answer", "seen", "fix"),
    [
        (
            {"out": "{}", "err": "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "exit": 1},
            "Cannot connect to the Docker daemon",
            "sudo systemctl start docker",
        ),
        (  # the message of docker 29.6.1, with a client whose exit code is 0
            {
                "out": '{"ServerVersion":"","ServerErrors":["failed to connect to the docker API at unix:///run/d.sock"]}'
            },
            "failed to connect to the docker API",
            "sudo systemctl start docker",
        ),
        ({"hangs": True}, "no answer in 10 s", "sudo systemctl restart docker"),
    ],
)
def test_a_docker_that_is_down_is_told_from_one_that_refuses(answer: dict[str, object], seen: str, fix: str) -> None:
    recorded = facts("h100")
    recorded["commands"]["docker info --format {{json .}}"] = answer
    row = checks(RecordedHost(recorded))["docker"]
    assert (row.state, row.fix) == ("failed", fix)
    assert seen in row.observed


def test_without_the_toolkit_its_guide_comes_first() -> None:
    recorded = facts("rtx-laptop")
    recorded["tools"].remove("nvidia-ctk")
    fix = checks(RecordedHost(recorded))["docker and the GPU"].fix
    assert fix.startswith("install the NVIDIA Container Toolkit (https://docs.nvidia.com/")
    assert fix.endswith(REGISTER)


def test_whoever_asks_for_the_processor_needs_no_docker() -> None:
    found = checks(machine("no-docker", LABS_PROFILE="cpu"))
    assert "docker" not in found
    assert all(c.state == "ok" for c in found.values())


def test_kho_is_left_alone_once_it_is_off() -> None:
    recorded = facts("dgx-spark-kho")
    files = recorded["files"]
    files["/proc/cmdline"] += " kho=off"
    files["/proc/meminfo"] = files["/proc/meminfo"].replace("940604", "0")
    row = checks(RecordedHost(recorded))["kernel"]
    assert (row.state, row.observed) == ("ok", "7.0.0-1019-nvidia with kho=off")
    files["/proc/sys/kernel/osrelease"] = "6.17.0-1032-nvidia"
    assert "kernel" not in checks(RecordedHost(recorded))


def test_an_old_gpu_and_an_emulated_python_are_noticed() -> None:
    recorded = facts("gb10-asus")
    recorded["architecture"] = "x86_64"
    assert checks(RecordedHost(recorded))["architecture"].state == "failed"
    recorded = facts("h100")
    query = next(command for command in recorded["commands"] if "query-gpu" in command)
    recorded["commands"][query]["out"] = "Tesla V100-SXM2-32GB, 7.0, 580.1, 32768 MiB\n"
    row = checks(RecordedHost(recorded))["bfloat16"]
    assert (row.state, row.fix) == ("warning", "LABS_PROFILE=cpu make lab")


def test_a_broken_driver_in_wsl_is_windows_to_mend() -> None:
    recorded = facts("wsl")
    query = next(command for command in recorded["commands"] if "query-gpu" in command)
    recorded["commands"][query] = {"err": "NVIDIA-SMI has failed because ...", "exit": 9}
    row = checks(RecordedHost(recorded))["GPU"]
    assert row.fix == "update the NVIDIA driver in Windows, then in PowerShell: wsl --shutdown"
    assert row.observed == "nvidia-smi failed (exit 9): NVIDIA-SMI has failed because ..."


def test_the_token_is_never_printed(tmp_path: Path) -> None:
    for host in (machine("h100"), machine("h200", HF_TOKEN="hf_secret"), machine("h200", HF_TOKEN_PATH="/t")):
        host.facts["files"]["/t"] = "hf_secret\n"
        found, rows = doctor.doctor(host)
        assert next(c for c in rows if c.name == "Hugging Face token").observed == "found"
        assert "hf_" not in doctor.table(found, rows)


def test_an_empty_token_file_is_no_token() -> None:
    host = machine("h200", HF_TOKEN_PATH="/t")
    host.facts["files"]["/t"] = "\n"
    assert checks(host)["Hugging Face token"].observed == "none"


def test_port_3000_is_the_chat_pages_too() -> None:
    settings = (paths.REPO / "solutions" / "webui" / "settings.py").read_text()
    assert re.search(r"port: int = Field\(default=3000", settings) or "port: int = 3000" in settings
    assert "chat page" in PORTS[3000]


def test_a_foreign_package_named_shared_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert checks(machine("h100"))["import shared"].state == "ok"
    monkeypatch.setattr(shared, "__file__", str(tmp_path / "shared" / "__init__.py"))
    assert checks(machine("h100"))["import shared"].state == "failed"


def test_a_quota_of_cpus_is_explained() -> None:
    recorded = facts("no-gpu")
    files = {**recorded["files"], "/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "200000 100000\n"}
    row = checks(RecordedHost({**recorded, "cores": 64, "files": files}))["cores"]
    assert (row.state, row.observed) == ("ok", "2 of 64: the quota is 2 CPUs")
    assert row.fix.endswith("docker run --cpus 64 ...")
    assert checks(machine("no-gpu"))["cores"].observed == "4"


def test_a_full_disk_is_noticed() -> None:
    recorded = {**facts("no-gpu"), "disk_gib": 3}
    row = checks(RecordedHost(recorded))["disk"]
    assert (row.state, row.why) == ("failed", "engines and weights take up to 15 GiB")


@pytest.fixture
def sleeper() -> Iterator[int]:
    """A living process that replaces an engine."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_an_engine_whose_notebook_is_gone_is_left_over(own_cache: Path, sleeper: int) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    record = {"pid": sleeper, "started": start_time(sleeper), "engine": "vllm", "port": 8000, "parent": os.getpid()}
    (own_cache / "run").mkdir(parents=True)
    file = own_cache / "run" / f"{sleeper}.json"
    file.write_text(json.dumps(record))
    (own_cache / "run" / "torn.json").write_text("{")
    row = checks(machine("h100"))["leftover engines"]
    assert (row.state, row.observed) == ("ok", "none; running: vllm (port 8000)")
    file.write_text(json.dumps({**record, "parent": gone.pid}))
    row = checks(machine("h100"))["leftover engines"]
    assert (row.state, row.observed, row.fix) == ("warning", "vllm (port 8000)", "make down")
    file.write_text(json.dumps({**record, "started": 1, "parent": gone.pid}))  # a later process with the same id
    assert checks(machine("h100"))["leftover engines"].observed == "none"


def run_doctor(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shared.hardware.doctor", *arguments]
    return subprocess.run(command, cwd=paths.REPO, env={**os.environ, **env}, capture_output=True, text=True)


def test_on_this_machine_it_runs_and_its_exit_code_tells() -> None:
    done = run_doctor("--json")
    said = json.loads(done.stdout)
    assert done.returncode == int(any(c["state"] == "failed" for c in said["checks"])), done.stderr
    assert said["machine"]["runner"] in ("native", "container")
    assert {"Python", "import shared", "disk", "memory", "ports"} <= {c["name"] for c in said["checks"]}
    assert len(said["symptoms"]) > 10
    assert run_doctor("--colour").returncode == 2


def test_a_machine_without_tools_fails_with_the_commands_that_bring_them(tmp_path: Path) -> None:
    began = time.monotonic()
    done = run_doctor(PATH=str(tmp_path))
    assert done.returncode == 1
    assert "fix  sudo apt install g++\n" in done.stdout
    assert "fix  sudo apt install git\n" in done.stdout
    assert time.monotonic() - began < 30


def test_a_driver_that_fails_for_real_is_reported(tmp_path: Path) -> None:
    """A real program replaces nvidia-smi, and the real Host runs it."""
    broken = tmp_path / "nvidia-smi"
    broken.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    broken.chmod(0o755)
    done = run_doctor("--json", PATH=f"{tmp_path}:{os.environ['PATH']}", LABS_PROFILE="")
    said = json.loads(done.stdout)
    assert said["machine"]["name"] == "no working NVIDIA GPU"
    row = next(c for c in said["checks"] if c["name"] == "GPU")
    assert row["observed"].startswith("nvidia-smi failed (exit 18): Failed to initialize NVML: Driver/library")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("gpu", "LABS_PROFILE is 'gpu'; it can be 'cpu', 'cuda' or 'spark'.\nFix: unset it, or"),
        ("cuda", "which needs an NVIDIA GPU, but nvidia-smi is not on the PATH.\nFix: unset LABS_PROFILE, then"),
    ],
)
def test_a_wrong_setting_ends_it_with_a_fix_that_helps(tmp_path: Path, profile: str, said: str) -> None:
    done = run_doctor(LABS_PROFILE=profile, PATH=str(tmp_path))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_symptoms_are_printed_too() -> None:
    done = run_doctor("--symptoms")
    assert done.returncode == 0
    assert "The machine answers ping, but ssh hangs" in done.stdout
    assert "none of it was verified on hardware by us" in done.stdout
    assert "one owner's report: https://" in done.stdout


def test_proxies_are_named_without_their_passwords() -> None:
    assert "proxy" not in checks(machine("no-gpu"))
    found = checks(machine("no-gpu", HTTPS_PROXY="http://me:secret@proxy.example:3128/", all_proxy="socks://b:1080"))
    seen = "HTTPS_PROXY (proxy.example:3128), all_proxy (b:1080); not used for this machine's own addresses"
    assert (found["proxy"].state, found["proxy"].observed) == ("ok", seen)
    found = checks(machine("no-gpu", ALL_PROXY="socks4://me:secret@proxy.example:1080"))
    assert found["proxy"].state == "warning"
    assert found["proxy"].observed.startswith("ALL_PROXY is ignored: ")
    assert found["proxy"].fix.startswith("unset ALL_PROXY; export HTTPS_PROXY=")
    assert "secret" not in str(found)


def test_on_this_machine_the_doctor_names_the_proxies_that_its_user_set() -> None:
    """`import shared` has dropped one that can't be used, but the doctor still knows it."""
    program = "from shared.hardware.doctor import doctor; print([c for c in doctor()[1] if c.name == 'proxy'])"
    env = {**os.environ, "ALL_PROXY": "socks4://proxy.example:1080", "LABS_PROFILE": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=paths.REPO, capture_output=True, text=True, check=True
    )
    assert "ALL_PROXY is ignored" in run.stdout


def test_a_file_system_without_locks_is_a_warning() -> None:
    assert checks(machine("no-gpu"))["file locks"].state == "ok"
    found = checks(RecordedHost({**facts("no-gpu"), "locks": False}))["file locks"]
    assert (found.state, found.observed.startswith("none in ")) == ("warning", True)
