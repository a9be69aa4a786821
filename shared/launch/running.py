"""One running engine: its process or container, its log, and what a result must say of it."""

import json
import os
import re
import shlex
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared import paths
from shared.engines import EngineSpec, Flags, LaunchPlan
from shared.hardware.machine import Machine
from shared.launch import containers, memory
from shared.launch.memory import Need
from shared.launch.process import Adopted, Guarded, keeper
from shared.models.choice import ModelChoice
from shared.processes import descendants, signal_all, start_time

KEEP_LOGS = 20


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
    container: str = ""  # its container's name
    startup_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def served_name(self) -> str:
        """What a request must call the model."""
        return self.spec.served_name(self.model, self.precision)

    @property
    def alive(self) -> bool:
        return self.process.exit_code() is None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the engine; one that many notebooks share (process.keeper) stays for the next."""
        if keeper() is None:
            self.end()

    def end(self) -> None:
        """End the engine and every process below it; returns when they are gone."""
        self.process.end()
        record_file(self.process.pid).unlink(missing_ok=True)

    def pause(self) -> None:
        """Hold every process of the engine still: it takes no processor time, and its memory stays."""
        if self.container:
            containers.pause(self.container)
        else:
            signal_all(descendants(self.process.pid), signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused engine go on where it was."""
        if self.container:
            containers.resume(self.container)
        else:
            signal_all(descendants(self.process.pid), signal.SIGCONT)

    def resident_gib(self) -> float | None:
        """The memory of all its processes now; what they share is counted once (Linux' proportional set size).

        None where another user's processes can't be read, as those of a container.
        """
        if self.container:
            return None
        kib = 0
        try:
            for pid in descendants(self.process.pid):
                kib += int(re.findall(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[0])
        except (OSError, IndexError):
            return None
        return kib / 2**20

    def log_text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log_text().splitlines()[-lines:])

    def provenance(self) -> dict[str, Any]:
        """What a result must say of the engine that produced it."""
        form = self.spec.weights_form(self.model, self.precision)
        return {
            "engine": self.spec.name,
            "engine_version": self.version,
            "runner": "container" if self.container else "native",
            "flags": dict(self.flags),
            # Not where it listens nor where its files are: these change nothing that is measured.
            "environment": {
                name: value
                for name, value in self.environment().items()
                if name not in self.flags and "/" not in value and str(self.port) not in value
            },
            "cores": self.cores,
            "model": self.model.name,
            "model_origin": self.model.origin,
            "model_sha256": self.model.sha256(form),
            "precision": self.precision,
            "dtype": self.spec.dtype("container" if self.container else "native"),
            "startup_s": round(self.startup_s, 2),
        }

    def environment(self) -> dict[str, str]:
        """What the labs set in the environment of the native process; a container's is in its command."""
        if self.container or self.spec.native is None:
            return {}
        plan = LaunchPlan(Path(), self.model, self.precision, self.port, self.cores, self.flags)
        return {**self.spec.native.env(plan), **flag_environment(self.spec, self.flags)}

    def command_line(self) -> str:
        """The start command as one could type it, one setting of the environment and one flag a line."""

        def typed(word: str) -> str:
            shown = paths.show(Path(word)) if word.startswith("/") else word
            return shown if shown.startswith("~") else shlex.quote(shown)  # quoted, a shell would not expand ~

        lines = [f"{name}={typed(value)} \\\n" for name, value in self.environment().items()]
        return "".join(lines) + " ".join(map(typed, self.command)).replace(" --", " \\\n  --")


# What engines, their allocators and their thread pools read. It comes from flags and from the engine's own file in
# shared/engines, never from the user's shell: there it would change what is measured, and no result would show it.
ENGINES_READ = re.compile(
    r"(LLAMA|GGML|OLLAMA|VLLM|SGLANG|SGL|TRTLLM|TLLM|OMP|GOMP|KMP|MKL|TORCH|TORCHINDUCTOR|PYTORCH|ATEN|MALLOC|MIMALLOC"
    r"|JEMALLOC|TCMALLOC)_\w+|OPENBLAS_NUM_THREADS|NUMEXPR_NUM_THREADS|LD_PRELOAD"
)


def inherited_environment(environment: Mapping[str, str] = os.environ) -> tuple[dict[str, str], list[str]]:
    """What an engine gets of the user's environment, and the names that it doesn't get."""
    kept = {name: value for name, value in environment.items() if not ENGINES_READ.fullmatch(name)}
    return kept, sorted(environment.keys() - kept.keys())


def flag_environment(spec: EngineSpec, flags: Flags) -> dict[str, str]:
    """The flags of an engine that takes them from the environment."""
    return {name: str(value) for name, value in flags.items()} if spec.flags_in == "environment" else {}


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
) -> Engine:
    """Run the command under its watchdog, its output to a log, and note it for `down`."""
    logs = paths.cache() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("engine-*.log"))[: -KEEP_LOGS + 1]:
        old.unlink(missing_ok=True)
        old.with_suffix(".memory").unlink(missing_ok=True)
    log = logs / f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{spec.name}-{port}.log"
    guard = memory.guard(machine, log.with_suffix(".memory"))
    afterwards = containers.removal(container) if container else []
    with log.open("wb") as out:
        process = Guarded(
            command,
            out,
            cwd=logs,
            env=env,
            afterwards=afterwards,
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
    )
    record = {
        "pid": process.pid,
        "started": start_time(process.pid),
        "engine": spec.name,
        "port": port,
        "parent": keeper() or os.getpid(),
        "log": str(log),
    }
    record_file(process.pid).parent.mkdir(parents=True, exist_ok=True)
    record_file(process.pid).write_text(json.dumps(record))
    return engine


def record_file(pid: int) -> Path:
    return paths.cache() / "run" / f"{pid}.json"
