"""Run one notebook from top to bottom without a browser, and show what it prints: `make report`.

    python -m environment.run_notebook solutions/lab-….ipynb             # writes a copy with outputs to results/
    python -m environment.run_notebook --in-place solutions/lab-….ipynb  # keeps the outputs in the file itself

It stops at the first cell that fails. However it ends, it stops the notebook's engines.
"""

import asyncio
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
    stopped = False

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
        self.end_on_signals()
        seconds = int(time.monotonic() - self.began)
        print(f"\n[{seconds // 60}:{seconds % 60:02d}] {cell.id}", flush=True)

    def end_on_signals(self) -> None:
        """Cancel the run on a signal, which shuts the kernel down. nbclient's own handlers leave tracebacks."""
        run, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert run

        def stop() -> None:
            if not self.stopped:
                self.stopped = True
                run.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)


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
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        fix = ".venv/bin/python -m environment.run_notebook solutions/lab-3.3.1-engine-benchmark.ipynb"
        raise LabError(f"One notebook is expected, and {' '.join(arguments) or 'none'} was given.", fix)
    source = Path(arguments[0]).resolve()
    notebook = nbformat.read(source, as_version=4)
    runner = Runner(
        notebook,
        timeout=1800,
        coalesce_streams=True,
        resources={"metadata": {"path": str(source.parent)}},
        # Hides a warning about unencrypted TCP (it is on loopback only), and ipykernel's traceback after Ctrl-C.
        extra_arguments=["--IPKernelApp.log_level=50"],
    )
    runner.on_cell_start = runner.announce
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        runner.execute()
    except CellExecutionError as e:
        print(f"\nThe notebook stopped because this cell failed. {e.ename}: {e.evalue}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError, DeadKernelError) as e:
        if runner.stopped or not isinstance(e, DeadKernelError):
            print("\nStopped. The results so far are in results/. The notebook's engines end now.", file=sys.stderr)
            return 130
        print(
            "\nThe notebook's kernel died, perhaps because memory ran out.\n"
            "Fix: close other programs, then run the same command again",
            file=sys.stderr,
        )
        return 1
    finally:
        if runner.kernel_pid:
            down(parent=runner.kernel_pid)
    machine = detect()
    notebook.metadata["run_on"] = {"processor": machine.processor, "cores": machine.cores, "size": machine.size}
    for cell in notebook.cells:
        tidy(cell)
    target = source if "--in-place" in sys.argv else paths.results() / source.name
    files.write(target, nbformat.writes(notebook).encode())
    report = paths.results() / "report.html"
    if report.exists():
        print(f"\nReport: {paths.show(report)} and {paths.show(report.with_suffix('.md'))}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(str(error))
