"""Install everything that the labs need on this machine (`make engines`), or only the steps named as arguments.

Each step starts as soon as the steps that it needs are ready, so vLLM is fetched while llama.cpp compiles.
Each engine is then proved on the small model. Builds pause while it answers.
A second run continues where the first one stopped. It does nothing if everything is ready.
"""

import contextlib
import dataclasses
import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator

from environment import container_images, python_packages
from environment.engines.llamacpp import recipe as llamacpp
from environment.engines.ollama import recipe as ollama
from environment.engines.sglang import recipe as sglang
from environment.engines.vllm import recipe as vllm
from environment.install_steps import Job, Step
from environment.open_webui import recipe as open_webui
from environment.package_index import for_uv
from environment.pause_builds import Quiet, Stopped
from environment.scale_out.ray_serve import recipe as ray_serve
from environment.small_model import named
from environment.small_model import recipe as small_model
from shared import LabError, paths
from shared.errors import command
from shared.files import exclusive, held
from shared.hardware import detect
from shared.hardware.doctor_checks import check_tool
from shared.hardware.host import HERE
from shared.launch import down

NAMED = named.steps()  # for LABS_MODEL: engines are then proved on that model
ENGINES = [
    dataclasses.replace(step, verify_after=(*step.verify_after, *(model.name for model in NAMED)))
    for step in (vllm.STEP, sglang.STEP, ollama.STEP, llamacpp.STEP)
]
OPTIONAL = (open_webui.STEP, ray_serve.STEP)  # installed only where they are named
STEPS: dict[str, Step] = {
    step.name: step for step in (*python_packages.STEPS, *small_model.STEPS, *NAMED, *ENGINES, *OPTIONAL)
}

# The steps for a machine whose engines run in containers: torch, and the small model that the labs compute with it.
BESIDE_CONTAINERS = ("torch", "models/smollm2-135m-instruct")


class Installation:
    """One run over all steps that are not ready yet."""

    def __init__(self, steps: dict[str, Step]) -> None:
        self.steps = tuple(steps.values())
        self.started = self.spoke = time.monotonic()
        self.stop = threading.Event()
        self.quiet = Quiet(self.stop)
        self.done = {name: threading.Event() for name in steps}
        self.jobs = {name: Job(s, self.stop, self.quiet, self.say) for name, s in steps.items() if not s.ready()}
        self.errors: list[str] = []
        self.screen = threading.Lock()
        self.proving = threading.Lock()
        for name, step in steps.items():
            if step.built():
                self.done[name].set()

    def say(self, text: str) -> None:
        """Print a line that stays on the screen, with the time since the start."""
        with self.screen:
            print(("\r\033[K" if sys.stdout.isatty() else "") + f"[{clock(self.started)}] {text}", flush=True)

    def wait_for(self, names: tuple[str, ...]) -> None:
        """Wait until these steps are built. Raises Stopped if the set-up is stopping."""
        for name in names:
            while not self.done[name].wait(0.1):
                if self.stop.is_set():
                    raise Stopped
        if self.stop.is_set():
            raise Stopped

    @contextlib.contextmanager
    def one_proof(self) -> Iterator[None]:
        """Allow one proof at a time, and none during a measurement, because a proof measures a first token."""
        while not self.proving.acquire(timeout=0.1):
            if self.stop.is_set():
                raise Stopped
        try:
            while held(paths.measuring()):
                if self.stop.wait(0.1):
                    raise Stopped
            with exclusive(paths.measuring(), "A measurement is running; waiting for it ..."):
                yield
        finally:
            self.proving.release()

    def give_way(self) -> None:
        """Pause every build while a notebook measures."""
        with contextlib.suppress(Stopped), self.quiet.hold():
            while held(paths.measuring()) and not self.stop.wait(0.1):
                pass

    def do(self, job: Job) -> None:
        step, proving = job.step, False
        try:
            if not step.built():
                self.wait_for(step.after)
                job.started = time.monotonic()
                self.say(f"{step.title}: started; log in {paths.show(step.log)}")
                job.make()
                self.done[step.name].set()
                self.say(f"{step.title}: ready, took {clock(job.started)}")
            if step.verify and not step.verified():
                job.doing = "waiting for the steps that its proof needs"
                self.wait_for(step.verify_after)
                proving = True
                with self.one_proof():
                    job.doing = "answering the first prompts"
                    job.first = not any(s.verify and s.built() and s.verified() for s in self.steps)
                    proof = step.verify(job)
                (step.home / "verified.txt").write_text(proof + "\n")
                self.say(f"{step.title}: {proof}")
        except Stopped:
            pass
        except LabError as e:
            again = f"run the same command again; if it fails again, show your instructor {paths.show(step.log)}"
            self.fail(str(e if e.fix else LabError(str(e), again)), step, proving)
        except Exception as e:
            # Only the log gets the traceback, if it can still be written.
            with contextlib.suppress(OSError), step.log.open("a") as log:
                traceback.print_exc(file=log)
            what = f"{step.title}: {job.doing} failed unexpectedly ({type(e).__name__}: {e})."
            bug = "this is a bug in the labs: show your instructor the end of the log"
            self.fail(str(LabError(what, job.advice([str(e)], bug))), step, proving)
        finally:
            job.doing = ""

    def fail(self, message: str, step: Step, proving: bool) -> None:
        """Record the message, which is printed at the end.

        If another step needs this one, stop all steps and drop their later errors. No step needs another one's proof.
        """
        stop = not proving and any(step.name in (*other.after, *other.verify_after) for other in self.steps)
        if not self.stop.is_set():
            self.errors.append(message)
            if not stop and len(self.jobs) > 1:
                self.say(message.splitlines()[0].removesuffix(" Last lines of its log:") + " The other steps continue.")
        if stop:
            self.stop.set()

    def run(self) -> int:
        # Daemon threads: after Ctrl-C, a thread that is busy inside a library must not delay the exit.
        threads = [threading.Thread(target=self.do, args=[job], daemon=True) for job in self.jobs.values()]
        try:
            for thread in threads:
                thread.start()
            while any(t.is_alive() for t in threads):
                time.sleep(0.2)
                if held(paths.measuring()) and not self.proving.locked():
                    self.give_way()
                self.progress()
        except KeyboardInterrupt:
            self.errors.append("Stopped. Nothing is left running. Run the same command again to continue.")
        finally:
            self.end(threads)
        if self.errors:
            print("\n" + "\n\n".join(self.errors), file=sys.stderr, flush=True)
            code = 130 if self.errors[0].startswith("Stopped.") else 1
            if any(t.is_alive() for t in threads):
                sys.stdout.flush()
                os._exit(code)  # torch aborts with an error message if Python ends under one of its threads
            return code
        self.say(f"all ready, took {clock(self.started)}")
        return 0

    def end(self, threads: list[threading.Thread]) -> None:
        """Wait until every process that was started has ended. A second Ctrl-C changes nothing."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, lambda *_: None) for number in numbers]
        try:
            self.stop.set()
            down(parent=os.getpid())  # otherwise a proof would wait for its engine's answer
            deadline = time.monotonic() + 5  # a watchdog takes 3 s at most
            for thread in threads:
                if thread.ident:
                    thread.join(max(0, deadline - time.monotonic()))
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def progress(self) -> None:
        """Show the running steps in one line: on the screen, and in a file that waiting launches read."""
        busy = [j for j in self.jobs.values() if j.doing and not j.doing.startswith("waiting")]
        parts = []
        for job in busy:
            line = job.last_line() if job.doing == "compiling" else ""
            count = line.split("]")[0] + "]" if line.startswith("[") else ""
            parts.append(f"{job.step.title}: {job.doing} {count} {clock(job.started)}".replace("  ", " "))
        text = " · ".join(parts)
        with contextlib.suppress(OSError):
            paths.install_status().write_text(f"[{clock(self.started)}] {text}")
        if not (sys.stdout.isatty() or time.monotonic() - self.spoke > 30):
            return
        self.spoke = time.monotonic()
        with self.screen:
            if sys.stdout.isatty():
                width = os.get_terminal_size().columns - 1
                print("\r\033[K" + f"[{clock(self.started)}] {text}"[:width], end="", flush=True)
            elif text:
                print(f"[{clock(self.started)}] ... {text}", flush=True)


def clock(since: float) -> str:
    """The time since then in minutes and seconds, as in 3:07."""
    seconds = int(time.monotonic() - since)
    return f"{seconds // 60}:{seconds % 60:02d}"


def one_at_a_time(steps: dict[str, Step]) -> contextlib.AbstractContextManager[None]:
    """Lock the cache for one installation of these steps; a second one waits.

    Raises LabError if the cache can't be written. A cache that another user shares need not be writable for steps that
    install into .venv.
    """
    missing = [step.title for step in steps.values() if not step.ready() and step.root is None]
    try:
        paths.cache().mkdir(parents=True, exist_ok=True)
        writable = os.access(paths.cache(), os.W_OK | os.X_OK)
        if missing and not writable:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        for lock in (paths.installing(), paths.measuring()):
            if writable and not lock.exists():
                lock.touch()  # for other users of this cache, who can lock a file but not make it
    except OSError as e:
        raise LabError(
            f"The set-up can't write to its cache, {paths.show(paths.cache())}: {e.strerror}."
            + (f" It lacks: {', '.join(missing)}." if missing else ""),
            "make this folder writable, let its owner run make engines, or choose another one: "
            "make LABS_CACHE=/some/folder lab",
        ) from None
    return exclusive(paths.installing(), "Another set-up is running on this cache; waiting for it ...")


def choose(names: list[str]) -> dict[str, Step]:
    """The named steps and all steps that they need. Without names: all that this machine needs, without optional ones.

    Raises LabError if there is no step of that name.
    """
    if not names and detect().runner == "container":
        names = list(BESIDE_CONTAINERS)
    if unknown := [name for name in names if name not in STEPS]:
        raise LabError(f"No such step: {', '.join(unknown)}.", f"name one of: {', '.join(STEPS)}")
    wanted = list(names or (name for name, step in STEPS.items() if step not in OPTIONAL))
    for name in wanted:  # the list grows during this loop
        wanted += [other for other in (*STEPS[name].after, *STEPS[name].verify_after) if other not in wanted]
    return {name: step for name, step in STEPS.items() if name in wanted}


def check_compiler(steps: dict[str, Step]) -> None:
    """Raise LabError, before any download, if llama.cpp must still be compiled and a compiler is missing."""
    step = steps.get("engines/llamacpp")
    if step is None or step.built():
        return
    for tool, variable in (("c++", "CXX"), ("cc", "CC")):  # CMake reads the variable first
        check = check_tool(HERE, (os.environ.get(variable) or tool).split()[0], "g++")
        if check.state != "ok":
            raise LabError(
                f"{step.title} is compiled on this machine, and the compiler {check.name} is {check.observed}.",
                check.fix + ", then run the same command again",
            )


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@command
def main() -> int:
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP: keep it ignored
            signal.signal(number, interrupt)
    os.chdir(paths.REPO)
    steps = choose(sys.argv[1:])
    if all(step.ready() for step in steps.values()):
        code = 0
    else:
        check_compiler(steps)
        with one_at_a_time(steps):
            os.environ.update(for_uv())
            code = Installation(steps).run()
    if not sys.argv[1:] and not code and detect().runner == "container":
        code = min(1, container_images.fetch_all(detect()))
    return code


if __name__ == "__main__":
    sys.exit(main())
