"""Engines that stay for the next notebook, where a test runs many, one after the other.

Where LABS_ENGINES_OF names a process (shared.launch.process.keeper), engines belong to it and end with it; a notebook's
`stop` leaves them running, and the next launch of the same engine with the same model, flags and cores takes the
running one over. With other flags it is ended first, as ever.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared import paths
from shared.engines import EngineSpec, Flags
from shared.launch.memory import Need
from shared.launch.process import Adopted, keeper
from shared.launch.running import Engine, record_file
from shared.models.choice import ModelChoice
from shared.processes import start_time

Record = dict[str, Any]


def keep(engine: Engine) -> None:
    """Add to the record of a running engine what the next notebook must know of it."""
    if keeper() is None:
        return
    file = record_file(engine.process.pid)
    more = {
        "same": identity(engine.spec, engine.model, engine.precision, engine.flags, engine.cores),
        "version": engine.version,
        "command": engine.command,
        "container": engine.container,
        "startup_s": engine.startup_s,
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def take_over(
    spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags, cores: int, port: int | None, needed: Need
) -> Engine | None:
    """The engine that an earlier notebook left, if it is the one that is wanted; any other of its kind is ended."""
    if keeper() is None:
        return None
    wanted = identity(spec, model, precision, flags, cores)
    for file, record in records(spec.name):
        process = Adopted(record["pid"], record["started"])
        if record["same"] != wanted or port not in (None, record["port"]):
            process.end()
            file.unlink(missing_ok=True)
            continue
        engine = Engine(
            spec, model, precision, flags, cores, record["version"], record["command"], record["port"],
            Path(record["log"]), process, needed, record["container"], record["startup_s"],
        )  # fmt: skip
        engine.resume()  # a notebook that was killed while it measured another one left it paused
        return engine
    return None


def records(name: str) -> Iterator[tuple[Path, Record]]:
    """The running engines of this kind that belong to the keeper."""
    owner = keeper()
    for file in sorted((paths.cache() / "run").glob("*.json")) if owner else ():
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(file.read_text())
            own = record.get("parent") == owner and record.get("engine") == name and "same" in record
            if own and start_time(record["pid"]) == record["started"]:
                yield file, record


def identity(spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags, cores: int) -> list[Any]:
    """What two launches must agree in to be served by one engine, as JSON gives it back."""
    weights = model.sha256(spec.weights_form(model, precision))
    same: list[Any] = json.loads(json.dumps([model.name, weights, precision, dict(flags), cores]))
    return same
