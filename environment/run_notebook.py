"""Run one notebook from top to bottom without a browser, and show what it prints: `make report`.

    python -m environment.run_notebook solutions/lab-….ipynb             # writes a copy with outputs to results/
    python -m environment.run_notebook --in-place solutions/lab-….ipynb  # keeps the outputs in the file itself

It stops at the first cell that fails. However it ends, it stops the notebook's engines.
"""

import contextlib
import re
import signal
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from shared import LabError, files, paths
from shared.course import cell_times
from shared.hardware import detect
from shared.launch import down


class Runner(NotebookClient):  # type: ignore[misc]
    """Executes the cells in order and prints their output on this terminal."""

    began = time.monotonic()
    kernel_pid: int | None = None

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str, cell_index: int) -> Any:
        content = msg["content"]
        if msg["msg_type"] == "stream":
            # A progress bar rewrites its line. Outside a terminal, print only its last state.
            text = content["text"] if sys.stdout.isatty() else re.sub(r"[^\n]*\r", "", content["text"])
            print(text, end="", flush=True)
        elif msg["msg_type"] in ("display_data", "execute_result"):
            text = content["data"].get("text/plain", "")
            if not text.startswith("<"):
                print(text, flush=True)
        return super().output(outs, msg, display_id, cell_index)

    def announce(self, cell: Any, cell_index: int) -> None:
        if cell.cell_type != "code":
            return
        self.kernel_pid = self.km.provisioner.pid
        seconds = int(time.monotonic() - self.began)
        print(f"\n[{seconds // 60}:{seconds % 60:02d}] {cell.id}", flush=True)


def tidy(cell: Any) -> None:
    """Keep the outputs that can be shown without a kernel, and the duration of a long cell.

    Removes times of day, which are noise in a diff, and widgets, which need a running kernel.
    """
    times = cell.metadata.pop("execution", {})
    cell.metadata.pop(cell_times.TOOK, None)
    with contextlib.suppress(KeyError, ValueError):
        begin, end = (datetime.fromisoformat(times[name]) for name in ("iopub.execute_input", "shell.execute_reply"))
        if (took := (end - begin).total_seconds()) >= cell_times.LONG_S:
            cell.metadata[cell_times.TOOK] = round(took)
    for output in cell.get("outputs", []):
        output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)


def main() -> int:
    arguments = [a for a in sys.argv[1:] if a != "--in-place"]
    source = Path(arguments[0]).resolve()
    notebook = nbformat.read(source, as_version=4)
    runner = Runner(
        notebook,
        timeout=1800,
        coalesce_streams=True,
        resources={"metadata": {"path": str(source.parent)}},
        extra_arguments=[
            "--IPKernelApp.log_level=40"
        ],  # hides a warning about unencrypted TCP: the kernel listens on loopback only
    )
    runner.on_cell_start = runner.announce
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        runner.execute()
    except CellExecutionError as e:
        print(f"\nThe notebook stopped because this cell failed. {e.ename}: {e.evalue}", file=sys.stderr)
        return 1
    except DeadKernelError:
        print(
            "\nThe notebook's kernel died, perhaps because memory ran out.\n"
            "Fix: close other programs, then run the same command again",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The results so far are in results/. The notebook's engines end now.", file=sys.stderr)
        return 130
    finally:
        if runner.kernel_pid:
            down(parent=runner.kernel_pid)
    machine = detect()
    notebook.metadata["run_on"] = {"processor": machine.processor, "cores": machine.cores, "size": machine.size}
    for cell in notebook.cells:
        tidy(cell)
    target = source if "--in-place" in sys.argv else paths.results() / source.name
    try:
        files.write(target, nbformat.writes(notebook).encode())
    except OSError as e:
        raise LabError(
            f"The notebook ran to its end, but {paths.show(target)} can't be written: {e.strerror}.",
            "make room on the disk or correct the folder's permissions, then run the same command again",
        ) from None
    report = paths.results() / "report.html"
    if report.exists():
        print(f"\nReport: {paths.show(report)} and {paths.show(report.with_suffix('.md'))}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(str(error))
