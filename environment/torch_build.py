"""Install torch: the small CPU build if its index is reachable, else the ordinary build from the registry."""

from environment.install_steps import UV, Job
from shared import LabError, hardware, paths

VERSION = next(
    line.split("==")[1]
    for line in (paths.REPO / "environment" / "torch.in").read_text().splitlines()
    if line.startswith("torch==")
)


def install_torch(job: Job, python: str, *also: str) -> str:
    """Install the pinned torch into the environment of `python`; returns the name of the build, for the record.

    Without a GPU the CPU build (200 MB) is tried first. Its index has no pinned hashes, and many networks block it.
    In that case the ordinary build comes from the registry, by hash (3 GB with its CUDA libraries). `also` names
    packages that must come from the same index as a CPU build (torchvision). For the ordinary build they are in the
    caller's lock.
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
            job.say("torch's CPU index is out of reach. Installing the ordinary build from the registry (3 GB)")
    job.install("installing torch (ordinary build)", python, "--require-hashes", "-r", "environment/torch.lock")
    return "ordinary build"
