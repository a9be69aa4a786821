"""Engines in containers: the image, whether it suits this machine, its pull, and the `docker run` that starts it.

Everything goes through the `docker` command line, so that each command can be read and typed again. `docker run` stays
attached (no --detach), so that the engine's output is in its log and its exit code is known. The watchdog removes the
container when its owner ends.

No command was run on a DGX Spark: see `make verify-spark`.
"""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from shared import files, paths, proxies
from shared.engines.spec import Container, EngineSpec, LaunchPlan
from shared.errors import LabError
from shared.hardware import symptoms
from shared.models.hub import INSIDE as HUB_INSIDE

IMAGES = paths.REPO / "environment" / "containers" / "images.toml"
LABEL = "inference-engine-labs"
NOT_THERE = re.compile(r"no such (image|object|container)", re.I)
FILES_INSIDE = "/labs"
REMOVED_WITHIN_S = 10
UNPACKED = 3  # disk space for the pull and unpacking of an image, as a multiple of its download


@dataclass(frozen=True)
class Image:
    """One row of images.toml."""

    name: str
    image: str
    tag: str
    digest: str  # "" if unknown: then the tag decides
    port: int  # on which the engine listens inside the container

    @property
    def reference(self) -> str:
        """The image's name for docker, pinned by its digest if that is known."""
        return f"{self.image}:{self.tag}" + (f"@{self.digest}" if self.digest else "")


@functools.cache
def images() -> Mapping[str, Image]:
    """Every image of images.toml, by its name."""
    rows = tomllib.loads(IMAGES.read_text())
    return {
        name: Image(name, row["image"], row["tag"], row.get("digest", ""), row.get("port", 0))
        for name, row in rows.items()
    }


def refused(what: str, output: str) -> LabError:
    """The error of a docker command that failed: the line of its output that matters, its cause and fix if known."""
    known = symptoms.recognised(output.splitlines(), "spark", "docker")
    lines = [line for line in output.splitlines() if line.strip() and "--help" not in line]
    line = known[0][1] if known else next(reversed(lines), "")
    printed = f"printed: {symptoms.shown(line.strip())}" if line else "printed nothing."
    cause, fix = (f": {known[0][0].cause}", known[0][0].fix) if known else ("", "make doctor")
    return LabError(f"docker could not {what}{cause}. It {printed}", fix)


def docker(*arguments: str, what: str, timeout_s: float = 30) -> str:
    """Run a docker command and return its output. Raises LabError, with docker's message, if it fails or hangs."""
    answer = run(*arguments, what=what, timeout_s=timeout_s)
    if answer.returncode:
        raise refused(what, answer.stderr or answer.stdout)
    return answer.stdout


def inspected(kind: str, name: str, template: str) -> str | None:
    """What `docker <kind> inspect` prints of an image or a container; None if there is none of that name.

    Raises LabError if docker can't know, as when its daemon is down.
    """
    what = f"inspect {name}"
    answer = run(kind, "inspect", "--format", template, name, what=what)
    if answer.returncode == 0:
        return answer.stdout.strip()
    if NOT_THERE.search(answer.stderr):
        return None
    raise refused(what, answer.stderr or answer.stdout)


def run(*arguments: str, what: str, timeout_s: float = 30) -> "subprocess.CompletedProcess[str]":
    """Run a docker command that may fail. Raises LabError if docker is not installed or hangs."""
    try:
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        raise LabError(f"docker could not {what}: it is not on the PATH.", "make doctor") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"docker did not {what} within {timeout_s:.0f} s.", "sudo systemctl restart docker") from None


def name_for(spec: EngineSpec, port: int) -> str:
    """The name of this engine's container. The port keeps two containers of one engine apart."""
    return f"{LABEL}-{spec.name}-{port}"


def new_label() -> str:
    """A label for one launch: the container that has it was created by this launch, whatever its name."""
    return f"{LABEL}={os.getpid()}-{time.monotonic_ns()}"


def present(image: Image) -> bool:
    """Whether the image is already on this machine. Raises LabError if docker can't know."""
    return inspected("image", image.reference, "{{.Id}}") is not None


def ensure(image: Image, architecture: str, quiet: bool = False) -> None:
    """Pull the image if it is missing. Raises LabError before the pull if it doesn't suit the processor or the disk."""
    if present(image):
        tag(image)
        return
    size = check_manifest(image, architecture)
    folder = Path(docker("info", "--format", "{{.DockerRootDir}}", what="find its image folder").strip())
    root = files.nearest(folder)  # this user may not see the folder itself
    free, need = shutil.disk_usage(root).free, UNPACKED * size
    if free < need:
        raise LabError(
            f"{image.reference} is a download of {size / 2**30:.1f} GiB and needs about {need / 2**30:.0f} GiB while "
            f"it is unpacked, but only {free / 2**30:.0f} GiB are free in {root}.",
            "docker image prune, which removes images without a tag, or free some space",
        )
    pull(image, size, quiet)
    tag(image)


def tag(image: Image) -> None:
    """Tag an image that was pulled by its digest. Without a tag, `docker image prune` would remove it."""
    name = f"{image.image}:{image.tag}"
    if image.digest and name not in json.loads(inspected("image", image.reference, "{{json .RepoTags}}") or "[]"):
        docker("tag", image.reference, name, what=f"tag {image.reference}")


def check_manifest(image: Image, architecture: str) -> int:
    """The bytes to download for this processor. Raises LabError if the image has no version for it."""
    wanted = {"aarch64": "arm64", "x86_64": "amd64"}.get(architecture, architecture)
    text = docker("manifest", "inspect", "--verbose", image.reference, what=f"find {image.reference}", timeout_s=120)
    found = json.loads(text)
    made_for: dict[str, int] = {}
    for one in found if isinstance(found, list) else [found]:
        manifest = one.get("OCIManifest") or one.get("SchemaV2Manifest") or {}
        platform = one["Descriptor"].get("platform", {}).get("architecture", "unknown")
        made_for[platform] = sum(layer["size"] for layer in manifest.get("layers", []))
    if wanted not in made_for:
        there = ", ".join(name for name in made_for if name != "unknown")
        raise LabError(
            f"The image {image.reference} has no version for {wanted} (it has: {there or 'none that is named'}).",
            "choose another image in environment/containers/images.toml",
        )
    return made_for[wanted]


def pull(image: Image, size: int, quiet: bool) -> None:
    """Pull the image, and show the finished layers. Ctrl-C ends the pull, and finished layers are kept."""
    title = f"pulling {image.image}:{image.tag} ({size / 2**30:.1f} GiB)"
    printed: deque[str] = deque(maxlen=50)  # the last lines
    layers, done = set(), set()
    process = subprocess.Popen(
        ["docker", "pull", image.reference],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout
    try:
        with tqdm(
            total=0, desc=title, unit="layer", leave=False, file=sys.stdout, disable=quiet, mininterval=1, miniters=0
        ) as line:
            for row in process.stdout:
                printed.append(row)
                layer, _, state = row.strip().partition(": ")
                if state in ("Pulling fs layer", "Already exists", "Waiting", "Downloading"):
                    layers.add(layer)
                if state in ("Pull complete", "Already exists"):
                    done.add(layer)
                line.total = len(layers)
                line.update(len(done) - line.n)
        if process.wait():
            raise refused(f"pull {image.reference}", "".join(printed))
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def run_command(
    spec: EngineSpec,
    plan: LaunchPlan,
    flags: Sequence[str],
    *,
    name: str,
    label: str,
    port: int,
    hub: Path,
    gpu: Sequence[str],
) -> list[str]:
    """The `docker run` command of one engine, on 127.0.0.1:`port`, with all GPUs and the hub's cache.

    It has `--ipc=host`, because the engine's processes, and NCCL, share memory. It has no restart policy, because a
    crash loop on a Spark leaked memory until the machine died. It has no --memory, which ignores CUDA's allocations.
    """
    way, image = spec.container, images()[spec.container.image]
    settings = {**proxies.IN_CONTAINERS, **way.env(plan)}
    if spec.flags_in == "environment":
        settings |= {key: str(value) for key, value in plan.flags.items()}
    # The cache keeps compiled kernels for the next start. One owner's first start of SGLang took ten minutes.
    mounts = [f"{LABEL}-{spec.name}-cache:/root/.cache", f"{hub}:{HUB_INSIDE}"]
    if spec.prepare:  # the engine keeps a copy of the weights
        mounts.append(f"{LABEL}-{spec.name}:/root/.{spec.name}")
    if way.files(plan):
        mounts.append(f"{plan.home}:{FILES_INSIDE}:ro")
    options = ["--rm", "--pull", "never", "--name", name, "--label", label, *gpu, "--ipc=host"]
    options += ["--ulimit", "memlock=-1", "--ulimit", "stack=67108864"]
    options += ["--publish", f"127.0.0.1:{port}:{image.port}"]
    options += [word for mount in mounts for word in ("--volume", mount)]
    # The token is passed by name, without its value, so that no command line, log or result contains it.
    options += ["--env", "HF_TOKEN", "--env", f"HF_HOME={HUB_INSIDE}"]
    options += [word for key, value in settings.items() for word in ("--env", f"{key}={value}")]
    return ["docker", "run", *options, image.reference, *way.arguments(plan), *flags]


def write_files(way: Container, plan: LaunchPlan) -> None:
    """Write the files that the engine reads from /labs."""
    for name, text in way.files(plan).items():
        plan.home.mkdir(parents=True, exist_ok=True)
        (plan.home / name).write_text(text)


def pause(name: str) -> None:
    """Pause a container. One that is paused, or has ended, stays as it is, as a process does at SIGSTOP."""
    if not command_works("pause", name) and status(name) == "running":
        docker("pause", name, what=f"pause {name}")


def resume(name: str) -> None:
    """Resume a container. One that runs, or has ended, stays as it is, as a process does at SIGCONT."""
    if not command_works("unpause", name) and status(name) == "paused":
        docker("unpause", name, what=f"resume {name}")


def command_works(*arguments: str) -> bool:
    return run(*arguments, what=" ".join(arguments)).returncode == 0


def status(name: str) -> str | None:
    """The state of a container in docker's word, such as "running" or "paused"; None if there is no such container."""
    return inspected("container", name, "{{.State.Status}}")


def pid(name: str) -> int | None:
    """The id of the container's first process on this machine, or None if there is no such container."""
    return int(inspected("container", name, "{{.State.Pid}}") or 0) or None


def left() -> list[str]:
    """Names of the labs' containers, running or not. Empty if docker is not available."""
    try:
        return docker(
            "ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}", what="list containers"
        ).split()
    except LabError:
        return []


def remove(name: str) -> None:
    """Remove a container. Returns when it is gone, also if docker was removing it already (--rm, after its end)."""
    began = time.monotonic()
    while (answer := run("rm", "--force", "--volumes", name, what=f"remove {name}", timeout_s=60)).returncode:
        if status(name) is None:
            return
        if time.monotonic() - began > REMOVED_WITHIN_S:
            raise refused(f"remove {name}", answer.stderr)
        time.sleep(0.1)


def digest(image: Image) -> str:
    """The registry's digest of the local image, for provenance, or the image's own id if it has no digest."""
    text = docker("image", "inspect", "--format", "{{json .}}", image.reference, what=f"inspect {image.reference}")
    row = json.loads(text)
    # One local image may come from several registries, each with a digest of its own.
    digests = [one.partition("@") for one in row.get("RepoDigests") or []]
    return str(next((value for name, _, value in digests if name == image.image), row["Id"]))
