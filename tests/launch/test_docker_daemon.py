"""Containers for real: a Docker daemon of our own runs llama.cpp's image, made of this machine's build.

The machine is the recorded DGX Spark, with scripted memory readings. The small model stands where the hub's cache would
hold an 8B model. No GPU is used: docker is asked for it as on a Spark, and a runtime that adds none has the name of
NVIDIA's.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from environment import compose, verify_spark
from shared import LabError, launch, models, paths
from shared.engines.http import post_json
from shared.hardware import Machine
from shared.hardware.gpu import docker_gpu_arguments
from shared.launch import containers, launcher, memory, reuse
from shared.launch.containers import Image, ensure, images, present
from shared.launch.process import Guarded
from shared.launch.running import Engine
from shared.models import ModelChoice, hub
from shared.processes import free_port, port_taken
from shared.report import verified
from tests.helpers import docker_daemon
from tests.helpers.container_owner import OWNER
from tests.helpers.docker_daemon import Daemon, Registry
from tests.helpers.fake_spark import reading
from tests.helpers.processes import START_S, eventually

pytestmark = [pytest.mark.programs, pytest.mark.usefixtures("nothing_left", "weights")]
FLAGS = {"-np": 2, "-c": 1024, "--threads": 1}  # gentle, and quick beside other programs
REAL_CACHE = paths.cache()  # before a test points elsewhere


@pytest.fixture
def weights(real_docker: Daemon, as_a_spark: Path, model: ModelChoice, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in the hub's cache that every launch loads."""
    file = as_a_spark / "small.gguf"
    try:
        os.link(model.weights("Q8_0"), file)
    except OSError:  # on another disk
        shutil.copy(model.weights("Q8_0"), file)
    monkeypatch.setattr(hub, "fetch", lambda source: file)
    return file


def start(model: ModelChoice, port: int | None = None, **more: object) -> Engine:
    return launch.launch("llamacpp", model, {**FLAGS, **more}, timeout_s=60, port=port, quiet=True)


def answers(engine: Engine, timeout_s: float = 20) -> bool:
    body = {"model": engine.served_name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    try:
        return bool(post_json(engine.url + "/v1/chat/completions", body, timeout_s)["choices"])
    except (OSError, LabError):
        return False


def everything(daemon: Daemon) -> list[str]:
    return daemon.docker("ps", "--all", "--format", "{{.Names}}").split()


def test_a_container_s_life(real_docker: Daemon, spark_model: ModelChoice) -> None:
    assert docker_gpu_arguments() == ("--gpus", "all")
    with start(spark_model) as engine:
        assert everything(real_docker) == [engine.container]
        assert answers(engine)  # the weights are mounted, and its port is published
        ports = real_docker.docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", engine.container)
        assert f'[{{"HostIp":"127.0.0.1","HostPort":"{engine.port}"}}]' in ports
        assert "small.gguf" in engine.log_text()
        pid = containers.pid(engine.container)
        assert pid in launcher.own_container_pids()
        engine.resume()
        engine.pause()
        engine.pause()
        assert not answers(engine, 1)
        engine.resume()
        assert answers(engine)
        assert start(spark_model) is engine
    assert everything(real_docker) == []
    assert not port_taken(engine.port)
    assert not Path(f"/proc/{pid}").exists()
    paused = start(spark_model)
    paused.pause()
    paused.stop()
    assert everything(real_docker) == []


def test_the_gpu_is_asked_for_in_nvidia_s_way_too(
    real_docker: Daemon, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = ("--runtime", "nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
    monkeypatch.setattr(launcher, "docker_gpu_arguments", lambda: way)
    engine = start(spark_model)
    seen = real_docker.docker("inspect", "--format", "{{.HostConfig.Runtime}} {{.Config.Env}}", engine.container)
    assert seen.startswith("nvidia [")
    assert "NVIDIA_VISIBLE_DEVICES=all" in seen


@pytest.mark.parametrize(
    ("gpu", "cause"),
    [
        (("--runtime", "nvidiaX"), "docker doesn't know its runtime"),
        (("--device", "nvidia.com/gpu=all"), "docker does not know the GPU as a CDI device"),
        (("--runtime", "runc"), "docker may not raise a limit"),
    ],
)
def test_what_docker_refuses_is_told_with_its_reason(
    spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch, gpu: tuple[str, ...], cause: str
) -> None:
    if gpu[1] == "runc" and may_raise_limits():
        pytest.skip("this machine may raise limits, so docker refuses nothing")
    if gpu[0] == "--device" and "driver" not in refusal(*gpu) and "CDI" not in refusal(*gpu):
        pytest.skip("this docker has the GPU as a CDI device")
    monkeypatch.setattr(launcher, "docker_gpu_arguments", lambda: gpu)
    with pytest.raises(LabError, match=r"ended while starting \(exit 125\)") as error:
        start(spark_model)
    assert cause in str(error.value).split("Likeliest causes:")[1]


def may_raise_limits() -> bool:
    effective = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(effective.split()[1], 16) >> 24 & 1)  # CAP_SYS_RESOURCE


def refusal(*options: str) -> str:
    command = ["docker", "run", "--rm", "--pull", "never", *options, images()["llamacpp"].reference, "--version"]
    return subprocess.run(command, capture_output=True, text=True).stderr


def test_a_failure_inside_is_in_the_log(real_docker: Daemon, spark_model: ModelChoice) -> None:
    with pytest.raises(LabError, match=r"ended while starting \(exit 1\)") as error:
        start(spark_model, **{"--no-such-flag": 1})
    assert "| error: invalid argument: --no-such-flag" in str(error.value)
    assert "llama.cpp doesn't know a flag" in str(error.value).split("Likeliest causes:")[1]
    assert everything(real_docker) == []


def test_foreign_containers_of_our_name_and_on_our_port_stay(
    real_docker: Daemon, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    port, image = free_port(), images()["llamacpp"].reference
    ours = containers.name_for(launcher.ENGINES["llamacpp"], port)
    real_docker.docker("run", "--detach", "--name", ours, "--entrypoint", "/bin/sleep", image, "60")
    with pytest.raises(LabError, match="a container of that name already exists"):
        start(spark_model, port)
    assert launch.down() == 0
    assert everything(real_docker) == [ours]
    real_docker.docker("rm", "--force", ours)
    publish = ("--publish", f"127.0.0.1:{port}:9")
    real_docker.docker("run", "--detach", "--name", "other", *publish, "--entrypoint", "/bin/sleep", image, "60")
    with pytest.raises(LabError, match=r"Port \d+ of 127\.0\.0\.1 is taken"):
        start(spark_model, port)
    monkeypatch.setattr(launcher, "port_taken", lambda port: False)  # taken in this moment
    with pytest.raises(LabError, match="the engine's port is taken"):
        start(spark_model, port)
    assert everything(real_docker) == ["other"]
    real_docker.docker("rm", "--force", "other")


def test_a_kept_container_is_taken_over(
    real_docker: Daemon, spark: Machine, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_ENGINES_OF", str(os.getpid()))
    monkeypatch.setattr(reuse, "detect", lambda: spark)
    first = start(spark_model)
    first.stop()
    launcher._running.clear()
    again = start(spark_model)
    assert again.container == first.container
    assert answers(again)
    launcher._running.clear()
    other = start(spark_model, **{"-c": 2048})
    assert [containers.status(one.container) for one in (first, other)] == ["paused", "running"]
    launcher._running.clear()
    assert answers(start(spark_model))
    launcher._running.clear()
    assert launch.down(os.getpid()) == 2
    assert everything(real_docker) == []


def test_a_paused_container_that_has_gone_hides_no_error(real_docker: Daemon, spark_model: ModelChoice) -> None:
    engine = start(spark_model)
    with pytest.raises(ZeroDivisionError), launcher.alone(None):  # noqa: PT012
        real_docker.docker("rm", "--force", engine.container)
        _ = 1 / 0
    assert eventually(lambda: not engine.alive)
    assert answers(start(spark_model))


def test_an_owner_killed_at_any_moment_leaves_no_container(real_docker: Daemon, tmp_path: Path) -> None:
    options = ["--rm", "--pull", "never", "--gpus", "all", "--ipc=host", "--entrypoint", "/bin/sleep"]
    for delay_s in (0, 0.1, 0.2, 0.3, 0.5):
        label = containers.new_label()
        command = ["docker", "run", *options, "--label", label, images()["llamacpp"].reference, "60"]
        with (tmp_path / "log").open("wb") as log:
            process = Guarded(command, log, label=label)
        time.sleep(delay_s)
        process.end()  # as the owner's end does: the watchdog sees that the pipe is closed
        assert everything(real_docker) == []
    time.sleep(1)
    assert everything(real_docker) == []


@pytest.mark.parametrize("watchdog_too", [False, True])
def test_kill_9_of_the_owner(real_docker: Daemon, weights: Path, watchdog_too: bool) -> None:
    loads = hub.inside(weights)
    command = [sys.executable, "-c", OWNER, "llamacpp", str(free_port()), loads]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout
    watchdog = int(owner.stdout.readline())
    name = "inference-engine-labs-llamacpp-owned"
    assert eventually(lambda: containers.status(name) == "running", START_S)
    time.sleep(1)
    assert containers.status(name) == "running"  # it does not end by itself
    if watchdog_too:
        os.kill(watchdog, signal.SIGSTOP)  # else it may notice that the owner has ended, before it is killed
    owner.kill()
    owner.wait()
    if not watchdog_too:
        assert eventually(lambda: everything(real_docker) == [], 30)
        return
    os.kill(watchdog, signal.SIGKILL)
    time.sleep(0.5)
    assert containers.status(name) == "running"
    said = subprocess.run(
        [sys.executable, "-m", "shared.launch", "down"], capture_output=True, text=True, cwd=paths.REPO
    )
    assert said.stdout.startswith(f"removed the container {name}"), said.stderr
    assert everything(real_docker) == []


def test_below_the_memory_floor_the_container_is_removed(real_docker: Daemon, spark_model: ModelChoice) -> None:
    engine = start(spark_model)
    threading.Timer(0.5, reading, [memory.MEMINFO, 7.5]).start()
    assert eventually(lambda: not engine.alive, 30)
    assert engine.process.exit_code() == 77
    assert everything(real_docker) == []


def test_make_verify_spark(
    real_docker: Daemon,
    spark: Machine,
    spark_model: ModelChoice,
    model: ModelChoice,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verified, "LEDGERS", tmp_path / "verified")
    for module, name, file in ((verify_spark, "README", paths.REPO / "README.md"), (compose, "FILE", compose.FILE)):
        shutil.copy(file, tmp_path / file.name)
        monkeypatch.setattr(module, name, tmp_path / file.name)
    monkeypatch.setattr(verify_spark, "detect", lambda: spark)
    monkeypatch.setattr(verify_spark, "FLAGS", {"llamacpp": FLAGS})
    monkeypatch.setattr(models, "choose", lambda _: replace(spark_model, drafts={}, system=model.system))
    monkeypatch.setattr(verify_spark, "KNOWN", (("What is gravity?", "fundamental"), ("What is a rainbow?", "light")))
    assert verify_spark.main(["llamacpp"]) == 0, capsys.readouterr().out
    assert everything(real_docker) == []


@pytest.fixture
def registry(real_docker: Daemon) -> Iterator[Registry]:
    with docker_daemon.registry(real_docker) as registry:
        yield registry


def test_a_real_pull(
    real_docker: Daemon, registry: Registry, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the manifest to an image that `docker image prune` keeps, and back to none."""
    repository = f"{registry.address}/labs/some"
    docker = real_docker.docker
    real_docker.import_image(f"{repository}:amd64", Path("/bin/sleep"))
    docker("push", f"{repository}:amd64")
    docker("rmi", f"{repository}:amd64")
    digest = registry.index("labs/some", "v1", amd64="amd64")
    image = Image("some", repository, "v1", digest, 8080)
    for other, fault in (
        (replace(image, tag="v2", digest=""), "there is no such image or tag"),
        (replace(image, digest="sha256:" + "0" * 64), "the registry has no image with this digest"),
    ):
        with pytest.raises(LabError, match=fault) as error:
            ensure(other, "x86_64", quiet=True)
        assert len(str(error.value)) < 1000
        with pytest.raises(LabError, match=fault):
            containers.pull(other, 1, quiet=True)
    with pytest.raises(LabError, match=r"has no version for arm64 \(it has: amd64\)"):
        ensure(image, "aarch64")
    assert not present(image)
    ensure(image, "x86_64", quiet=True)
    assert present(image)
    assert containers.digest(image) == digest
    docker("image", "prune", "--force")
    assert present(image)
    docker("rmi", f"{repository}:v1")
    containers.pull(image, 1, quiet=True)
    docker("image", "prune", "--force")
    assert not present(image)  # which is why `ensure` tags it
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    with pytest.raises(LabError, match="the docker daemon is not running"):
        ensure(image, "x86_64")
