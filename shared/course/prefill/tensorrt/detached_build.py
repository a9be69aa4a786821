"""A build of an hour: detached from the kernel, followed by its log, and resumed after an interruption.

    job = detached_build.start(steps, folder)      # returns at once; a closed notebook doesn't end it
    job.progress()                                 # the finished steps, the log's last line, the share done
    job.follow()                                   # prints the progress until it ends

Each step's command, exit code and time are in `job.json`. A step counts as finished only if its command ended with 0
and left the files that it should. `start` on the same folder skips finished steps and removes what a broken one left.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared import files, paths, processes
from shared.errors import LabError

LOG, STATE, PLAN = "build.log", "job.json", "plan.json"
LINE = 150  # characters of the log's last line that are shown
# Lines of a build's log that show how far it is: (pattern, a rough share of the step). The first ones are those of
# this lab's own builds, the others of logs in TensorRT-LLM's examples and in one owner's report from a Spark.
MARKS = (
    (r": convert \d", 0.5),
    (r": compile \d", 1.0),
    (r"Total time of converting checkpoints", 1.0),
    (r"Build TensorRT engine", 0.2),
    (r"Compute timing cache|Timing cache", 0.3),
    (r"Engine generation completed", 0.8),
    (r"Serializing engine to", 0.9),
    (r"Engine serialized|Total time of building all engines", 1.0),
)


@dataclass(frozen=True)
class Task:
    """A command, and the files below the job's folder that it must leave."""

    title: str
    command: tuple[str, ...]
    leaves: tuple[str, ...] = ()
    end: tuple[str, ...] = ()  # a command that ends what the command started elsewhere, such as a container


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    state: str  # "not started" | "running" | "finished" | "failed" | "interrupted"
    done: int  # finished tasks
    tasks: int
    running: str  # the title of the current or broken task; "" if none
    share: float  # of the current task, by its log; 0 if the log shows nothing
    last_line: str
    seconds: float

    def __str__(self) -> str:
        at = f", now: {self.running} ({self.share:.0%} by its log)" if self.running else ""
        return f"{self.state}: {self.done} of {self.tasks} steps{at}, {self.seconds:.0f} s; {self.last_line[:LINE]}"


@dataclass(frozen=True)
class Job:
    """A build in its folder, whoever started it."""

    folder: Path

    def state(self) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads((self.folder / STATE).read_text())
        except (OSError, ValueError):
            return {"finished": {}}
        return found

    def alive(self) -> bool:
        state = self.state()
        return "pid" in state and processes.start_time(state["pid"]) == state["pid_started"]

    def broken(self) -> tuple[Task, int] | None:
        """The step that failed, with its exit code: 128 + n if signal n ended it. None if none failed."""
        noted = self.state()["finished"]
        codes = [(task, noted[task.title]["exit_code"]) for task in self.tasks() if task.title in noted]
        return next(((task, code) for task, code in codes if code), None)

    def finished(self, task: Task) -> bool:
        """Whether this very command has ended with 0, and its files are there."""
        noted = self.state()["finished"].get(task.title)
        there = all((self.folder / name).exists() for name in task.leaves)
        return bool(noted and noted["command"] == list(task.command) and noted["exit_code"] == 0 and there)

    def progress(self) -> Progress:
        """What the log and the notes show. Returns at once."""
        tasks = self.tasks()
        state = self.state()
        done = sum(self.finished(task) for task in tasks)
        lines = self.newest_lines()
        open_tasks = [task.title for task in tasks if not self.finished(task)]
        shares = [share for pattern, share in MARKS if any(re.search(pattern, line) for line in lines)]
        failed = any(noted["exit_code"] for noted in state["finished"].values())
        if self.alive():
            name = "running"
        elif tasks and not open_tasks:
            name = "finished"
        elif failed:
            name = "failed"
        else:
            name = "interrupted" if "pid" in state else "not started"
        seconds = sum(noted["seconds"] for noted in state["finished"].values())
        if self.alive():
            seconds += time.time() - state.get("task_began", time.time())
        running = open_tasks[0] if open_tasks else ""
        share = max(shares, default=0.0) if open_tasks else 1.0
        return Progress(name, done, len(tasks), running, share, lines[-1] if lines else "the log is empty", seconds)

    def follow(self, every_s: float = 0.5) -> Progress:
        """Print each change of the progress until the build ends. Interrupting it doesn't interrupt the build."""
        shown, found = "", self.progress()
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                alive, found = self.alive(), self.progress()
                if (line := f"{found.state} {found.done} {found.share} {found.last_line}") != shown:
                    print(found, flush=True)
                    shown = line
                if not alive:
                    break
                time.sleep(every_s)
        return found

    def log(self) -> str:
        try:
            return (self.folder / LOG).read_text(errors="replace")
        except OSError:
            return ""

    def newest_lines(self) -> list[str]:
        """The lines of the log from the newest step on."""
        lines = self.log().splitlines()
        return lines[max((n for n, line in enumerate(lines) if line.startswith("=== ")), default=0) :]

    def end(self) -> None:
        """End the build with everything that it started. Finished steps stay. Returns when it has ended."""
        if self.alive():
            pid = self.state()["pid"]
            processes.signal_all((pid, *processes.descendants(pid)), signal.SIGKILL)
            deadline = time.monotonic() + 10
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.01)
        for task in self.tasks():
            if task.end and not self.finished(task):
                subprocess.run(task.end, capture_output=True, timeout=60)

    def tasks(self) -> list[Task]:
        """The plan of this folder; none if no job was started in it."""
        try:
            plan = json.loads((self.folder / PLAN).read_text())
        except (OSError, ValueError):
            return []
        return [Task(t["title"], *(tuple(t[name]) for name in ("command", "leaves", "end"))) for t in plan]


def start(tasks: Sequence[Task], folder: Path) -> Job:
    """Start the tasks one after another, detached; those that an earlier job finished are skipped.

    If these very tasks run already, the running job is returned. Raises LabError if the folder's job runs others.
    """
    job = Job(folder)
    if job.alive():
        if job.tasks() == list(tasks):
            return job
        raise LabError(f"A build runs already in {folder}.", "follow it: Job(folder).progress(), or end it: .end()")
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        if not job.finished(task):
            for name in task.leaves:  # half of what a broken step left is no file to build on
                place = folder / name
                shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
    finished = {task.title: job.state()["finished"][task.title] for task in tasks if job.finished(task)}
    files.write(folder / PLAN, json.dumps([asdict(task) for task in tasks]).encode())
    files.write(folder / STATE, json.dumps({"finished": finished}).encode())
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, folder.resolve()],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd=paths.REPO,
        )  # fmt: skip
    deadline = time.monotonic() + 30
    while "pid" not in job.state() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    return job


def run(folder: Path) -> int:
    """Run the plan of this folder: what the detached process does."""
    job, own = Job(folder), os.getpid()
    state = job.state() | {"pid": own, "pid_started": processes.start_time(own)}
    for task in job.tasks():
        if job.finished(task):
            continue
        state["task_began"] = began = time.time()
        files.write(folder / STATE, json.dumps(state).encode())
        words = ["python" if word == sys.executable else word for word in task.command]
        print(f"=== {task.title}: {' '.join(words)}", flush=True)
        try:
            # PYTHONPATH: a step that is a module of this package runs in another folder than the repository.
            # PYTHONUNBUFFERED: else its lines stay in a buffer, and the log shows no progress.
            env = {**os.environ, "PYTHONPATH": str(paths.REPO), "PYTHONUNBUFFERED": "1"}
            code = subprocess.run(task.command, cwd=folder, stdin=subprocess.DEVNULL, env=env).returncode
            code = code if code >= 0 else 128 - code  # as docker and shells write the end by a signal
        except OSError as e:
            print(f"{task.command[0]}: {e.strerror}", flush=True)
            code = 127
        if code == 0 and (lacking := [name for name in task.leaves if not (folder / name).exists()]):
            print(f"{task.title} ended without an error, but {', '.join(lacking)} is missing", flush=True)
            code = 1
        state["finished"][task.title] = {
            "command": list(task.command), "exit_code": code, "seconds": round(time.time() - began, 1),
        }  # fmt: skip
        files.write(folder / STATE, json.dumps(state).encode())
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
