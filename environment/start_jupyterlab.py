"""Open JupyterLab as soon as one engine answers, while the other engines are still being installed: `make lab`."""

import os
import signal
import subprocess
import sys
import time

from environment import install
from shared import LabError, files, paths
from shared.launch.process import Guarded

FIRST_NOTEBOOK = "/lab/tree/labs/lab-3.3.1-engine-benchmark.ipynb"


def main() -> int:
    os.chdir(paths.REPO)
    steps = install.choose([])
    engines = [step for step in steps.values() if step.verify]
    if all(step.ready() for step in steps.values()):
        return jupyter()
    log = paths.state() / "logs" / "install.log"
    with files.writing(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
    with log.open("wb") as out:
        setup = Guarded([sys.executable, "-u", "-m", "environment.install", *steps], out)
    try:
        with log.open() as printed:
            while setup.exit_code() is None and not any(step.ready() for step in engines):
                print(printed.read(), end="", flush=True)
                time.sleep(0.2)
            print(printed.read(), end="", flush=True)
        if setup.exit_code():
            return setup.exit_code() or 1
        if engines:
            ready = ", ".join(step.title for step in engines if step.ready())
            rest = ", ".join(step.title for step in engines if not step.ready())
            print(f"\nReady: {ready}. JupyterLab opens now.", flush=True)
            if rest:
                print(
                    f"Still being installed: {rest} (log: {paths.show(log)}).\n"
                    "A cell that needs one of them waits until it is ready.\n",
                    flush=True,
                )
        else:
            print(
                "\nA cell that starts an engine first fetches its container image and weights if they are missing. "
                "`make engines` fetches all of them in advance.\n",
                flush=True,
            )
        return jupyter()
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue.", file=sys.stderr)
        return 130
    finally:
        setup.end()


def jupyter() -> int:
    """Run JupyterLab until it ends; returns its exit code."""
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--LabApp.default_url={FIRST_NOTEBOOK}"]
    if os.getuid() == 0:
        command.append("--allow-root")
    signal.signal(signal.SIGINT, lambda *_: None)  # JupyterLab handles Ctrl-C: it asks for confirmation
    lab = subprocess.Popen(command)
    for number in (
        signal.SIGTERM,
        signal.SIGHUP,
    ):  # sent to this process alone, they must end JupyterLab and its kernels
        signal.signal(number, lambda *_: lab.terminate())
    return lab.wait()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(str(error))
