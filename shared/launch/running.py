"""One running engine: its process or container, its log, and what a result records about it."""

import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from shared import files, paths
from shared.engines import Draft, EngineSpec, Flags, LaunchPlan
from shared.engines.spec import Speculation
from shared.errors import LabError
from shared.hardware.machine import Machine
from shared.launch import containers, memory
from shared.launch.memory import Need
from shared.launch.process import Adopted, Guarded, inherited_environment, keeper, remove_old_logs
from shared.models.choice import ModelChoice
from shared.processes import descendants, pause_all, signal_all, start_time

OF_A_START = ("command", "port", "log", "process")  # what an Engine has only when it was started


@dataclass
class Engine:
    """One running engine."""

    spec: EngineSpec
    model: ModelChoice
    precision: str
    flags: Flags
    cores: int
    version: str
    command: list[str]
    port: int
    log: Path
    process: Guarded | Adopted = field(repr=False)
    need: Need
    container: str = ""  # the name of its container; "" for a native process
    startup_s: float = 0.0
    speculation: Speculation | None = None

    @property
    def draft(self) -> Draft | None:
        """The draft that it was started with."""
        return self.speculation.draft if self.speculation else None

    def check_temperature(self, temperature: float) -> None:
        """Raise LabError if it would verify drafts greedily although the request asks for another temperature."""
        way = self.spec.way("container" if self.container else "native")
        if temperature > 0 and self.draft and way.greedy_only:
            raise LabError(
                f"{self.spec.title} can't answer at temperature {temperature} with drafts: {way.greedy_only}.",
                "ask it at temperature 0, start it without a draft, or use llama.cpp or vLLM",
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def served_name(self) -> str:
        """The name of the model in requests."""
        return self.spec.served_name(self.model, self.precision)

    @property
    def alive(self) -> bool:
        return self.process.exit_code() is None

    @property
    def ended(self) -> bool:
        """Whether it was started, and has ended."""
        return not self.alive

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the engine. An engine that many notebooks share (process.keeper) keeps running."""
        if keeper() is None:
            self.end()

    def end(self) -> None:
        """End the engine and every process below it. Returns when they are gone."""
        self.process.end()
        record_file(self.process.pid).unlink(missing_ok=True)

    def pause(self) -> None:
        """Pause every process of the engine. A paused engine uses no processor time and keeps its memory."""
        if self.container:
            containers.pause(self.container)
        else:
            pause_all(descendants(self.process.pid))

    def resume(self) -> None:
        """Resume a paused engine."""
        if self.container:
            containers.resume(self.container)
        else:
            signal_all(descendants(self.process.pid), signal.SIGCONT)

    def resident_gib(self) -> float | None:
        """The memory of all its processes now, in GiB: the sum of Linux' proportional set sizes.

        A page that its processes share counts once. A page that another program uses too, such as the same weights in
        another engine, is divided between both. None if a process can't be read, because it has just ended or belongs
        to another user, as in a container.
        """
        if self.container:
            return None
        try:
            return sum(psutil.Process(pid).memory_full_info().pss for pid in descendants(self.process.pid)) / 2**30
        except psutil.Error:
            return None

    def log_text(self) -> str:
        """The log so far."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def provenance(self) -> dict[str, Any]:
        """What a result records about the engine that produced it."""
        form = self.spec.weights_form(self.model, self.precision)
        return {
            "engine": self.spec.name,
            "engine_version": self.version,
            "runner": "container" if self.container else "native",
            "flags": dict(self.flags),
            # Ports and paths are left out, because they change nothing that is measured.
            "environment": {
                name: value
                for name, value in self.environment().items()
                if name not in self.flags and "/" not in value and str(self.port) not in value
            },
            **({"draft": self.speculation.provenance()} if self.speculation else {}),
            "cores": self.cores,
            "model": self.model.name,
            "model_origin": self.model.origin,
            "model_sha256": self.model.sha256(form),
            "precision": self.precision,
            "dtype": self.spec.dtype("container" if self.container else "native"),
            "startup_s": round(self.startup_s, 2),
        }

    def environment(self) -> dict[str, str]:
        """The variables that the labs set for a native process. Empty for a container, whose command holds them."""
        if self.container or self.spec.native is None:
            return {}
        plan = LaunchPlan(
            Path(), self.model, self.precision, self.port, self.cores, self.flags, speculation=self.speculation
        )
        return {**self.spec.native.env(plan), **flag_environment(self.spec, self.flags)}

    def command_line(self) -> str:
        """The start command as it can be typed in a shell, with one variable or flag on each line."""

        def typed(word: str) -> str:
            shown = paths.show(Path(word)) if word.startswith("/") else word
            return shown if shown.startswith("~") else shlex.quote(shown)  # quoted, a shell would not expand ~

        lines = [f"{name}={typed(value)} \\\n" for name, value in self.environment().items()]
        return "".join(lines) + " ".join(map(typed, self.command)).replace(" --", " \\\n  --")


class PutOff(Engine):
    """An engine that starts when it is first asked for something that only a running engine has.

    What a result records of it is known before, so an engine whose results are all there never starts. From its start
    on, it is that engine.
    """

    def __init__(self, planned: Engine, start: Callable[[], Engine]) -> None:
        """`planned`: the engine as it would be started, without a process. `start` starts it."""
        self._planned, self._start = planned, start
        vars(self).update({name: value for name, value in vars(planned).items() if name not in OF_A_START})

    def __getattr__(self, name: str) -> Any:
        """Start the engine for an attribute that it doesn't have yet."""
        if name not in OF_A_START:
            raise AttributeError(f"An engine has no {name!r}.", name=name, obj=self)
        vars(self).update(vars(self._start()))
        return vars(self)[name]

    def __repr__(self) -> str:
        return super().__repr__() if self.started else f"<{self.spec.title}, not started yet>"

    @property
    def started(self) -> bool:
        return "process" in vars(self)

    @property
    def alive(self) -> bool:
        return self.started and super().alive

    @property
    def ended(self) -> bool:
        return self.started and super().ended

    def end(self) -> None:
        if self.started:
            super().end()

    def provenance(self) -> dict[str, Any]:
        return super().provenance() if self.started else self._planned.provenance()


def flag_environment(spec: EngineSpec, flags: Flags) -> dict[str, str]:
    """The flags as variables, for an engine that reads its flags from the environment; else empty."""
    return {name: str(value) for name, value in flags.items()} if spec.flags_in == "environment" else {}


def native_version(home: Path) -> str:
    """The version of an installed engine."""
    return str(json.loads((home / "installed.json").read_text())["version"])


def start_guarded(
    spec: EngineSpec,
    what: LaunchPlan,
    command: list[str],
    port: int,
    env: Mapping[str, str],
    version: str,
    needed: Need,
    machine: Machine,
    container: str = "",
    label: str = "",
) -> Engine:
    """Run the command under its watchdog, write its output to a log, and record it for `down`.

    A command that starts a container needs its name and the label by which the watchdog removes it. Raises LabError if
    its record can't be written. The command has then ended.
    """
    logs = paths.state() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    remove_old_logs(logs)
    log = logs / f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{spec.name}-{port}.log"
    guard = memory.guard(machine, log.with_suffix(".memory"))
    with log.open("wb") as out:
        process = Guarded(
            command,
            out,
            cwd=logs,
            env=env,
            label=label,
            guard=guard,
            owner=keeper(),
            inherited=inherited_environment()[0],
        )
    engine = Engine(
        spec,
        what.model,
        what.precision,
        what.flags,
        what.cores,
        version,
        command,
        port,
        log,
        process,
        needed,
        container,
        speculation=what.speculation,
    )
    record = {
        "pid": process.pid,
        "started": start_time(process.pid),
        "engine": spec.name,
        "flags": dict(what.flags),
        "port": port,
        "parent": keeper() or os.getpid(),
        "log": str(log),
    }
    try:
        files.write(record_file(process.pid), json.dumps(record, default=str).encode())  # a flag may be a Path
    except BaseException:  # on a full disk, for one: without its record `down` can't find it
        process.end()
        raise
    return engine


def record_file(pid: int) -> Path:
    return paths.state() / "run" / f"{pid}.json"
