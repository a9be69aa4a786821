"""Installation steps, and how their commands run.

A step makes one folder in the cache, `<name>-<key>`. The key is the hash of the step's input files, so a changed recipe
makes a new folder. The step works in `<name>-<key>.partial`. That folder survives an interruption, and the next run
continues the build in it. Only a complete result gets its final name, and the link `<name>` is moved last. So an
incomplete engine is never used, and the old one serves until the new one is ready.
"""

import contextlib
import functools
import hashlib
import os
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
from shared import LabError, files, paths
from shared.hardware import symptoms
from shared.launch.process import Guarded
from shared.models.weights import sha256

UV = str(paths.REPO / ".venv" / "bin" / "uv")


@dataclass(frozen=True)
class Step:
    """One folder of the cache: its inputs, the disk space that it needs, and how it is built."""

    name: str  # the folder's path in the cache, such as "engines/vllm"
    title: str  # for messages; with the version
    inputs: tuple[str, ...]  # files that it is made from, relative to the project
    needs_gib: float
    build: Callable[["Job"], None]
    after: tuple[str, ...] = ()  # steps that must be built first
    nice: int = 0
    verify: Callable[["Job"], str] | None = None  # proves that the result works; returns a sentence with figures
    verify_after: tuple[str, ...] = ()  # further steps that the proof needs
    facts: tuple[str, ...] = ()  # facts about this machine that the result depends on
    root: Path | None = None  # the folder to use in place of the cache, for steps that install into .venv

    @functools.cached_property  # computed once: a file edited during a build must not rename the folder
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
        return paths.state() / "logs" / f"install-{self.name.replace('/', '-')}.log"

    def built(self) -> bool:
        return os.path.isdir(self.home) and self.link.is_symlink() and self.link.resolve() == self.home.resolve()

    def verified(self) -> bool:
        return self.verify is None or (self.home / "verified.txt").exists()

    def ready(self) -> bool:
        return self.built() and self.verified()


@dataclass
class Job:
    """One run of a step: its folder, its state, and its commands."""

    step: Step
    stop: threading.Event
    quiet: Quiet
    say: Callable[[str], None]
    started: float = field(default_factory=time.monotonic)
    doing: str = "waiting"
    first: bool = False  # its engine will be the first to answer on this machine

    @property
    def dest(self) -> Path:
        """The folder in which the result is assembled."""
        return self.step.home.with_name(self.step.home.name + ".partial")

    def make(self) -> None:
        """Build, then give the result its final name. Raises LabError with the cause and the path of the log."""
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
        # Remove the results of other inputs, complete or partial. One step's name may begin another's ("-gguf").
        for old in step.link.parent.glob(f"{step.link.name}-*"):
            suffix = old.name.removeprefix(f"{step.link.name}-")
            if old != step.home and re.fullmatch(r"[0-9a-f]{12}(\.partial)?", suffix):
                shutil.rmtree(old, ignore_errors=True)

    def run(self, doing: str, command: list[str], cwd: Path | None = None, **env: str) -> None:
        """Run a command with its output appended to the step's log. The command can't outlive this program.

        Raises LabError with the last lines of the log if the command fails, and Stopped if the set-up is stopping.
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

    def install(self, doing: str, python: str, *what: str) -> None:
        """Run `uv pip install --no-deps` for the environment of the interpreter `python`. Raises as `run` does."""
        self.run(doing, [UV, "pip", "install", "--python", python, "--no-deps", *what])

    def advice(self, lines: list[str], otherwise: str = "read the lines above for the first error") -> str:
        """The fix for a failure that printed these lines; it begins with `otherwise` if they show no known cause."""
        first = likely_cause(lines) or otherwise
        return f"{first}, then run the same command again; full log: {paths.show(self.step.log)}"

    def download(self, lock: str, dest: Path, python: str = sys.executable, **env: str) -> Path:
        """Download the one archive that a lock file pins, check its hash, and return its path. Raises LabError.

        pip needs the build backend of a source archive to read the archive's name: `python` must have it installed.
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
            f"pip succeeded, but the archive that {lock} pins is not in {paths.show(dest)}.",
            "delete that folder, then run the same command again",
        )

    def last_line(self) -> str:
        """The last line of the log, for the progress line."""
        with contextlib.suppress(OSError), self.step.log.open("rb") as log:
            log.seek(max(0, self.step.log.stat().st_size - 400))
            lines = log.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else ""
        return ""


def likely_cause(lines: list[str]) -> str | None:
    """The cause and the fix of the first known symptom in these lines, or None."""
    known = symptoms.recognised(lines, "install")
    return f"{known[0][0].cause}: {known[0][0].fix}" if known else None


def need_room(folder: Path, gib: float, what: str) -> None:
    """Raise LabError unless `gib` GiB are free on the disk of `folder`, which need not exist yet."""
    folder = files.nearest(folder)
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise LabError(
            f"{what} needs {gib:.1f} GiB of disk space, but only {free:.1f} GiB are free in {paths.show(folder)}.",
            "free some space, or "
            + (
                "put the project on another disk"
                if folder.is_relative_to(paths.REPO)
                else "put the cache on a bigger disk: make LABS_CACHE=/big/disk/labs lab"
            ),
        )
