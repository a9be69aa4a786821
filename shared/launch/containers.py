"""Engines in containers: which image, whether it suits this machine, fetching it, and the `docker run` that starts it.

Only the `docker` command line is used, as a person would: what it was told can be read and typed again. The runner
is attached (`docker run` without --detach), so that the engine's output is in its log and its exit code is known;
the watchdog removes the container when its owner ends.

Nobody here has run one on a DGX Spark: see `make verify-spark`.
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
UNPACKED = 3  # disk that an image takes while it is fetched and unpacked, as a multiple of its download


@dataclass(frozen=True)
class Image:
    """One row of images.toml."""

    name: str
    image: str
    tag: str
    digest: str  # "" where it isn't known: then the tag decides
    port: int  # where the engine listens inside

    @property
    def reference(self) -> str:
        """What docker is told: pinned by digest where it is known."""
        return f"{self.image}:{self.tag}" + (f"@{self.digest}" if self.digest else "")


@functools.cache
def images() -> Mapping[str, Image]:
    """Every image of images.toml by its name."""
    rows = tomllib.loads(IMAGES.read_text())
    return {
        name: Image(name, row["image"], row["tag"], row.get("digest", ""), row.get("port", 0))
        for name, row in rows.items()
    }


def refused(what: str, output: str) -> LabError:
    """The error for a docker command that failed: its own words, and the fix if they are known."""
    printed = output.strip().splitlines()[-1][:300] if output.strip() else "it said nothing"
    known = symptoms.recognised(output.splitlines(), "spark", "docker")
    cause, fix = (f": {known[0][0].cause}", known[0][0].fix) if known else ("", "make doctor")
    return LabError(f"docker could not {what}{cause}. It says: {printed}", fix)


def docker(*arguments: str, what: str, timeout_s: float = 30) -> str:
    """The output of a docker command. Raises LabError in docker's own words if it fails or hangs."""
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
    """What the container of this engine is called: the port keeps two of one kind apart."""
    return f"{LABEL}-{spec.name}-{port}"


def present(image: Image) -> bool:
    """Whether the image is on this machine already."""
    try:
        return (
            subprocess.run(["docker", "image", "inspect", image.reference], capture_output=True, timeout=30).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False


def ensure(image: Image, architecture: str, quiet: bool = False) -> None:
    """Have the image here, or raise LabError: first whether it suits this processor and the disk, then the pull."""
    if present(image):
        return
    size = check_manifest(image, architecture)
    root = Path(docker("info", "--format", "{{.DockerRootDir}}", what="say where it keeps images").strip())
    while not root.exists():  # it may be hidden from us
        root = root.parent
    free, need = shutil.disk_usage(root).free, UNPACKED * size
    if free < need:
        raise LabError(
            f"{image.reference} is a download of {size / 2**30:.1f} GiB and takes about {need / 2**30:.0f} GiB while "
            f"it is unpacked, and {free / 2**30:.0f} GiB are free in {root}.",
            "docker system prune, or free some space",
        )
    pull(image, size, quiet)


def check_manifest(image: Image, architecture: str) -> int:
    """The bytes to download for this processor. Raises LabError if the image isn't made for it."""
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
            f"{image.reference} is made for {there or 'no named processor'}, and this is {wanted}.",
            "see images.toml for another image",
        )
    return made_for[wanted]


def pull(image: Image, size: int, quiet: bool) -> None:
    """Fetch it, layer by layer, with a line of progress. Ctrl-C ends the pull; layers that are whole are kept."""
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
    """The whole `docker run`: one engine, on 127.0.0.1:`port`, all GPUs, the hub's cache mounted.

    `--ipc=host` because the engine's processes, and NCCL, share memory. No restart policy: a crash loop on a Spark
    leaked memory until the machine died. No --memory: it doesn't see what CUDA allocates.
    """
    way, image = spec.container, images()[spec.container.image]
    settings = dict(way.env(plan))
    if spec.flags_in == "environment":
        settings |= {key: str(value) for key, value in plan.flags.items()}
    # Kernels that it has compiled are there at the next start: an owner's first start of SGLang took ten minutes.
    mounts = [f"{LABEL}-{spec.name}-cache:/root/.cache", f"{hub}:{HUB_INSIDE}"]
    if spec.prepare:  # it keeps a copy of the weights
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
        # By name, without a value: the token is in no command line, log or result.
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
    """What the engine reads from /labs."""
    for name, text in way.files(plan).items():
        plan.home.mkdir(parents=True, exist_ok=True)
        (plan.home / name).write_text(text)


def removal(name: str) -> list[str]:
    """The command that ends and removes a container, whatever state it is in."""
    return ["docker", "rm", "--force", "--volumes", name]


def pause(name: str) -> None:
    docker("pause", name, what=f"pause {name}")


def resume(name: str) -> None:
    docker("unpause", name, what=f"resume {name}")


def pid(name: str) -> int | None:
    """The id of its first process, as this machine sees it; None if there is no such container."""
    try:
        return int(docker("inspect", "--format", "{{.State.Pid}}", name, what="look")) or None
    except (LabError, ValueError):
        return None


def left() -> list[str]:
    """Names of the labs' containers, running or not; none where there is no docker."""
    try:
        return docker(
            "ps", "--all", "--filter", f"label={LABEL}", "--format", "{{.Names}}", what="list containers"
        ).split()
    except LabError:
        return []


def remove(name: str) -> None:
    docker(*removal(name)[1:], what=f"remove {name}", timeout_s=60)


def digest(image: Image) -> str:
    """The digest by which the registry knows what is here, for provenance; the image's own id if there is none."""
    text = docker("image", "inspect", "--format", "{{json .}}", image.reference, what=f"inspect {image.reference}")
    row = json.loads(text)
    digests = row.get("RepoDigests") or []
    return str(digests[0].partition("@")[2] if digests else row["Id"])
