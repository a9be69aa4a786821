"""One of this lab's engines, built in a process of its own that a closed notebook doesn't end.

    job = own_build.start(Recipe("openvino", length=128))
    job.follow()

It is this lab's compiler, not TensorRT. The way is that of a TensorRT build: started detached, followed by its log.
"""

import sys
from pathlib import Path

from shared import hardware, models
from shared.course.prefill.ahead_of_time import build
from shared.course.prefill.ahead_of_time.build import Recipe
from shared.course.prefill.kit import Kit
from shared.course.prefill.tensorrt import detached_build
from shared.course.prefill.tensorrt.detached_build import Job, Task
from shared.course.prefill.tensorrt.on_this_machine import ENGINE, folder
from shared.errors import LabError


def start(recipe: Recipe) -> Job:
    """Start the build, or find it running or finished.

    Its folder has the engine's name, so a changed recipe or compiler is another build.
    """
    name = build.place(recipe, build.ingredients(recipe, models.small().sha256("hf"))).name
    command = (sys.executable, "-m", __name__, recipe.compiler, recipe.precision, str(recipe.length or 0))
    return detached_build.start([Task(f"build {recipe}", command, (ENGINE,))], folder() / name)


def build_here(compiler: str, precision: str, length: str) -> None:
    """What the detached process runs: it builds, and leaves a link to the engine in the folder where it was started."""
    made = Kit(models.small(), hardware.detect()).build(Recipe(compiler, precision, int(length) or None))
    link = Path(ENGINE)
    link.unlink(missing_ok=True)
    link.symlink_to(made.folder)


if __name__ == "__main__":
    try:
        build_here(*sys.argv[1:])
    except LabError as e:
        sys.exit(str(e))
