"""The life of a container, from the manifest to its removal, against a stand-in docker.

The containers run a stand-in and no engine. The tests check the docker commands of the labs, and how the labs handle
docker's answers. The machine is the recorded DGX Spark of tests/machines, and its memory readings are scripted.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from environment import container_images, install
from shared import LabError, launch, paths
from shared.engines.http import get
from shared.hardware import Machine
from shared.launch import containers, launcher, memory
from shared.launch.containers import Image, ensure, images
from shared.launch.running import Engine
from shared.models import ModelChoice, catalogue
from shared.results.participants import again
from tests.helpers.container_owner import OWNER
from tests.helpers.fake_spark import FLAGS, INSIDE, reading
from tests.helpers.processes import START_S, alive, eventually
from tests.helpers.standin_docker import Docker

SECRET = "hf_thisMustNeverBePrinted"


pytestmark = pytest.mark.usefixtures("nothing_left")


def start(model: ModelChoice, name: str = "vllm", **more: object) -> Engine:
    return launch.launch(name, model, {**FLAGS[name], **more}, timeout_s=60)


def test_from_the_manifest_to_the_removal(
    on_a_spark: Docker, spark_model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_spark.says(pull_s=2.5, layers=4)
    with start(spark_model) as engine:
        assert get(engine.port, "/health") is not None
        assert on_a_spark.containers() == [engine.container] == [f"inference-engine-labs-vllm-{engine.port}"]
        assert engine.provenance()["engine_version"].endswith("@" + images()["vllm"].digest)
        assert engine.provenance()["runner"] == "container"
        assert engine.command[:2] == ["docker", "run"]
        pid = on_a_spark.pid(engine.container)
    assert on_a_spark.containers() == []
    assert not alive(pid)
    first = [" ".join(words[:2]) for words in on_a_spark.asked()]
    wanted = ["image inspect", "manifest inspect", "info --format", "pull"]
    assert [word for word in first if word.startswith(tuple(wanted))][:3] == wanted[:3]
    assert any(word.startswith("pull ") for word in first)
    out = capsys.readouterr().out
    assert "pulling " in out
    assert "/4 [" in out
    assert "vLLM is starting" in out
    start(spark_model).stop()
    assert sum(words[0] == "pull" for words in on_a_spark.asked()) == 1  # it was there already


def test_a_container_that_is_put_off_starts_with_its_first_use(
    on_a_spark: Docker, spark_model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = launch.launch("vllm", spark_model, FLAGS["vllm"], timeout_s=60, quiet=True, when_needed=True)
    planned = engine.provenance()
    assert planned["runner"] == "container"
    assert planned["engine_version"].endswith("@" + images()["vllm"].digest)
    assert on_a_spark.containers() == []
    assert get(engine.port, "/health") is not None
    assert on_a_spark.containers() == [engine.container] == [f"inference-engine-labs-vllm-{engine.port}"]
    assert {**engine.provenance(), "startup_s": planned["startup_s"]} == planned
    engine.stop()
    assert on_a_spark.containers() == []
    assert any(words[0] == "pull" for words in on_a_spark.asked())
    assert capsys.readouterr().out == ""  # quiet, the pull included


def test_the_token_is_passed_by_name_and_never_printed(
    on_a_spark: Docker, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    on_a_spark.says(inside=[*INSIDE, "0", "60", "0"])
    engine = start(spark_model)
    inside = Path(f"/proc/{on_a_spark.pid(engine.container)}/environ").read_text()
    assert f"HF_TOKEN={SECRET}" in inside
    said = [engine.command_line(), str(engine.provenance()), engine.log_text(), capsys.readouterr().out]
    assert SECRET not in " ".join([*said, on_a_spark.calls.read_text(), *engine.command])
    assert "--env HF_TOKEN --env" in " ".join(engine.command)


@pytest.fixture
def owner(on_a_spark: Docker) -> Iterator["subprocess.Popen[str]"]:
    """A program of its own that runs a container."""
    on_a_spark.says(present=[images()["sglang"].reference])
    program = subprocess.Popen(
        [sys.executable, "-c", OWNER, "sglang", "49151", "/weights"], stdout=subprocess.PIPE, text=True
    )
    yield program
    program.kill()
    program.wait()


def test_a_killed_kernel_leaves_no_container(on_a_spark: Docker, owner: "subprocess.Popen[str]") -> None:
    assert eventually(lambda: on_a_spark.containers() != [], START_S)
    pid = on_a_spark.pid(on_a_spark.containers()[0])
    owner.kill()
    assert eventually(lambda: on_a_spark.containers() == [] and not alive(pid), 30)


def test_down_removes_a_container_whose_watchdog_was_killed_too(
    on_a_spark: Docker, owner: "subprocess.Popen[str]", capsys: pytest.CaptureFixture[str]
) -> None:
    assert owner.stdout
    watchdog = int(owner.stdout.readline())
    assert eventually(lambda: on_a_spark.containers() != [], START_S)
    os.kill(watchdog, signal.SIGSTOP)  # else it may notice that the owner has ended, before it is killed
    owner.kill()
    os.kill(watchdog, signal.SIGKILL)
    assert eventually(lambda: not alive(watchdog))
    name = on_a_spark.containers()[0]
    assert launch.down() == 1
    assert capsys.readouterr().out == f"removed the container {name}\n"
    assert on_a_spark.containers() == []


def test_a_container_that_dies_while_starting_shows_its_last_words(
    on_a_spark: Docker, spark_model: ModelChoice
) -> None:
    words = "RuntimeError: Free memory on device cuda:0 (20.1/119.7 GiB) is less than desired GPU memory utilization"
    on_a_spark.says(inside=[*INSIDE, "60", "0.5", "1", words])
    with pytest.raises(LabError) as error:
        start(spark_model)
    assert "vLLM ended while starting (exit 1)" in str(error.value)
    assert f"  | {words}" in str(error.value)
    assert "utilization" in str(error.value).split("Likeliest causes:")[1]
    assert on_a_spark.containers() == []


def test_a_container_that_dies_while_serving_is_said(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    on_a_spark.says(inside=[*INSIDE, "0", "6", "139"])  # later than its start takes on a busy machine
    engine = start(spark_model)
    assert eventually(lambda: not engine.alive, 30)
    assert engine.process.exit_code() == 139
    assert start(spark_model) is not engine  # launched again, not taken for running


@pytest.mark.parametrize(
    ("said", "cause", "fix"),
    [
        ('could not select device driver "" with capabilities: [[gpu]]', "Container Toolkit is missing", "nvidia-ctk"),
        (
            "driver failed programming external connectivity: Bind for 127.0.0.1:8000 failed: port is already "
            "allocated",
            "the engine's port is taken",
            "leave `port` out",
        ),
        ('Conflict. The container name "/x" is already in use by container "0123"', "a container of that name", "down"),
    ],
)
def test_docker_refusing_to_run_is_told_with_its_fix(
    on_a_spark: Docker, spark_model: ModelChoice, said: str, cause: str, fix: str
) -> None:
    on_a_spark.says(run_fails=said)
    with pytest.raises(LabError, match=r"ended while starting \(exit 125\)") as error:
        start(spark_model)
    told = str(error.value).split("Likeliest causes:")[1]
    assert cause in told
    assert fix in told


def test_below_the_memory_floor_the_container_is_removed_and_the_samples_shown(
    on_a_spark: Docker, spark_model: ModelChoice, tmp_path: Path
) -> None:
    on_a_spark.says(inside=[*INSIDE, "60"])  # it loads for a minute

    def sampled(gib: float) -> bool:
        said = f"{gib:.2f} GiB available"
        return eventually(lambda: any(said in file.read_text() for file in tmp_path.rglob("*.memory")), 20)

    def eat(meminfo: Path) -> None:
        for before, gib in ((110, 60), (60, 38), (38, 15.2)):
            sampled(before)
            reading(meminfo, gib)

    import threading

    eating = threading.Thread(target=eat, args=[memory.MEMINFO])
    eating.start()
    with pytest.raises(LabError) as error:
        start(spark_model)
    eating.join()
    told = str(error.value)
    assert "The memory guard ended it before the machine could freeze. vLLM needs" in told
    assert "38.00 GiB available, floor 16.00" in told
    assert "15.20 GiB available, floor 16.00" in told
    assert on_a_spark.containers() == []


def test_pausing_holds_the_container_still(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    engine = start(spark_model)
    stat = Path(f"/proc/{on_a_spark.pid(engine.container)}/stat")
    engine.pause()
    assert eventually(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T")
    engine.resume()
    assert eventually(lambda: get(engine.port, "/health") is not None)


def image(name: str = "vllm") -> Image:
    return images()[name]


def test_docker_that_needs_sudo_is_told_before_anything_is_pulled(docker: Docker) -> None:
    docker.says(refuses="permission denied while trying to connect to the docker API at unix:///var/run/docker.sock")
    with pytest.raises(LabError, match=r"this user is not in the group docker.*\nFix: sudo usermod -aG docker \$USER"):
        ensure(image(), "aarch64")
    docker.says(
        refuses="Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
    )
    with pytest.raises(LabError, match=r"daemon is not running.*\nFix: sudo systemctl start docker"):
        ensure(image(), "aarch64")


def test_an_image_for_another_processor_is_refused_before_it_is_pulled(docker: Docker) -> None:
    docker.says(platforms={"amd64": 1000})
    with pytest.raises(LabError, match=r"has no version for arm64 \(it has: amd64\)"):
        ensure(image(), "aarch64")
    assert not any(words[0] == "pull" for words in docker.asked())


def test_an_image_that_does_not_fit_on_the_disk_is_refused_before_it_is_pulled(docker: Docker) -> None:
    docker.says(platforms={"arm64": 10**15})
    with pytest.raises(
        LabError, match=r"is a download of 931322.6 GiB and needs about .*, but only .* GiB are free in "
    ):
        ensure(image(), "aarch64")
    assert not any(words[0] == "pull" for words in docker.asked())


def test_a_pull_that_fails_is_told_in_dockers_words(docker: Docker) -> None:
    docker.says(pull_fails="error from registry: unauthorized: <html>...")
    with pytest.raises(LabError, match=r"could not pull .*the registry requires a login.*\nFix: docker login"):
        ensure(image(), "aarch64", quiet=True)


def test_ctrl_c_ends_a_slow_pull(docker: Docker) -> None:
    docker.says(pull_s=60, layers=2)
    program = subprocess.Popen(
        [sys.executable, "-c", "from shared.launch.containers import *; ensure(images()['vllm'], 'aarch64')"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=paths.REPO,
    )

    def pulling() -> list[int]:
        return [
            int(p.name)
            for p in Path("/proc").glob("[0-9]*")
            if str(docker.folder).encode() in (p / "cmdline").read_bytes()
            and b"\0pull\0" in (p / "cmdline").read_bytes()
        ]

    def has_begun() -> bool:
        try:
            return pulling() != []
        except OSError:  # a process ended while we looked
            return False

    assert eventually(has_begun, START_S)
    program.send_signal(signal.SIGINT)
    assert program.wait(30) != 0
    assert eventually(lambda: not has_begun())


def test_the_ways_to_ask_for_the_gpu(
    on_a_spark: Docker, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "--gpus all" in " ".join(start(spark_model).command)
    cdi = ("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
    monkeypatch.setattr(launcher, "docker_gpu_arguments", lambda: cdi)
    launch.stop_all()
    on_a_spark.says(run_fails="stopped here: only the command is of interest")
    with pytest.raises(LabError):
        start(spark_model)
    run = [words for words in on_a_spark.asked() if words[0] == "run"][-1]
    assert " ".join(cdi) in " ".join(run)
    assert "--gpus" not in run


def test_what_an_engine_reads_is_mounted_and_goes_into_its_yaml(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    engine = start(spark_model, "trtllm", enable_chunked_prefill=True)
    assert "enable_chunked_prefill" not in engine.command
    mount = next(word for word in engine.command if word.endswith(":/labs:ro"))
    import json

    keys = json.loads((Path(mount.removesuffix(":/labs:ro")) / "config.yml").read_text())
    assert keys["kv_cache_config"]["max_tokens"] == 16 * 2048
    assert keys["enable_chunked_prefill"] is True


def test_no_restart_policy_no_memory_flag_no_other_address(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    for name in ("vllm", "sglang", "trtllm", "llamacpp"):
        command = start(spark_model, name).command
        before = command[: command.index(images()[name].reference)]
        assert not [
            word for word in before if word.startswith(("--restart", "--memory", "--privileged", "--entrypoint"))
        ]
        assert f"127.0.0.1:{launcher._running[name].port}:{images()[name].port}" in before
        launch.stop_all()


def test_make_engines_fetches_every_image_and_goes_on_after_a_failure(
    on_a_spark: Docker, spark: Machine, spark_model: ModelChoice, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_spark.says(pull_fails="error from registry: unauthorized: <html>...")
    assert container_images.fetch_all(spark) == len(launcher.ENGINES)
    assert capsys.readouterr().out.count("the registry requires a login") == len(launcher.ENGINES)
    on_a_spark.says(pull_fails="")
    assert container_images.fetch_all(spark) == 0
    said = capsys.readouterr().out
    assert "vLLM: vllm/vllm-openai:v" in said
    for key, source in {**spark_model.sources, **spark_model.drafts}.items():  # what a later lab loads, too
        loaded = any(key in keys for keys in catalogue.loads().values())
        assert (f"{key}: {source.repository} is on this machine" in said) == loaded
    pulls = sum(words[0] == "pull" for words in on_a_spark.asked())
    assert pulls == 2 * len(launcher.ENGINES)
    assert container_images.fetch_all(spark) == 0
    assert sum(words[0] == "pull" for words in on_a_spark.asked()) == pulls


def test_on_a_spark_no_engine_is_compiled(monkeypatch: pytest.MonkeyPatch, spark: Machine) -> None:
    monkeypatch.setattr(install, "detect", lambda: spark)
    steps = install.choose([])
    assert "torch" in steps
    assert not [name for name in steps if name.startswith("engines/")]


def test_a_wrong_name_in_the_container_table_is_no_silent_default() -> None:
    assert set(containers.images()) >= {spec.container.image for spec in launcher.ENGINES.values()}
    assert replace(image(), digest="sha256:" + "a" * 64).reference.endswith("@sha256:" + "a" * 64)


def test_engines_that_do_not_fit_together_take_turns(
    on_a_spark: Docker,
    spark_model: ModelChoice,
    spark: Machine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the context of lab 3.3.1 one engine takes half of a Spark's memory."""

    def detect() -> Machine:
        taken = sum(one.need.total - one.need.reserve for one in launcher._running.values() if one.alive)
        return replace(spark, available_gib=114 - taken)

    monkeypatch.setattr(launcher, "detect", detect)
    first = start(spark_model, "vllm", **{"--max-num-seqs": 32, "--max-model-len": 8448})
    second = start(spark_model, "llamacpp", **{"-c": 32 * 8448})
    said = "llama.cpp doesn't fit into memory beside the engines that run, so these are ended."
    assert said in capsys.readouterr().out
    assert (first.ended, second.ended) == (True, False)
    assert again(first).alive
    assert second.ended
    start(spark_model, "llamacpp")  # a small one fits beside it
    assert first.alive
    with pytest.raises(LabError, match=r"GiB, but only \d+\.\d GiB are available"):
        start(spark_model, "sglang", **{"--max-total-tokens": 10**6})
    assert first.alive  # it would not fit into an empty machine either
