"""Open WebUI, in an environment of its own because it pins its own fastapi: `make open-webui`. An optional step.

`overrides.txt` leaves out what a chat doesn't need (torch, speech, local embeddings). Its authors don't support
such an installation; the tests of the labs chat with it.
"""

import json
import sys

from environment.install_steps import UV, Job, Step

VERSION = "0.12.4"
FOLDER = "environment/open_webui"


def build(job: Job) -> None:
    venv = job.dest / "venv"
    python = str(venv / "bin" / "python")
    job.run(
        "making its environment",
        [UV, "venv", "--quiet", "--allow-existing", "--relocatable", "--python", sys.executable, str(venv)],
    )
    job.install("installing Open WebUI", python, "--require-hashes", "-r", f"{FOLDER}/requirements.lock")
    # Its news come from this file if it is there, else from one of 1.5 MB, which takes 3.5 of the 14 s of each start.
    (next((venv / "lib").glob("python3.*")) / "CHANGELOG.md").touch()
    (job.dest / "installed.json").write_text(json.dumps({"version": VERSION}))


def prove(job: Job) -> str:
    """Start it without an engine, and make its administrator. Python compiles its modules at this first start."""
    from shared.course.webui import open_webui  # the room of a lab, which is loaded only here

    job.doing = "starting for the first time"
    with open_webui.start() as webui:
        return f"proved: version {webui.version} answers after {webui.startup_s:.0f} s"


STEP = Step(
    name="open-webui",
    title=f"Open WebUI {VERSION}",
    inputs=(f"{FOLDER}/recipe.py", f"{FOLDER}/requirements.lock"),
    # 1.0 GB, and the same again in uv's cache if it is on another disk
    needs_gib=2.5,
    build=build,
    verify=prove,
)
