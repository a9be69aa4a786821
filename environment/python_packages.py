"""Steps that install Python packages: torch and llama-cpp-python into .venv, and the build tools.

llama-cpp-python uses the libraries that the step engines/llamacpp has built.
"""

from environment.install_steps import UV, Job, Step
from environment.torch_build import install_torch
from shared import paths
from shared.hardware import processor

PYTHON = str(paths.REPO / ".venv" / "bin" / "python")


def build_torch(job: Job) -> None:
    (job.dest / "build.txt").write_text(install_torch(job, PYTHON))


def build_binding(job: Job) -> None:
    [wheel] = (paths.cache() / "engines" / "llamacpp" / "binding").glob("*.whl")
    job.install("installing llama-cpp-python", PYTHON, str(wheel))


def build_tools(job: Job) -> None:
    venv = job.dest / "venv"
    job.run(
        "making their environment",
        [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", PYTHON, str(venv)],
    )
    lock = ("--require-hashes", "-r", "environment/build-tools.lock")
    job.install("installing CMake and Ninja", str(venv / "bin" / "python"), *lock)


STEPS = (
    Step(
        name="torch",
        title="torch for the labs",
        inputs=("environment/torch.lock", "environment/torch_build.py"),
        needs_gib=6.0,
        build=build_torch,
        root=paths.REPO / ".venv" / "steps",
    ),
    Step(
        name="llama-cpp-binding",
        title="llama-cpp-python for the labs",
        inputs=("environment/engines/llamacpp/recipe.py", "environment/engines/llamacpp/source.lock"),
        needs_gib=0.1,
        build=build_binding,
        after=("engines/llamacpp",),
        facts=(processor.cpu_flags(),),
        root=paths.REPO / ".venv" / "steps",
    ),
    Step(
        name="build-tools",
        title="CMake and Ninja",
        inputs=("environment/build-tools.lock", "environment/python_packages.py"),
        needs_gib=0.2,
        build=build_tools,
    ),
)
