"""Engines in containers: the image, whether it suits this machine, its pull, and the `docker run` that starts it.

Everything goes through the `docker` command line, so that each command can be read and typed again. `docker run` stays
attached (no --detach), so that the engine's output is in its log and its exit code is known. The watchdog removes the
container when its owner ends.

No command was run on a DGX Spark: see `make verify-spark`.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from shared import paths
from shared.engines.spec import Container, EngineSpec, LaunchPlan
from shared.errors import LabError
from shared.hardware import symptoms

IMAGES = paths.REPO / "environment" / "containers" / "images.toml"
LABEL = "inference-engine-labs"
HUB_INSIDE = "/root/.cache/huggingface"
FILES_INSIDE = "/labs"
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
    """The error of a docker command that failed: the last line of its output, and the cause and fix if known."""
    printed = f"printed: {output.strip().splitlines()[-1][:300]}" if output.strip() else "printed nothing."
    known = symptoms.recognised(output.splitlines(), "spark", "docker")
    cause, fix = (f": {known[0][0].cause}", known[0][0].fix) if known else ("", "make doctor")
    return LabError(f"docker could not {what}{cause}. It {printed}", fix)


def docker(*arguments: str, what: str, timeout_s: float = 30) -> str:
    """Run a docker command and return its output. Raises LabError, with docker's message, if it fails or hangs."""
    try:
        answer = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout_s)
    except FileNotFoundError:
        raise LabError(f"docker could not {what}: it is not on the PATH.", "make doctor") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"docker did not {what} within {timeout_s:.0f} s.", "sudo systemctl restart docker") from None
    if answer.returncode:
        raise refused(what, answer.stderr or answer.stdout)
    return answer.stdout


def name_for(spec: EngineSpec, port: int) -> str:
    """The name of this engine's container. The port keeps two containers of one engine apart."""
    return f"{LABEL}-{spec.name}-{port}"


def present(image: Image) -> bool:
    """Whether the image is already on this machine."""
    try:
        return (
            subprocess.run(["docker", "image", "inspect", image.reference], capture_output=True, timeout=30).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def ensure(image: Image, architecture: str, quiet: bool = False) -> None:
    """Pull the image if it is missing. Raises LabError before the pull if it doesn't suit the processor or the disk."""
    if present(image):
        return
    size = check_manifest(image, architecture)
    root = Path(docker("info", "--format", "{{.DockerRootDir}}", what="find its image folder").strip())
    while not root.exists():  # this user may not see it
        root = root.parent
    free, need = shutil.disk_usage(root).free, UNPACKED * size
    if free < need:
        raise LabError(
            f"{image.reference} is a download of {size / 2**30:.1f} GiB and needs about {need / 2**30:.0f} GiB while "
            f"it is unpacked, but only {free / 2**30:.0f} GiB are free in {root}.",
            "docker system prune, or free some space",
        )
    pull(image, size, quiet)


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
    printed, layers, done = "", set(), set()
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
                printed = (printed + row)[-4000:]
                layer, _, state = row.strip().partition(": ")
                if state in ("Pulling fs layer", "Already exists", "Waiting", "Downloading"):
                    layers.add(layer)
                if state in ("Pull complete", "Already exists"):
                    done.add(layer)
                line.total = len(layers)
                line.update(len(done) - line.n)
        if process.wait():
            raise refused(f"pull {image.reference}", printed)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def run_command(
    spec: EngineSpec, plan: LaunchPlan, flags: Sequence[str], *, name: str, port: int, hub: Path, gpu: Sequence[str]
) -> list[str]:
    """The `docker run` command of one engine, on 127.0.0.1:`port`, with all GPUs and the hub's cache.

    It has `--ipc=host`, because the engine's processes, and NCCL, share memory. It has no restart policy, because a
    crash loop on a Spark leaked memory until the machine died. It has no --memory, which ignores CUDA's allocations.
    """
    way, image = spec.container, images()[spec.container.image]
    settings = dict(way.env(plan))
    if spec.flags_in == "environment":
        settings |= {key: str(value) for key, value in plan.flags.items()}
    # The cache keeps compiled kernels for the next start. One owner's first start of SGLang took ten minutes.
    mounts = [f"{LABEL}-{spec.name}-cache:/root/.cache", f"{hub}:{HUB_INSIDE}"]
    if spec.prepare:  # the engine keeps a copy of the weights
        mounts.append(f"{LABEL}-{spec.name}:/root/.{spec.name}")
    if way.files(plan):
        mounts.append(f"{plan.home}:{FILES_INSIDE}:ro")
    return [
        "docker",
        "run",
        "--rm",
        "--pull",
        "never",
        "--name",
        name,
        "--label",
        f"{LABEL}={os.getpid()}",
        *gpu,
        "--ipc=host",
        "--ulimit",
        "memlock=-1",
        "--ulimit",
        "stack=67108864",
        "--publish",
        f"127.0.0.1:{port}:{image.port}",
        *(word for mount in mounts for word in ("--volume", mount)),
        # The token is passed by name, without its value, so that no command line, log or result contains it.
        "--env",
        "HF_TOKEN",
        "--env",
        f"HF_HOME={HUB_INSIDE}",
        *(word for key, value in settings.items() for word in ("--env", f"{key}={value}")),
        image.reference,
        *way.arguments(plan),
        *flags,
    ]


def write_files(way: Container, plan: LaunchPlan) -> None:
    """Write the files that the engine reads from /labs."""
    for name, text in way.files(plan).items():
        plan.home.mkdir(parents=True, exist_ok=True)
        (plan.home / name).write_text(text)


def removal(name: str) -> list[str]:
    """The command that ends and removes a container, whatever its state."""
    return ["docker", "rm", "--force", "--volumes", name]


def pause(name: str) -> None:
    docker("pause", name, what=f"pause {name}")


def resume(name: str) -> None:
    docker("unpause", name, what=f"resume {name}")


def pid(name: str) -> int | None:
    """The id of the container's first process on this machine, or None if there is no such container."""
    try:
        return int(docker("inspect", "--format", "{{.State.Pid}}", name, what=f"inspect {name}")) or None
    except (LabError, ValueError):
        return None


def left() -> list[str]:
    """Names of the labs' containers, running or not. Empty if docker is not available."""
    try:
        return docker(
            "ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}", what="list containers"
        ).split()
    except LabError:
        return []


def remove(name: str) -> None:
    docker(*removal(name)[1:], what=f"remove {name}", timeout_s=60)


def digest(image: Image) -> str:
    """The registry's digest of the local image, for provenance, or the image's own id if it has no digest."""
    text = docker("image", "inspect", "--format", "{{json .}}", image.reference, what=f"inspect {image.reference}")
    row = json.loads(text)
    digests = row.get("RepoDigests") or []
    return str(digests[0].partition("@")[2] if digests else row["Id"])
