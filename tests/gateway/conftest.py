"""Engines that do what a request asks of them, and gateways in front of them that all tests of this folder share."""

from collections.abc import Iterator

import pytest

from tests.helpers.gateway import MANY, SHORT, Gateway, running
from tests.helpers.truth import TruthEngine


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("one") / "log") as engine:
        yield engine


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TruthEngine]:
    with TruthEngine.start(tmp_path_factory.mktemp("two") / "log") as engine:
        yield engine


@pytest.fixture(scope="session")
def single(one: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with one engine."""
    with running(tmp_path_factory.mktemp("single"), {"one": one.url}, seats=64, **SHORT, **MANY) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def pair(one: TruthEngine, two: TruthEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two engines, of which it asks `one` first as long as both are idle."""
    engines = {"one": one.url, "two": two.url}
    with running(tmp_path_factory.mktemp("pair"), engines, **SHORT, **MANY) as gateway:
        yield gateway
