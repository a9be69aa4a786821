"""Tests never write where a student's results are: LABS_RESULTS points elsewhere for all of them."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared import hardware, launch, models
from shared.hardware import Machine
from shared.launch import launcher, memory
from shared.models import ModelChoice, hub
from tests import machines
from tests.helpers import standin_docker
from tests.helpers.fake_spark import INSIDE, reading
from tests.helpers.standin_docker import Docker


@pytest.fixture(autouse=True)
def own_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty results folder for each test."""
    folder = tmp_path / "results"
    monkeypatch.setenv("LABS_RESULTS", str(folder))
    return folder


@pytest.fixture(scope="session")
def machine() -> Machine:
    return hardware.detect()


@pytest.fixture
def spark() -> Machine:
    """The recorded DGX Spark."""
    return hardware.detect(machines.machine("dgx-spark"))


@pytest.fixture
def spark_model(spark: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModelChoice:
    """What that Spark runs, for a student without an account."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "huggingface"))
    return models.choose(spark)


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    folder = Path("/tmp") / f"standin-{os.getpid()}-{time.monotonic_ns()}"  # a socket's path must be short
    with standin_docker.daemon(folder, monkeypatch) as docker:
        docker.says(inside=INSIDE)
        yield docker
        launch.stop_all()  # while the daemon answers: without it, a watchdog asks for its containers for 15 seconds
    shutil.rmtree(folder)


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """End every engine that the test started."""
    yield
    launch.stop_all()


@pytest.fixture
def as_a_spark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, spark: Machine) -> Path:
    """As if this were a Spark: its machine, its memory, its weights in the hub's cache, no other program on the GPU.

    Returns the folder of the weights.
    """
    meminfo = tmp_path / "meminfo"
    reading(meminfo, 110)
    home = tmp_path / "huggingface"
    weights = home / "hub" / "models--someone--weights" / "snapshots" / "c0ffee"
    weights.mkdir(parents=True)
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setenv("LABS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    monkeypatch.setattr(memory, "gpu_holders", dict)
    monkeypatch.setattr(launcher, "detect", lambda: spark)
    monkeypatch.setattr(hub, "fetch", lambda source: weights / source.file)
    return weights


@pytest.fixture
def on_a_spark(monkeypatch: pytest.MonkeyPatch, as_a_spark: Path, docker: Docker) -> Docker:
    """As if this were a Spark, whose docker is the stand-in."""
    monkeypatch.setattr(launcher, "docker_gpu_arguments", lambda: ("--gpus", "all"))
    return docker


@pytest.fixture(scope="session")
def model(machine: Machine) -> ModelChoice:
    """The real small model, as `make engines` left it in the cache."""
    return models.choose(machine)
