"""What docker does, asked of the stand-in and of a real daemon, so that the stand-in is as strict as the daemon."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from shared.launch.containers import images
from tests.helpers.processes import eventually

LLAMACPP = images()["llamacpp"].reference
NAME, LABEL = "labs-behaviour", "labs-behaviour=1"


@pytest.fixture(params=["stand-in", pytest.param("daemon", marks=pytest.mark.engine)], autouse=True)
def either(request: pytest.FixtureRequest) -> Iterator[None]:
    """`docker` is the stand-in's or the daemon's. Both have llama.cpp's image."""
    if request.param == "stand-in":
        request.getfixturevalue("docker").says(present=[LLAMACPP])
    else:
        request.getfixturevalue("real_docker")
    yield
    docker("rm", "--force", NAME)


def docker(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors."""
    answer = subprocess.run(["docker", *words], capture_output=True, text=True)
    return answer.returncode, answer.stdout.strip(), answer.stderr.strip()


def run(*inside: str, name: str = NAME, image: str = LLAMACPP) -> "subprocess.Popen[str]":
    """An attached `docker run`."""
    options = ["--rm", "--pull", "never", "--name", name, "--label", LABEL, "--entrypoint", inside[0]]
    command = ["docker", "run", *options, image, *inside[1:]]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def running() -> "subprocess.Popen[str]":
    """A container that runs for a while."""
    client = run("/bin/sleep", "60")
    assert eventually(lambda: state() == "running", 20)
    return client


def state() -> str:
    return docker("container", "inspect", "--format", "{{.State.Status}}", NAME)[1]


def test_pausing_twice_and_resuming_twice_are_errors() -> None:
    client = running()
    code, _, error = docker("unpause", NAME)
    assert (code, bool(re.search("is not paused", error))) == (1, True)
    assert docker("pause", NAME)[:2] == (0, NAME)
    assert state() == "paused"
    code, _, error = docker("pause", NAME)
    assert (code, bool(re.search("is already paused", error))) == (1, True)
    assert docker("unpause", NAME)[:2] == (0, NAME)
    assert docker("rm", "--force", "--volumes", NAME)[:2] == (0, NAME)
    assert client.wait(30) == 137
    for words in (["pause"], ["unpause"], ["container", "inspect", "--format", "{{.State.Pid}}"]):
        code, _, error = docker(*words, NAME)
        assert (code, error) == (1, f"Error response from daemon: No such container: {NAME}")


def test_removing_by_force_what_is_not_there_is_no_error() -> None:
    code, out, error = docker("rm", "--force", "--volumes", NAME)
    assert (code, out) == (0, "")
    assert "No such container" in error


def test_a_container_is_found_by_its_label_and_removed_by_its_id() -> None:
    client = running()
    assert docker("ps", "--all", "--filter", "label=labs-behaviour", "--format", "{{.Names}}")[:2] == (0, NAME)
    assert docker("ps", "--all", "--quiet", "--no-trunc", "--filter", "label=labs-behaviour=2")[:2] == (0, "")
    _, number, _ = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL}")
    assert re.fullmatch("[0-9a-f]{64}", number)
    assert int(docker("container", "inspect", "--format", "{{.State.Pid}}", NAME)[1]) > 1
    assert docker("rm", "--force", "--volumes", number)[:2] == (0, number)
    assert client.wait(30) == 137


def test_a_name_is_used_once() -> None:
    running()
    second = run("/bin/sleep", "60")
    _, error = second.communicate(timeout=20)
    assert second.returncode == 125
    assert f'Conflict. The container name "/{NAME}" is already in use' in error
    assert state() == "running"


def test_the_client_returns_what_the_container_prints_and_its_exit_code() -> None:
    client = run("/bin/sh", "-c", "echo some words; exit 3")
    out, _ = client.communicate(timeout=20)
    assert (client.returncode, out) == (3, "some words\n")
    assert eventually(lambda: state() == "", 20)


def test_the_client_passes_sigterm_on_and_a_killed_one_leaves_its_container() -> None:
    client = run("/bin/sh", "-c", "trap 'exit 7' TERM; echo trapped; while :; do sleep 0.05; done")
    assert client.stdout
    assert client.stdout.readline() == "trapped\n"
    client.terminate()
    assert client.wait(30) == 7
    client = running()
    client.send_signal(signal.SIGKILL)
    client.wait()
    time.sleep(0.3)
    assert state() == "running"


def test_an_image_that_is_not_here() -> None:
    code, _, error = docker("image", "inspect", "--format", "{{.Id}}", "labs/none:1")
    assert code == 1
    assert "No such image: labs/none:1" in error
    client = run("/bin/sleep", "1", image="labs/none:1")
    _, error = client.communicate(timeout=20)
    assert client.returncode == 125
    assert "docker: Error response from daemon: No such image: labs/none:1" in error
    assert docker("image", "inspect", "--format", "{{json .RepoTags}}", LLAMACPP)[:2] == (0, f'["{LLAMACPP}"]')
