"""Run one notebook from top to bottom without a browser, and show what it prints: `make report`.

    python -m environment.run_notebook solutions/lab-….ipynb             # writes a copy with outputs to results/
    python -m environment.run_notebook --in-place solutions/lab-….ipynb  # keeps the outputs in the file itself

It stops at the first cell that fails, and at one that shows no sign of life for half an hour: no output, and hardly any
CPU time. A cell may take as long as it needs. However the run ends, the cells that ran are kept with their outputs, and
the notebook's engines are stopped.
"""

import asyncio
import contextlib
import copy
import functools
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from shared import LabError, files, paths
from shared.course import cell_times
from shared.hardware import detect
from shared.launch import down
from shared.processes import descendants

SILENT_S = 1800.0
BUSY = 0.1  # of one core: a kernel and its engines that take less are idle


class Runner(NotebookClient):  # type: ignore[misc]
    """Executes the cells in order and prints their output on this terminal.

    `partial` is the file that keeps the cells that have run, until the whole notebook has.
    """

    began = last_sign = last_kept = time.monotonic()
    kernel_pid: int | None = None
    cell_id = ""
    stopped = silent = False
    partial: Path
    cancel: Callable[[], object]

    def output(self, outs: list[Any], msg: dict[str, Any], display_id: str, cell_index: int) -> Any:
        self.last_sign = time.monotonic()
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
        self.kernel_pid, self.cell_id = self.km.provisioner.pid, cell.id
        self.last_sign = time.monotonic()
        self.end_on_signals()
        seconds = int(time.monotonic() - self.began)
        print(f"\n[{seconds // 60}:{seconds % 60:02d}] {cell.id}", flush=True)

    def end_on_signals(self) -> None:
        """Cancel the run on a signal, which shuts the kernel down. nbclient's own handlers leave tracebacks."""
        run, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert run
        self.cancel = functools.partial(loop.call_soon_threadsafe, run.cancel)

        def stop() -> None:
            if not self.stopped:
                self.stopped = True
                run.cancel()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stop)

    def keep_long(self, cell: Any, cell_index: int, execute_reply: Any) -> None:
        """Keep what has run so far after a cell of some length: a machine can reset, and a runner can be killed."""
        if cell.cell_type == "code" and time.monotonic() - self.last_kept >= cell_times.LONG_S:
            with contextlib.suppress(LabError):  # a full disk is reported at the end
                self.keep()

    def keep(self) -> None:
        files.write(self.partial, with_outputs(self.nb))
        self.last_kept = time.monotonic()

    def watch(self, ended: threading.Event) -> None:
        """Cancel the run once its cell shows no sign of life for SILENT_S. Runs in a thread, until `ended` is set."""
        every_s = min(10.0, SILENT_S / 5)
        before = self.cpu_s()
        while not ended.wait(every_s):
            spent = self.cpu_s()
            if spent - before > BUSY * every_s:
                self.last_sign = time.monotonic()
            before = spent
            if self.kernel_pid and time.monotonic() - self.last_sign > SILENT_S:
                self.silent = True
                self.cancel()
                return

    def cpu_s(self) -> float:
        """The CPU time of the kernel and all processes below it, engines among them."""
        spent = 0.0
        for pid in (self.kernel_pid, *descendants(self.kernel_pid)) if self.kernel_pid else ():
            with contextlib.suppress(psutil.Error):
                times = psutil.Process(pid).cpu_times()
                spent += times.user + times.system
        return spent


def with_outputs(notebook: Any) -> bytes:
    """The notebook as a file, with the machine that it ran on."""
    machine, done = detect(), copy.deepcopy(notebook)
    done.metadata["run_on"] = {"processor": machine.processor, "cores": machine.cores, "size": machine.size}
    for cell in done.cells:
        tidy(cell)
    text: str = nbformat.writes(done)
    return text.encode()


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


def execute(runner: Runner) -> tuple[str, int] | None:
    """Run all cells. Returns what ended the run before its end, and the exit code."""
    ended = threading.Event()
    threading.Thread(target=runner.watch, args=[ended], daemon=True).start()
    try:
        runner.execute()
    except CellExecutionError as e:
        return f"The notebook stopped because this cell failed. {e.ename}: {e.evalue}", 1
    except (KeyboardInterrupt, asyncio.CancelledError, DeadKernelError) as e:
        if runner.silent:
            return (
                f"The cell {runner.cell_id} printed nothing and used hardly any CPU time for {SILENT_S / 60:g} "
                "minutes, so it was stopped.\nFix: run make doctor; then run the same command again, which measures "
                "only what the results lack"
            ), 1
        if runner.stopped or not isinstance(e, DeadKernelError):
            return "Stopped. The notebook's engines end now.", 130
        text = "The notebook's kernel died, perhaps because memory ran out.\nFix: close other programs, then run the "
        return f"{text}same command again", 1
    finally:
        ended.set()
        if runner.kernel_pid:
            down(parent=runner.kernel_pid)
    return None


def main() -> int:
    arguments = [a for a in sys.argv[1:] if a != "--in-place"]
    if len(arguments) != 1 or not Path(arguments[0]).is_file():
        fix = ".venv/bin/python -m environment.run_notebook solutions/lab-3.3.1-engine-benchmark.ipynb"
        raise LabError(f"One notebook is expected, and {' '.join(arguments) or 'none'} was given.", fix)
    source, began_s = Path(arguments[0]).resolve(), time.time()
    notebook = nbformat.read(source, as_version=4)
    runner = Runner(
        notebook,
        timeout=None,  # Runner.watch looks for signs of life
        coalesce_streams=True,
        resources={"metadata": {"path": str(source.parent)}},
        # Hides a warning about unencrypted TCP (it is on loopback only), and ipykernel's traceback after Ctrl-C.
        extra_arguments=["--IPKernelApp.log_level=50"],
    )
    runner.on_cell_start, runner.on_cell_executed = runner.announce, runner.keep_long
    runner.partial = paths.results() / f"unfinished-{source.name}"  # an earlier whole run keeps its copy
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.default_int_handler)
    if problem := execute(runner):
        text, code = problem
        runner.keep()
        print(f"\n{text}\nThe cells that ran are kept in {paths.show(runner.partial)}.", file=sys.stderr)
        return code
    files.write(source if "--in-place" in sys.argv else paths.results() / source.name, with_outputs(notebook))
    runner.partial.unlink(missing_ok=True)
    report = paths.results() / "report.html"
    if report.exists() and report.stat().st_mtime >= began_s:  # not one of an earlier run
        print(f"\nReport: {paths.show(report)} and {paths.show(report.with_suffix('.md'))}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        sys.exit(str(error))
