"""The flows on this machine: run in a container where there is an NVIDIA GPU; elsewhere the reasons are printed.

    job = on_this_machine.build(machine, model, Sizes(), "BF16")      # None without a GPU

Not verified on hardware.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.course.prefill.tensorrt import bench_report, detached_build, flows, job_failure, preflight
from shared.course.prefill.tensorrt.detached_build import Job, Progress
from shared.hardware.gpu import docker_gpu_arguments
from shared.hardware.machine import Machine
from shared.launch import containers, launch
from shared.launch.running import Engine
from shared.models import hub
from shared.models.choice import ModelChoice

ENGINE = "engine"  # in a job's folder: the engine that it built


def folder() -> Path:
    """The folder of all detached builds (below `LABS_CACHE`)."""
    return paths.cache() / "detached-builds"


def build(
    machine: Machine, model: ModelChoice, sizes: flows.Sizes, precision: str = "BF16", image: str = "trtllm"
) -> Job | None:
    """Start the engine flow in its container, or go on with it; None, with the reasons printed, if that can't work.

    It converts, builds, and measures the engine. Weights and image are fetched first. Raises LabError if that fails.
    """
    if blocked("trtllm-build", machine, model, precision, "build", image):
        return None
    weights = hub.fetch(model.source("hf", flows.PRECISION[precision][0]))
    steps = flows.engine_flow(model, sizes, precision, hub.inside(weights))
    return start(machine, steps, image, f"{model.name}-{precision}")


def benchmark(machine: Machine, model: ModelChoice, sizes: flows.Sizes) -> Job | None:
    """Start `trtllm-bench`, throughput and latency, detached; None, with the reasons printed, if that can't work."""
    precision = flows.serving_precision(machine, model)
    if blocked("trtllm-bench", machine, model, precision, "serve", "trtllm"):
        return None
    _, *steps = flows.serving_flow(model, sizes, precision)
    return start(machine, steps, "trtllm", f"{model.name}-{precision}-bench")


def serve(machine: Machine, model: ModelChoice, sizes: flows.Sizes) -> Engine | None:
    """`trtllm-serve`, started by `launch` when it is first used; None, with the reasons printed, if that can't work.

    Raises LabError as `launch` does.
    """
    precision = flows.serving_precision(machine, model)
    if blocked("trtllm-serve", machine, model, precision, "serve", "trtllm"):
        return None
    return launch("trtllm", model, flows.server_flags(sizes), precision=precision, when_needed=True)


def blocked(program: str, machine: Machine, model: ModelChoice, precision: str, flow: str, image: str) -> bool:
    """Whether a check of the flow fails. If so, it prints the failed ones."""
    faults = [one for one in preflight.checks(machine, model, precision, flow, image) if not one.ok]
    if faults:
        print(f"{program}: not started ({flows.NOT_VERIFIED}).")
        print("\n".join(map(str, faults)))
    return bool(faults)


def start(machine: Machine, steps: Sequence[flows.Step], image: str, name: str) -> Job:
    """Start the steps in containers of this image, in a folder of their own."""
    wanted, here = containers.images()[image], folder() / re.sub(r"[^\w.-]", "-", name).lower()
    containers.ensure(wanted, machine.architecture)
    for step in steps:
        for file, text in step.files.items():
            here.mkdir(parents=True, exist_ok=True)
            files.write(here / file, text.encode())
    gpu = docker_gpu_arguments()
    tasks = [flows.in_container(step, wanted.reference, here, hub.home(), gpu) for step in steps]
    return detached_build.start(tasks, here)


def follow(job: Job) -> Progress:
    """Follow a job until it ends. If it failed, print why, and what to change."""
    found = job.follow()
    if error := job_failure.of(job):
        print(error)
    return found


def reports(job: Job) -> dict[str, dict[str, Any]]:
    """What `trtllm-bench` has reported, by the name of its run."""
    return {
        file.stem: bench_report.read(file)
        for name in ("throughput", "latency")
        for file in job.folder.glob(f"{name}.json")
    }


def built() -> list[Path]:
    """The folders of TensorRT engines on this disk."""
    return sorted(one.parent for one in folder().glob(f"*/{ENGINE}/{flows.ENGINE_FILES[1]}"))
