"""Looking at real processes from a test: by their ids in /proc, with patience and an end to it."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shared.processes import descendants, port_taken, start_time

Run = Callable[..., "subprocess.Popen[str]"]
# After which nothing that was to end may still run: shared/launch/watchdog.py waits 3 s before it kills, and on a busy
# machine each process that has to notice something gets its turn late.
LIMIT_S = 15.0
START_S = 60.0  # in which a program has started and written its first file, on a busy machine, too
# Exit codes of a program that was started by `python -m` and ends with 130 on Ctrl-C. If the signal comes while Python
# runs a string, as for a named tuple in an import, Python ends itself by SIGINT. A shell shows 130 for both.
INTERRUPTED = (130, -signal.SIGINT)


def eventually(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    """Whether it comes to hold within the limit."""
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def alive(pid: int) -> bool:
    return start_time(pid) is not None


def appears(file: Path) -> Path:
    """Waits until a process has written something into the file."""
    assert eventually(lambda: file.exists() and file.read_text() != "", START_S), f"no {file.name}"
    return file


def read_pid(file: Path) -> int:
    assert eventually(lambda: file.exists() and file.read_text().endswith("\n"), START_S), f"no {file.name}"
    return int(file.read_text())


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Waits for its end: exit code, standard output, standard error."""
    out, err = process.communicate(timeout=START_S)
    return process.returncode, out, err


# A notebook's stand-in: it launches an engine, says which process and port, and asks for a long answer.
STUDENT = """
import asyncio, sys
from shared import hardware, models
from shared.launch import launch
from shared.load import stream
from shared.load.prompts import chat
name, flags = sys.argv[1], eval(sys.argv[2])
model = models.choose(hardware.detect())
engine = launch(name, model, flags, quiet=True)
print(engine.process.pid, engine.port, flush=True)
body = {"model": engine.served_name, "messages": chat(model, "Count."), "max_tokens": 900, **engine.spec.exact_length}
asyncio.run(stream(engine.url + "/v1/chat/completions", body))
"""


def start_student(name: str, flags: dict[str, object]) -> tuple[subprocess.Popen[str], int, int]:
    """The program, in mid-stream soon, and its engine's process id and port."""
    student = subprocess.Popen([sys.executable, "-c", STUDENT, name, repr(flags)], stdout=subprocess.PIPE, text=True)
    assert student.stdout
    pid, port = map(int, student.stdout.readline().split())
    return student, pid, port


def left_by_a_killed_program(name: str, flags: dict[str, object]) -> list[int | str]:
    """Kill a program while its engine answers: what of the engine lives LIMIT_S later, ids and its port."""
    student, pid, port = start_student(name, flags)
    processes = {p: start_time(p) for p in [pid, *descendants(pid)]}
    assert len(processes) >= 2
    time.sleep(0.3)
    student.kill()
    student.wait()

    def left() -> list[int | str]:
        alive: list[int | str] = [p for p, began in processes.items() if start_time(p) == began]
        return alive + [f"port {port}"] * port_taken(port)

    eventually(lambda: not left())
    return left()
