"""Torch, whose builds live in different indexes: the small CPU build where it can be had."""

from environment.install_steps import UV, Job
from shared import LabError, hardware, paths

VERSION = next(
    line.split("==")[1]
    for line in (paths.REPO / "environment" / "torch.in").read_text().splitlines()
    if line.startswith("torch==")
)


def install_torch(job: Job, python: str, *also: str) -> str:
    """Put the pinned torch into the environment of `python`; returns which build it is, for the record.

    Without a GPU the CPU build (200 MB) is tried first. Its index can't be hashed here, and many networks
    don't reach it: then the registry's ordinary build (3 GB with its CUDA libraries), by hash. `also` names
    packages that must come from the same index as a CPU build (torchvision); otherwise the caller's lock has them.
    """
    if hardware.detect().gpu is None:
        try:
            job.run(
                "installing torch (CPU build)",
                [UV, "pip", "install", "--python", python, "--torch-backend", "cpu", f"torch=={VERSION}", *also],
                UV_HTTP_RETRIES="0",
            )
            return "CPU build"
        except LabError as e:
            if "No space left" in str(e):
                raise
            job.say("torch's CPU index is out of reach: taking the registry's ordinary build (3 GB)")
    job.run(
        "installing torch (ordinary build)",
        [
            UV,
            "pip",
            "install",
            "--python",
            python,
            "--require-hashes",
            "--no-deps",
            "-r",
            "environment/torch.lock",
        ],
    )
    return "ordinary build"
