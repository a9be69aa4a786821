"""Whether this machine can run a flow, checked before hours are spent: image, version, disk, memory, access.

    for check in preflight.checks(machine, model, "BF16", "build"): print(check)

Not verified on hardware.
"""

import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shared import files
from shared.course.prefill.tensorrt.command_check import LAST_WITH_BUILDER, has_builder
from shared.errors import LabError
from shared.hardware.machine import Machine
from shared.launch import containers
from shared.launch.memory import SPARK_RESERVE_GIB
from shared.models import hub
from shared.models.choice import ModelChoice, has_token
from shared.report.table import Table

DISK_TIMES_WEIGHTS = 3  # the checkpoint, the converted checkpoint, the engine
BUILD_MEMORY_TIMES_WEIGHTS = 2  # the builder holds the weights beside the engine that it writes; an estimate
GIB = 2**30
REMOVED = "2026-07"  # the month in which TensorRT engines left TensorRT-LLM, and Triton's backend for them


@dataclass(frozen=True)
class Check:
    """One check: what was asked, the answer, and the fix if it failed."""

    name: str
    ok: bool
    found: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{'✔' if self.ok else '✘'} {self.name}: {self.found}" + (f"\n  Fix: {self.fix}" if self.fix else "")


def checks(machine: Machine, model: ModelChoice, precision: str, flow: str, image: str = "trtllm") -> list[Check]:
    """All checks of a flow ("serve" or "build"), failed ones included."""
    return [
        gpu(machine),
        container(machine, image),
        *([version(image)] if flow == "build" else []),
        disk(model, precision, flow),
        memory(machine, model, precision, flow),
        access(model, precision),
    ]


def image_table() -> Table:
    """The two images with TensorRT-LLM, with what is known about them: quoted from images.toml."""
    rows = []
    for name in ("trtllm", "triton-trtllm"):
        row = listed(name)
        platforms = ", ".join(row["platforms"]) or "unknown"
        rows.append((f"{row['image']}:{row['tag']}", platforms, " ".join(row["note"].split()), row["source"]))
    return Table(
        "Images, quoted: none was pulled here. (1): one owner's report, (M): a maintainer or vendor",
        ("image", "platforms", "note", "source"),
        rows,
    )


def listed(name: str) -> dict[str, Any]:
    """The row of an image in images.toml."""
    row: dict[str, Any] = tomllib.loads(containers.IMAGES.read_text())[name]
    return row


def gpu(machine: Machine) -> Check:
    if machine.gpu:
        return Check("GPU", True, machine.gpu)
    return Check("GPU", False, "none found; TensorRT needs an NVIDIA GPU", "build this lab's engines for the processor")


def container(machine: Machine, name: str) -> Check:
    """Whether the image exists for this processor: by its registry's manifest, without a GPU by images.toml."""
    image = containers.images()[name]
    if not machine.gpu:  # nothing will be pulled, so the registry isn't asked
        platforms = listed(name)["platforms"]
        wanted = {"aarch64": "linux/arm64", "x86_64": "linux/amd64"}.get(machine.architecture, machine.architecture)
        found = f"{image.reference}: {', '.join(platforms) or 'platforms unknown'} (quoted from images.toml)"
        fix = "" if wanted in platforms else f"docker manifest inspect {image.reference}"
        return Check("image", wanted in platforms, found, fix)

    def ask() -> str:
        size = containers.check_manifest(image, machine.architecture)
        return f"{image.reference} for {machine.architecture}, {size / GIB:.1f} GiB to download"

    return _asked("image", ask)


def version(name: str) -> Check:
    """Whether the image's TensorRT-LLM still builds engines, by the image's tag: a version, or the month of Triton."""
    tag = containers.images()[name].tag
    fix = f"set a tag up to {LAST_WITH_BUILDER} in environment/containers/images.toml, or take the serving flow"
    if month := re.match(r"(\d\d)\.(\d\d)-trtllm", tag):
        made = f"20{month[1]}-{month[2]}"
        ok = made < REMOVED
        when = "before" if ok else "and not before"
        found = f"{tag} is Triton of {made}, {when} TensorRT engines were removed in {REMOVED}"
        return Check("version", ok, found, "" if ok else fix)
    try:
        ok = has_builder(tag)
    except LabError:
        return Check("version", False, f"the tag {tag} names no version of TensorRT-LLM", fix)
    has = "builds" if ok else "can't build"
    found = f"TensorRT-LLM {tag} {has} TensorRT engines: {LAST_WITH_BUILDER} is the last version with trtllm-build"
    return Check("version", ok, found, "" if ok else fix)


def disk(model: ModelChoice, precision: str, flow: str) -> Check:
    """A build writes the weights three times; serving stores them once."""
    times = DISK_TIMES_WEIGHTS if flow == "build" else 1
    need = times * model.file_bytes(precision) / GIB
    free = shutil.disk_usage(files.nearest(hub.home())).free / GIB
    found = f"{free:.0f} GiB free, {need:.0f} needed ({times} × the weights)"
    return Check(
        "disk", free >= need, found, "" if free >= need else "free some space, or set HF_HOME to a larger disk"
    )


def memory(machine: Machine, model: ModelChoice, precision: str, flow: str) -> Check:
    """Weights, twice for a build; on a Spark the reserve comes on top."""
    times = BUILD_MEMORY_TIMES_WEIGHTS if flow == "build" else 1
    need = times * model.file_bytes(precision) / GIB + (SPARK_RESERVE_GIB if machine.unified_memory else 0)
    if not machine.gpu:
        return Check("memory", False, f"about {need:.0f} GiB of GPU memory needed, and there is no GPU", "")
    free = machine.available_gib if machine.unified_memory else machine.gpu_memory_gib or 0.0
    if free is None:
        return Check("memory", False, f"free memory can't be read, about {need:.0f} GiB needed", "make doctor")
    found = f"{free:.0f} GiB free, about {need:.0f} needed"
    return Check("memory", free >= need, found, "" if free >= need else "stop other engines, or choose a smaller model")


def access(model: ModelChoice, precision: str) -> Check:
    """Whether the weights need an account, and a token is there."""

    def ask() -> str:
        source = model.source("hf", precision)
        if not source.gated:
            return f"{source.repository} needs no account"
        if has_token():
            return f"{source.repository} is gated; a token of huggingface.co was found"
        instead = f"use {source.ungated}, or " if source.ungated else ""
        raise LabError(
            f"{source.repository} is gated, and no token of huggingface.co was found",
            f"{instead}accept the licence at https://huggingface.co/{source.repository} and export HF_TOKEN",
        )

    return _asked("access", ask)


def _asked(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, True, ask())
    except LabError as e:
        return Check(name, False, str(e).partition("\nFix: ")[0], e.fix)
