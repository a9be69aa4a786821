"""A real Docker daemon for the tests of this folder, where one can be started."""

from collections.abc import Iterator

import pytest

from shared import launch, paths
from shared.hardware.gpu import find_docker
from shared.launch.containers import images
from tests.helpers import docker_daemon
from tests.helpers.docker_daemon import CannotStart, Daemon

SERVER = (paths.cache() / "engines" / "llamacpp" / "bin" / "llama-server").resolve()


@pytest.fixture(scope="package")
def daemon() -> Iterator[Daemon]:
    """It has the image of llama.cpp, made of this machine's build for processors."""
    try:
        with docker_daemon.start() as daemon:
            image = images()["llamacpp"]
            daemon.import_image(f"{image.image}:{image.tag}", SERVER)
            yield daemon
    except CannotStart as e:
        pytest.skip(f"no real Docker daemon here, so containers are tested with the stand-in alone: {e}")


@pytest.fixture
def real_docker(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """`docker` is the daemon's, and no container is left at the end."""
    monkeypatch.setenv("PATH", str(daemon.bin), prepend=":")
    monkeypatch.setenv("DOCKER_HOST", daemon.host)
    find_docker.cache_clear()
    yield daemon
    launch.stop_all()
    find_docker.cache_clear()
    left = daemon.docker("ps", "--all", "--quiet", "--no-trunc").split()
    if left:
        daemon.docker("rm", "--force", *left)
    assert left == []
