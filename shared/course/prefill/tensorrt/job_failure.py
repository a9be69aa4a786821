"""Why a job of TensorRT-LLM failed, and what to change: from its exit code and the lines of its log.

    if error := job_failure.of(job): print(error)

Not verified on hardware. The messages are those of environment/containers/symptoms.toml and of published reports.
"""

import re
import signal

from shared import paths
from shared.course.prefill.tensorrt.detached_build import LOG, Job, Task
from shared.errors import LabError
from shared.hardware import symptoms

KILLED = 128 + signal.SIGKILL
LINES = 10  # of the log, in the error
NO_MEMORY = re.compile(r"out ?of ?memory|cannot allocate memory|bad_alloc|MemoryError", re.I)
SMALLER = ("--max_batch_size", "--max_num_tokens", "--max_seq_len", "--concurrency")  # what `flows.Sizes` decides


def of(job: Job) -> LabError | None:
    """The error of a job that failed: the end of its log, the likeliest cause, the fix. None if it didn't fail."""
    broken = job.broken()
    if job.progress().state != "failed" or broken is None:
        return None
    (task, code), lines = broken, job.newest_lines()[1:]  # the first one is the command
    how = f"{code} (SIGKILL)" if code == KILLED else str(code)
    tail = "\n".join(f"  | {symptoms.shown(line)}" for line in lines[-LINES:]) or "  (it is empty)"
    log = paths.show(job.folder / LOG)
    text = f"The step '{task.title}' ended with exit code {how}. Last lines of {log}:\n{tail}"
    seen = next((line for line in lines if NO_MEMORY.search(line)), "")
    if code == KILLED or seen:
        return LabError(f"{text}\nLikeliest cause: {lack_of_memory(seen)}", smaller(task))
    for row, line in symptoms.recognised(lines, "trtllm", "spark", "docker")[:1]:
        return LabError(f"{text}\nLikeliest cause: {row.cause}, by this line: {symptoms.shown(line.strip())}", row.fix)
    return LabError(
        f"{text}\nNo known cause matches this log.",
        "correct what the log reports, then run the cell again: it goes on after the last finished step",
    )


def lack_of_memory(seen: str) -> str:
    if seen:
        return f"memory ran out, by this line: {symptoms.shown(seen.strip())}"
    return (
        "memory ran out, and the kernel killed the process that held most. It leaves no line in this log: "
        "`sudo dmesg | grep -i 'killed process'` shows it. (A person or `docker kill` can have sent SIGKILL, too.)"
    )


def smaller(task: Task) -> str:
    """What needs less memory, by the flags of the step."""
    flags = [name for name in SMALLER if name in task.command]
    less = f"use smaller flows.Sizes, which set {', '.join(flags)}; or " if flags else ""
    return (
        "close other programs and stop other engines (make down), then run the cell again: it goes on after the last "
        f"finished step. If that is not enough, {less}choose a smaller model"
    )
