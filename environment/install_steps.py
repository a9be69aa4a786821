"""What an installation step is, and how its commands are run.

A step makes one folder in the cache. Its key is the hash of the files it is made from, so a changed
recipe makes a new folder. It works in `<key>.partial`, which survives an interruption (a build goes on
where it stopped), and only a whole result gets its final name; the link `<name>` is moved last. So a
half-made engine is never taken for a whole one, and the old one serves until the new one is ready.
"""

import contextlib
import functools
import hashlib
import platform
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from environment.pause_builds import Quiet, Stopped
from shared import LabError, paths
from shared.hardware import symptoms
from shared.launch.process import Guarded
from shared.models.weights import sha256

UV = str(paths.REPO / ".venv" / "bin" / "uv")


@dataclass(frozen=True)
class Step:
    """One folder of the cache: what it is made from, how much room that takes, how it is made."""

    name: str  # the folder's place in the cache: "engines/vllm"
    title: str  # as a person reads it, with its version
    inputs: tuple[str, ...]  # files it is made from, relative to the project
    needs_gib: float
    build: Callable[["Job"], None]
    after: tuple[str, ...] = ()  # steps that must be built first
    nice: int = 0
    verify: Callable[["Job"], str] | None = None  # proves that it works; returns a sentence with numbers
    verify_after: tuple[str, ...] = ()  # steps that the proof needs as well
    facts: tuple[str, ...] = ()  # of this machine, if the result depends on them
    root: Path | None = None  # instead of the cache: for what is installed into .venv

    @functools.cached_property  # once: a file edited during a build must not move the folder under it
    def key(self) -> str:
        digest = hashlib.sha256(platform.machine().encode())
        for fact in self.facts:
            digest.update(fact.encode())
        for name in self.inputs:
            digest.update((paths.REPO / name).read_bytes())
        return digest.hexdigest()[:12]

    @property
    def link(self) -> Path:
        return (self.root or paths.cache()) / self.name

    @property
    def home(self) -> Path:
        return self.link.with_name(f"{self.link.name}-{self.key}")

    @property
    def log(self) -> Path:
        return paths.cache() / "logs" / f"install-{self.name.replace('/', '-')}.log"

    def built(self) -> bool:
        return self.home.is_dir() and self.link.is_symlink() and self.link.resolve() == self.home.resolve()

    def verified(self) -> bool:
        return self.verify is None or (self.home / "verified.txt").exists()

    def ready(self) -> bool:
        return self.built() and self.verified()


@dataclass
class Job:
    """One run of a step: where it works, and the processes that it started."""

    step: Step
    stop: threading.Event
    quiet: Quiet
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    doing: str = "waiting"
    first: bool = False  # its engine is the first that will answer on this machine

    @property
    def dest(self) -> Path:
        """Where the result is put together."""
        return self.step.home.with_name(self.step.home.name + ".partial")

    def make(self) -> None:
        """Build, then give the result its final name; or say what went wrong and where to read more."""
        step = self.step
        need_room(step.link.parent, step.needs_gib, step.title)
        self.dest.mkdir(parents=True, exist_ok=True)
        step.log.parent.mkdir(parents=True, exist_ok=True)
        with step.log.open("a") as log:
            log.write(f"\n=== {step.title}, {time.strftime('%F %T')}\n")
        step.build(self)
        shutil.rmtree(step.home, ignore_errors=True)
        self.dest.rename(step.home)
        new = step.link.with_name(f".{step.link.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(step.home.name)
        new.rename(step.link)
        # What other inputs made, whole or half, serves nobody any more. (A name may begin another: "-gguf".)
        for old in step.link.parent.glob(f"{step.link.name}-*"):
            suffix = old.name.removeprefix(f"{step.link.name}-")
            if old != step.home and re.fullmatch(r"[0-9a-f]{12}(\.partial)?", suffix):
                shutil.rmtree(old, ignore_errors=True)

    def run(self, doing: str, command: list[str], cwd: Path | None = None, **env: str) -> None:
        """Run a command, its output to the step's log. It can't outlive this program.

        Raises LabError with the last lines of the log if it fails, Stopped if the set-up is ending.
        """
        self.doing = doing
        with self.step.log.open("ab") as log:
            log.write(f"$ {' '.join(command)}\n".encode())
            log.flush()
            start = log.tell()
            with self.quiet.turn():
                process = Guarded(command, log, cwd or paths.REPO, env, self.step.nice)
                self.quiet.add(process.pid)
        try:
            while process.exit_code() is None:
                if self.stop.wait(0.05):
                    raise Stopped
        finally:
            process.end()
            self.quiet.forget(process.pid)
        code = process.exit_code()
        if code:
            tail = self.step.log.read_bytes()[start:].decode(errors="replace").splitlines()[-15:]
            raise LabError(
                f"{self.step.title}: {doing} failed (exit {code}). Last lines of its log:\n"
                + "\n".join(f"  | {line}" for line in tail or ["(it printed nothing)"]),
                self.advice([*tail, "Killed"] if code == 137 else tail),
            )

    def advice(self, lines: list[str], otherwise: str = "read the lines above: the first error usually says it") -> str:
        """What to do about a failure that printed these lines; `otherwise` if they show no known cause."""
        first = likely_cause(lines) or otherwise
        return f"{first}; the whole log is {paths.show(self.step.log)}; then run the same command again"

    def download(self, lock: str, dest: Path, python: str = sys.executable, **env: str) -> Path:
        """Fetch the one archive that a lock file pins, its hash checked; returns where it lies.

        pip needs the build backend of a source archive to read its name: `python` is one that has it.
        """
        dest.mkdir(parents=True, exist_ok=True)
        self.run(
            "downloading",
            [
                sys.executable,
                "-m",
                "pip",
                "--python",
                python,
                "download",
                "--progress-bar",
                "off",
                "--no-deps",
                "--require-hashes",
                "--no-build-isolation",
                "--dest",
                str(dest),
                "-r",
                lock,
            ],
            cwd=paths.REPO,
            **env,
        )
        pinned = (paths.REPO / lock).read_text()
        for file in dest.iterdir():
            if file.is_file() and sha256(file) in pinned:
                return file
        raise LabError(
            f"pip said that it fetched what {lock} pins, but no such file is in {paths.show(dest)}.",
            "delete that folder, then run the same command again",
        )

    def last_line(self) -> str:
        """The newest line of the log, for the progress display."""
        with contextlib.suppress(OSError), self.step.log.open("rb") as log:
            log.seek(max(0, self.step.log.stat().st_size - 400))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


def likely_cause(lines: list[str]) -> str | None:
    """What the first sign of a known cause means, and what to do."""
    known = symptoms.recognised(lines, "install")
    return f"{known[0][0].cause}: {known[0][0].fix}" if known else None


def need_room(folder: Path, gib: float, what: str) -> None:
    """Raise LabError unless `gib` GiB are free where `folder` is (or will be)."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise LabError(
            f"{what} needs {gib:.1f} GiB of disk, and {free:.1f} GiB are free in {paths.show(folder)}.",
            "free some space, or "
            + (
                "put the project on another disk"
                if folder.is_relative_to(paths.REPO)
                else "point LABS_CACHE at a bigger disk: make LABS_CACHE=/big/disk/labs"
            ),
        )
