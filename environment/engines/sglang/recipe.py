"""SGLang on its CPU path, in its own environment.

Its CPU kernels (`sgl_kernel`) are not published for any platform. The folder of that name beside this file replaces
them. In it every name can be imported, and a kernel that is not supplied raises when it is called. It is not installed:
the engine finds it by PYTHONPATH (shared/engines/sglang.py).
"""

import json
import sys

from environment.install_steps import UV, Job, Step
from environment.prove_engine import prove
from environment.torch_build import install_torch
from shared.engines.sglang import STAND_IN

VERSION = "0.5.23"


def build(job: Job) -> None:
    venv = job.dest / "venv"
    python = str(venv / "bin" / "python")
    job.run(
        "making its environment",
        [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", sys.executable, str(venv)],
    )
    torch = install_torch(job, python, "torchvision==0.28.0")
    job.install("installing SGLang", python, "--require-hashes", "-r", "environment/engines/sglang/requirements.lock")
    # Python compiles each module at its first import. Do it once now, not while a student waits.
    job.run(
        "importing it once",
        [python, "-c", "import sglang.launch_server, sglang.srt.entrypoints.http_server"],
        SGLANG_USE_CPU_ENGINE="1",
        PYTHONPATH=str(STAND_IN),
    )
    (job.dest / "installed.json").write_text(json.dumps({"engine": "sglang", "version": VERSION, "torch": torch}))


STEP = Step(
    name="engines/sglang",
    title=f"SGLang {VERSION}",
    inputs=(
        "environment/engines/sglang/recipe.py",
        "environment/engines/sglang/requirements.lock",
        "environment/torch.lock",
        "environment/torch_build.py",
    ),
    needs_gib=8.0,
    build=build,
    verify=lambda job: prove(job, "sglang"),
    after=("torch", "engines/vllm"),  # vLLM is not needed, but installing it first lets the student start sooner
    verify_after=(
        "torch",
        "models/smollm2-135m-instruct",
    ),  # needed here too: the engine may be built while a new .venv has no torch
)
