"""Start a real engine, wait until it has answered, and make sure that it ends.

    with launch("vllm", model, {"--max-num-seqs": 16}) as engine:
        engine.url        # http://127.0.0.1:<port>
        engine.command    # exactly what was run

The engine runs under a watchdog (shared/watchdog.py): it ends when this Python process ends, kill -9
included. `python -m shared.launch down` (make down) ends whatever any notebook has left.
"""

import atexit
import contextlib
import json
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shared import paths
from shared.api import get, post_json
from shared.engines import ENGINES, EngineSpec, Flags, Start, as_arguments
from shared.errors import LabError
from shared.hardware import detect
from shared.models import ModelChoice
from shared.process import Guarded, free_port, held, start_time, taken
from shared.watchdog import descendants, signal_all

KEEP_LOGS = 20
MARGIN_GIB = 0.5  # what a launch leaves for everything else
# How often a waiting line is written. A notebook's front end may read a cell's output only when the cell has
# ended (nbval does), and of more than a thousand messages the last are lost.
ONCE_A_SECOND: dict[str, Any] = {"mininterval": 1, "miniters": 0}

COMMON_CAUSES = (
    (r"address already in use|couldn't bind|failed to bind", "its port is taken", "leave `port` out"),
    (r"out of memory|cannot allocate memory|bad_alloc|MemoryError|Killed", "too little memory", "make down"),
    (r"No space left on device", "the disk is full", "free some space"),
    (r"(access to|access) a? ?gated repo", "the model is gated, and no token was given",
     "accept its licence on its page, then: export HF_TOKEN=..."),
    (r"failed to open GGUF file|Repo id must be in the form|is not a valid model identifier|LocalEntryNotFoundError: "
     "|RepositoryNotFoundError: |does not appear to have a file named",
     "the model isn't there", "check its name or path"),
    (r"No such file or directory", "a file is missing", "make engines"),
    (r"ModuleNotFoundError|ImportError|cannot open shared object", "it is damaged", "make clean; make engines"),
)  # fmt: skip


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
    process: Guarded = field(repr=False)
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
        """End the engine and every process below it; returns when they are gone."""
        self.process.end()
        record_file(self.process.pid).unlink(missing_ok=True)
        if _running.get(self.spec.name) is self:
            del _running[self.spec.name]

    def pause(self) -> None:
        """Hold every process of the engine still: it takes no processor time, and its memory stays."""
        signal_all(descendants(self.process.pid), signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused engine go on where it was."""
        signal_all(descendants(self.process.pid), signal.SIGCONT)

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.said().splitlines()[-lines:])

    def provenance(self) -> dict[str, Any]:
        """What a result must say of the engine that produced it."""
        form = self.spec.weights_form(self.precision)
        return {
            "engine": self.spec.name,
            "engine_version": self.version,
            "flags": dict(self.flags),
            "cores": self.cores,
            "model": self.model.name,
            "model_origin": self.model.origin,
            "model_sha256": self.model.sha256(form),
            "precision": self.precision,
            "startup_s": round(self.startup_s, 2),
        }

    def command_line(self) -> str:
        """The start command as one could type it, one flag a line."""
        words = [shlex.quote(paths.show(Path(w)) if w.startswith("/") else w) for w in self.command]
        settings = [f"{name}={value} \\\n" for name, value in environment(self.spec, self.flags).items()]
        return "".join(settings) + " ".join(words).replace(" --", " \\\n  --")


_running: dict[str, Engine] = {}  # by engine name: this process's own, so that a cell run twice starts one


def launch(
    name: str,
    model: ModelChoice,
    flags: Flags | None = None,
    *,
    precision: str | None = None,
    cores: int | None = None,
    port: int | None = None,
    timeout_s: float = 300,
    quiet: bool = False,
) -> Engine:
    """Start the engine `name` and return it once it has answered one request.

    The same engine with the same model, flags and cores, if it runs already, is returned as it is; with
    other ones it is ended first. Raises LabError, with the log's last lines and the likeliest causes, if
    the engine isn't installed, dies, or isn't ready within `timeout_s`.
    """
    if name not in ENGINES:
        raise LabError(f"There is no engine {name!r}.", f"choose one of {', '.join(ENGINES)}")
    spec, flags = ENGINES[name], dict(flags or {})
    if spec.unavailable:
        raise LabError(f"{spec.title} can't be started: {spec.unavailable}.", "use another engine")
    precision = precision or spec.precisions[0]
    if precision not in spec.precisions:
        raise LabError(f"{spec.title} can't load {precision} here.", f"choose one of {', '.join(spec.precisions)}")
    cores = cores or detect().cores
    old = _running.get(name)
    if old:
        same = (old.model, old.precision, old.flags, old.cores) == (model, precision, flags, cores)
        if same and old.alive and port in (None, old.port):
            return old
        old.stop()
    home = wait_until_installed(spec, model, precision, quiet)
    need_memory(spec, model, precision, flags)
    if port and taken(port):
        raise LabError(f"Port {port} of 127.0.0.1 is taken by another program.",
                       f"leave `port` out, for a free one; `ss -ltnp 'sport = :{port}'` says who has it")  # fmt: skip
    engine = start(spec, Start(home, model, precision, port or free_port(), cores, flags))
    _running[name] = engine
    try:
        wait_until_ready(engine, timeout_s, quiet)
    except BaseException:
        engine.stop()
        raise
    return engine


def wait_until_installed(spec: EngineSpec, model: ModelChoice, precision: str, quiet: bool) -> Path:
    """The folder of the engine; waits, and shows what is going on, while a set-up is still making what it needs:
    itself, the engine whose programs it runs, the model's weights.

    Raises LabError if no set-up is running, or it ends without an engine; missing weights are `models`' to name.
    """
    engines = [ENGINES[name] for name in (spec.name, spec.built_on) if name]
    link = {needed.name: paths.cache() / "engines" / needed.name for needed in engines}

    def absent() -> list[EngineSpec]:
        return [needed for needed in engines if not (link[needed.name] / "installed.json").exists()]

    waited = False
    with tqdm(bar_format="{desc}", leave=False, file=sys.stdout, disable=quiet) as line:
        while (absent() or not model.made(spec.weights_form(precision))) and held(paths.installing()):
            waited = True
            with contextlib.suppress(OSError):
                line.set_description_str(f"{spec.title} is still being installed {paths.install_status().read_text()}")
            time.sleep(1)
    for needed in absent():
        how = "the set-up ended without it" if waited else "no set-up is running"
        where = paths.show(link[needed.name])
        raise LabError(f"{needed.title} is not installed in {where}, and {how}.", "make engines")
    return link[spec.name].resolve()


def need_memory(spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags) -> None:
    """Raise LabError, with the sum, unless weights, KV cache, the engine's processes and a margin fit in memory."""
    weights = model.file_bytes(spec.weights_form(precision)) / 2**30
    kv = spec.kv_bytes(model, flags) / 2**30
    need, there = weights + kv + spec.overhead_gib + MARGIN_GIB, detect().available_gib
    if need > there:
        raise LabError(
            f"{spec.title} needs {weights:.1f} GiB for weights + {kv:.1f} for the KV cache + {spec.overhead_gib:.1f} "
            f"for its processes + {MARGIN_GIB:.1f} as a margin = {need:.1f} GiB, and {there:.1f} GiB are available.",
            "stop another engine (make down), close other programs, or ask for less context",
        )


def environment(spec: EngineSpec, flags: Flags) -> dict[str, str]:
    """The flags of an engine that takes them from the environment."""
    return {name: str(value) for name, value in flags.items()} if spec.flags_in == "environment" else {}


def start(spec: EngineSpec, what: Start) -> Engine:
    """Start the process under its watchdog, its output to a log; does not wait."""
    command = spec.command(what) + (as_arguments(what.flags) if spec.flags_in == "arguments" else [])
    logs = paths.cache() / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("engine-*.log"))[: -KEEP_LOGS + 1]:
        old.unlink(missing_ok=True)
    log = logs / f"engine-{time.strftime('%Y%m%d-%H%M%S')}-{spec.name}-{what.port}.log"
    with log.open("wb") as out:
        process = Guarded(command, out, cwd=logs, env={**spec.env(what), **environment(spec, what.flags)})
    version = json.loads((what.home / "installed.json").read_text())["version"]
    engine = Engine(spec, what.model, what.precision, what.flags, what.cores, version, command, what.port, log, process)
    record = {
        "pid": process.pid,
        "started": start_time(process.pid),
        "engine": spec.name,
        "port": what.port,
        "parent": os.getpid(),
    }
    record_file(process.pid).parent.mkdir(parents=True, exist_ok=True)
    record_file(process.pid).write_text(json.dumps(record))
    return engine


def wait_until_ready(engine: Engine, timeout_s: float, quiet: bool) -> None:
    """Until its health endpoint says so and one token has come back."""
    began = time.monotonic()
    title = f"{engine.spec.title} is starting (about {engine.spec.startup_s} s on two cores)"
    with tqdm(
        bar_format="{desc}: {elapsed}", desc=title, leave=False, file=sys.stdout, disable=quiet, **ONCE_A_SECOND
    ) as line:
        while (get(engine.port, engine.spec.health) or (0,))[0] != 200:
            line.update(0)
            if not engine.alive:
                raise died(engine, f"{engine.spec.title} ended while starting (exit {engine.process.exit_code()}).")
            if time.monotonic() - began > timeout_s:
                raise died(engine, f"{engine.spec.title} was not ready after {timeout_s:.0f} s.")
            time.sleep(0.1)
        body = {"model": engine.served_name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        if engine.spec.flags_fault and (fault := engine.spec.flags_fault(engine.said(), engine.flags)):
            raise LabError(f"{engine.spec.title} {fault}.", "check the setting's name and value")
        try:
            if engine.spec.prepare:
                engine.spec.prepare(engine.url, engine.model, engine.precision)
            post_json(engine.url + "/v1/chat/completions", body, timeout_s)
        except (OSError, LabError) as e:
            raise died(engine, f"{engine.spec.title} says that it is ready, but gave no token: {e}.") from None
    engine.startup_s = time.monotonic() - began
    if not quiet:
        print(f"{engine.spec.title} {engine.version} answers on {engine.url} after {engine.startup_s:.1f} s")


def died(engine: Engine, what: str) -> LabError:
    """The error for an engine that failed: its last words, what they usually mean, and which of them mean it."""
    tail = "\n".join(f"  | {line[:200]}" for line in engine.tail().splitlines())
    causes = "\n".join(f"  {i}. {cause}" for i, cause in enumerate(likely_causes(engine.spec, engine.log), 1))
    return LabError(f"{what} Last lines of {paths.show(engine.log)}:\n{tail}\nLikeliest causes:\n{causes}")


def likely_causes(spec: EngineSpec, log: Path) -> list[str]:
    """At most three, each with its fix and the line of the log that it was recognised by."""
    lines = log.read_text(errors="replace").splitlines()
    found: dict[str, str] = {}  # by the line: of two causes for one line the more special comes first
    for sign, cause, fix in (*spec.causes, *COMMON_CAUSES):
        line = next((line.strip()[:300] for line in lines if re.search(sign, line, re.I)), None)
        if line:
            found.setdefault(line, f"{cause} → {fix}\n     as it says: {line}")
    if found:
        return list(found.values())[:3]
    # The first exception is the one that the others follow from.
    first = next((line for line in lines if re.search(r"^(\([^)]*\) ERROR .*\] )?[\w.]+Error: ", line)), None)
    return [f"none recognised; its first error: {first.strip()[:300]}" if first else "none recognised"]


@contextlib.contextmanager
def alone(engine: Engine) -> Iterator[None]:
    """All other engines of this process are paused inside this block, so that none takes time from this one."""
    others = [other for other in _running.values() if other is not engine]
    for other in others:
        other.pause()
    try:
        yield
    finally:
        for other in others:
            other.resume()


def record_file(pid: int) -> Path:
    return paths.cache() / "run" / f"{pid}.json"


def stop_all() -> None:
    """End every engine that this Python process started."""
    for engine in list(_running.values()):
        engine.stop()


atexit.register(stop_all)


def down(parent: int | None = None) -> int:
    """End every engine that any notebook on this machine (or the process `parent`) started; returns how many."""
    ended = 0
    for file in sorted((paths.cache() / "run").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(file.read_text())
            pid = record["pid"]
            if parent not in (None, record["parent"]):
                continue
            if record["started"] == start_time(pid):
                os.kill(pid, signal.SIGTERM)  # its watchdog, which ends all below it
                while start_time(pid) == record["started"]:
                    time.sleep(0.05)
                print(f"ended {record['engine']} (process {pid}, port {record['port']})")
                ended += 1
        file.unlink(missing_ok=True)
    return ended


if __name__ == "__main__":
    if sys.argv[1:] != ["down"]:
        sys.exit("usage: python -m shared.launch down")
    if not down():
        print("no engine was running")
