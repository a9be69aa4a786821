"""Containers when something goes wrong, against a stand-in docker that is as strict as the daemon.

tests/launch/test_docker_daemon.py does the same with a real daemon where one can be started.
"""

import os
import subprocess
import sys
import time

import pytest

from shared import LabError, launch
from shared.hardware import Machine, symptoms
from shared.launch import containers, launcher, reuse
from shared.launch.containers import ensure, images, present
from shared.launch.running import Engine
from shared.models import ModelChoice
from shared.processes import free_port
from tests.helpers.container_owner import OWNER
from tests.helpers.fake_spark import FLAGS, INSIDE
from tests.helpers.processes import START_S, eventually
from tests.helpers.standin_docker import Docker

pytestmark = pytest.mark.usefixtures("nothing_left")
DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def start(model: ModelChoice, name: str = "vllm", port: int | None = None, **more: object) -> Engine:
    return launch.launch(name, model, {**FLAGS[name], **more}, timeout_s=60, port=port)


def test_pausing_and_resuming_twice_are_no_errors(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    """docker refuses both. A process may be stopped and continued as often as one likes, and so may an engine."""
    engine = start(spark_model)
    for twice in (engine.resume, engine.pause, engine.pause):
        twice()
    assert containers.status(engine.container) == "paused"
    for twice in (engine.resume, engine.resume):
        twice()
    assert containers.status(engine.container) == "running"
    on_a_spark.says(refuses=DOWN)
    for command in (engine.pause, engine.resume):
        with pytest.raises(LabError, match="daemon is not running"):
            command()
    on_a_spark.says(refuses="")


def test_a_kept_container_is_taken_over_by_the_next_notebook(
    on_a_spark: Docker,
    spark: Machine,
    spark_model: ModelChoice,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LABS_ENGINES_OF", str(os.getpid()))
    monkeypatch.setattr(reuse, "detect", lambda: spark)

    def next_notebook(**flags: object) -> Engine:
        launcher._running.clear()
        return start(spark_model, "llamacpp", **flags)

    first = next_notebook()
    first.stop()  # the container goes on
    assert next_notebook().container == first.container
    assert "An earlier notebook started it." in capsys.readouterr().out
    other = next_notebook(**{"-c": 16384})
    assert containers.status(first.container) == "paused"
    assert next_notebook(**{"-c": 16384}).container == other.container  # the first is paused already
    assert next_notebook().container == first.container
    assert [containers.status(one.container) for one in (first, other)] == ["running", "paused"]
    launcher._running.clear()
    assert launch.down(os.getpid()) == 2
    assert on_a_spark.containers() == []


@pytest.mark.parametrize("fault", ["gone", "daemon down"])
def test_a_container_that_can_not_be_resumed_hides_no_error_and_keeps_no_other_paused(
    on_a_spark: Docker, spark_model: ModelChoice, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    gone, other = start(spark_model, "vllm"), start(spark_model, "sglang")
    real = containers.resume
    with pytest.raises(ZeroDivisionError), pytest.MonkeyPatch.context() as patch, launcher.alone(None):  # noqa: PT012
        assert containers.status(other.container) == "paused"
        if fault == "gone":
            subprocess.run(["docker", "rm", "--force", gone.container], check=True, capture_output=True)
        else:

            def resume(name: str) -> None:
                if name == gone.container:
                    raise LabError("docker could not resume it", "start the daemon")
                real(name)

            patch.setattr(containers, "resume", resume)
        _ = 1 / 0
    assert containers.status(other.container) == "running"
    assert ("vLLM is still paused: docker could not resume it" in capsys.readouterr().out) == (fault != "gone")


@pytest.mark.parametrize("create_s", [0, 0.4, 0.8])
def test_a_kernel_killed_while_its_container_is_created_leaves_none(on_a_spark: Docker, create_s: float) -> None:
    """The daemon finishes what it has begun, so the container appears after its owner has ended."""
    on_a_spark.says(present=[images()["sglang"].reference], create_s=create_s)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, "sglang", str(free_port()), "/weights"], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout
    watchdog = int(owner.stdout.readline())
    assert eventually(lambda: any(words[0] == "run" for words in on_a_spark.asked()), START_S)
    owner.kill()
    owner.wait()
    assert eventually(lambda: not os.path.exists(f"/proc/{watchdog}"), 30)
    time.sleep(1)
    assert on_a_spark.containers() == []


def test_a_removal_in_progress_is_waited_for(
    on_a_spark: Docker, spark_model: ModelChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docker removes a container after its end by itself (--rm), and refuses to do it twice."""
    name = start(spark_model).container
    on_a_spark.says(removing=2)
    containers.remove(name)
    assert on_a_spark.containers() == []
    containers.remove(name)  # it has gone already
    on_a_spark.run_foreign(name)
    on_a_spark.says(removing=10**6)
    monkeypatch.setattr(containers, "REMOVED_WITHIN_S", 0.5)
    with pytest.raises(LabError, match="is already in progress"):
        containers.remove(name)
    on_a_spark.says(removing=0)


def test_a_foreign_container_of_the_same_name_is_left_alone(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    port = free_port()
    name = containers.name_for(launcher.ENGINES["vllm"], port)
    on_a_spark.run_foreign(name)
    with pytest.raises(LabError, match=r"a container of that name already exists → make down, or leave `port` out"):
        start(spark_model, port=port)
    assert on_a_spark.containers() == [name]
    launch.down()
    assert on_a_spark.containers() == [name]


def test_cleaning_the_disk_up_keeps_our_images(on_a_spark: Docker) -> None:
    """An image that was pulled by its digest has no tag, and `docker image prune` takes it for left over."""
    image = images()["vllm"]
    ensure(image, "aarch64", quiet=True)
    subprocess.run(["docker", "image", "prune", "--force"], check=True)
    assert present(image)
    on_a_spark.says(present=[image.reference])  # pulled by an earlier version of the labs
    ensure(image, "aarch64", quiet=True)
    subprocess.run(["docker", "image", "prune", "--force"], check=True)
    assert present(image)
    advice = [row.fix for row in symptoms.rows("docker", "spark", "engine")]
    assert not [fix for fix in advice if "system prune" in fix or "prune -a" in fix]


def test_a_daemon_that_is_down_is_not_taken_for_a_missing_image(on_a_spark: Docker, spark_model: ModelChoice) -> None:
    on_a_spark.says(present=[images()["vllm"].reference], refuses=DOWN, manifest_fails="dial tcp: no such host")
    with pytest.raises(LabError, match=r"the docker daemon is not running.*\nFix: sudo systemctl start docker"):
        start(spark_model)
    assert not [words for words in on_a_spark.asked() if words[0] in ("manifest", "pull")]
    with pytest.raises(LabError, match="daemon is not running"):
        containers.pid("inference-engine-labs-vllm-1")  # not: there is none


# What docker 28 and 20.10 print, and the registry behind them (tests/launch/test_docker_daemon.py provokes the first
# five). docker puts the reason at the end of a line that can be very long.
RLIMIT = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    "error during container init: error setting rlimits for ready process: error setting rlimit type 8: operation not "
    "permitted: unknown"
)
NO_DIGEST = (
    "manifest for vllm/vllm-openai@sha256:" + "0" * 64 + " not found: manifest unknown: manifest unknown",
    "unsupported manifest format: &{{{2 application/vnd.docker.distribution.manifest.v2+json} " + "123 10 " * 900,
    "manifest verification failed for digest sha256:" + "0" * 64,
    "filesystem layer verification failed for digest sha256:" + "0" * 64,
)
NO_CDI = (
    'could not select device driver "cdi" with capabilities: []',
    "CDI device injection failed: unresolvable CDI devices nvidia.com/gpu=all",
    'error gathering device information while adding custom device "nvidia.com/gpu=all": no such file or directory',
    "nvidia.com/gpu=all is not an absolute path",
)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("no such manifest: docker.io/vllm/vllm-openai:v0.31", "there is no such image or tag"),
        *((line, "the registry has no image with this digest") for line in NO_DIGEST),
    ],
)
def test_a_registry_that_lacks_the_image_is_told(docker: Docker, said: str, cause: str) -> None:
    for fails in (
        {"manifest_fails": said},
        {"manifest_fails": "", "pull_fails": f"Error response from daemon: {said}"},
    ):
        docker.says(**fails)
        with pytest.raises(LabError, match=rf"docker could not .*: {cause}.* It printed: .*\nFix: .*images\.toml") as e:
            ensure(images()["vllm"], "aarch64", quiet=True)
        assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (RLIMIT, "docker may not raise a limit"),
        *((line, "docker does not know the GPU as a CDI device") for line in NO_CDI),
    ],
)
def test_what_docker_may_not_do_is_told_with_dockers_reason(
    on_a_spark: Docker, spark_model: ModelChoice, said: str, cause: str
) -> None:
    on_a_spark.says(run_fails=said, inside=INSIDE)
    with pytest.raises(LabError) as error:
        start(spark_model)
    last_lines, causes = str(error.value).split("Likeliest causes:")
    assert said[-60:] in last_lines
    assert cause in causes
    assert said[-60:] in causes
