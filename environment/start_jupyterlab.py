"""JupyterLab, as soon as one engine answers: `make lab`. The other engines go on being installed beside it."""

import os
import signal
import subprocess
import sys
import time

from environment import install
from shared import paths
from shared.launch.process import Guarded

FIRST_NOTEBOOK = "/lab/tree/labs/lab-3.3.1-engine-benchmark.ipynb"


def main() -> int:
    os.chdir(paths.REPO)
    steps = install.choose([])
    engines = [step for step in steps.values() if step.verify]
    if all(step.ready() for step in steps.values()):
        return jupyter()
    log = paths.cache() / "logs" / "install.log"
    log.parent.mkdir(parents=True, exist_ok=True)
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
            print(
                f"\nReady: {ready}. JupyterLab opens; the rest goes on beside it (log in {paths.show(log)}).\n"
                "A cell that needs an engine which is not there yet waits for it.\n",
                flush=True,
            )
        else:
            print(
                "\nA cell that starts an engine fetches its container and weights first, if they are not here yet;"
                " `make engines` fetches all of them at once.\n",
                flush=True,
            )
        return jupyter()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    finally:
        setup.end()


def jupyter() -> int:
    command = [sys.executable, "-m", "jupyterlab", "--ServerApp.ip=127.0.0.1", f"--LabApp.default_url={FIRST_NOTEBOOK}"]
    if os.getuid() == 0:
        command.append("--allow-root")
    signal.signal(signal.SIGINT, lambda *_: None)  # JupyterLab asks what to do with Ctrl-C, not we
    lab = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGHUP):  # what ends us alone must end it too, and its kernels with it
        signal.signal(number, lambda *_: lab.terminate())
    return lab.wait()


if __name__ == "__main__":
    sys.exit(main())
