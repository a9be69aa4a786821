"""Tests never write where a student's results are: LABS_RESULTS points elsewhere for all of them."""

from pathlib import Path

import machines
import pytest

from shared import hardware, models
from shared.hardware import Machine
from shared.models import ModelChoice


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


@pytest.fixture(scope="session")
def model(machine: Machine) -> ModelChoice:
    """The real small model, as `make engines` left it in the cache."""
    return models.choose(machine)
