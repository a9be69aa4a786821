"""SGLang in an environment of its own, on its CPU path.

Its CPU kernels (`sgl_kernel`) are published for no platform: the folder of that name beside this file stands in
for them. There every name can be imported, and one that isn't supplied raises when it is called.
"""

import json
import shutil
import sys

from environment.install_steps import UV, Job, Step
from environment.prove_engine import prove
from environment.torch_build import install_torch
from shared import paths

VERSION = "0.5.23"
STAND_IN = "environment/engines/sglang/sgl_kernel"


def build(job: Job) -> None:
    venv = job.dest / "venv"
    python = str(venv / "bin" / "python")
    job.run(
        "making its environment",
        [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", sys.executable, str(venv)],
    )
    torch = install_torch(job, python, "torchvision==0.28.0")
    job.run(
        "installing SGLang",
        [
            UV,
            "pip",
            "install",
            "--python",
            python,
            "--require-hashes",
            "--no-deps",
            "-r",
            "environment/engines/sglang/requirements.lock",
        ],
    )
    [packages] = venv.glob("lib/python3.*/site-packages")
    shutil.copytree(paths.REPO / STAND_IN, packages / "sgl_kernel", dirs_exist_ok=True)
    # Python compiles each module at its first import: here, once, not while a person waits.
    job.run(
        "importing it once",
        [python, "-c", "import sglang.launch_server, sglang.srt.entrypoints.http_server"],
        SGLANG_USE_CPU_ENGINE="1",
    )
    (job.dest / "installed.json").write_text(json.dumps({"engine": "sglang", "version": VERSION, "torch": torch}))


STEP = Step(
    name="engines/sglang",
    title=f"SGLang {VERSION}",
    inputs=(
        "environment/engines/sglang/recipe.py",
        "environment/engines/sglang/requirements.lock",
        f"{STAND_IN}/__init__.py",
        "environment/torch.lock",
        "environment/torch_build.py",
    ),
    needs_gib=8.0,
    build=build,
    verify=lambda job: prove(job, "sglang"),
    after=("torch", "engines/vllm"),  # which is not needed, but the sooner it is there, the sooner one can begin
    verify_after=("torch", "models/smollm2-135m-instruct"),  # said here too: a new .venv may meet a built engine
)
