"""Engines that another program left running: taken over by the next notebook, or ended by `down`.

When tests run many notebooks in a row, LABS_ENGINES_OF names a process (shared.launch.process.keeper). Engines then
belong to that process and end with it. A notebook's `stop` leaves them running. The next launch of the same engine with
the same model, flags and cores takes the running one over. An engine with other flags is paused, for a later launch
that wants it. If less than KEEP_FREE_GIB would stay available, engines that this notebook doesn't use are ended, the
least recently used first.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from shared import files, paths
from shared.engines import EngineSpec, Flags
from shared.engines.spec import Speculation
from shared.errors import LabError
from shared.hardware.machine import detect
from shared.launch import containers
from shared.launch.memory import Need
from shared.launch.process import Adopted, keeper
from shared.launch.running import Engine, record_file
from shared.models.choice import ModelChoice
from shared.processes import start_time

Record = dict[str, Any]
KEEP_FREE_GIB = 6  # beside a newly started engine


def keep(engine: Engine) -> None:
    """Add to the record of a running engine what the next notebook needs to take it over."""
    if keeper() is None:
        return
    file = record_file(engine.process.pid)
    more = {
        "same": identity(engine.spec, engine.model, engine.precision, engine.flags, engine.cores, engine.speculation),
        "version": engine.version,
        "command": engine.command,
        "container": engine.container,
        "startup_s": engine.startup_s,
    }
    files.write(file, json.dumps({**json.loads(file.read_text()), **more}).encode())


def take_over(
    spec: EngineSpec,
    model: ModelChoice,
    precision: str,
    flags: Flags,
    cores: int,
    port: int | None,
    needed: Need,
    in_use: Collection[int],
    speculation: Speculation | None,
) -> Engine | None:
    """Return the wanted engine if an earlier launch left it running, else None. Others of the same name are paused.

    If it is not running, memory is freed for it by `make_room`. Engines with the process ids `in_use` are kept.
    """
    if keeper() is None:
        return None
    wanted = identity(spec, model, precision, flags, cores, speculation)
    found = None
    for file, record in records():
        process = Adopted(record["pid"], record["started"])
        if record["engine"] != spec.name:
            continue
        engine = Engine(
            spec,
            model,
            precision,
            flags,
            cores,
            record["version"],
            record["command"],
            record["port"],
            Path(record["log"]),
            process,
            needed,
            record["container"],
            record["startup_s"],
            speculation,
        )
        if record["same"] == wanted and port in (None, record["port"]):
            engine.resume()  # paused below, or by a notebook that was killed while it measured another engine
            file.touch()  # the time of last use
            found = engine
        else:
            engine.pause()
    if found is None:
        make_room(needed, in_use)
    return found


def make_room(needed: Need, in_use: Collection[int]) -> None:
    """End engines that are not in use, the least recently used first, until `needed` leaves KEEP_FREE_GIB available."""
    for file, record in sorted(records(), key=lambda one: one[0].stat().st_mtime):
        if (detect().available_gib or 0) - needed.total >= KEEP_FREE_GIB:  # unknown counts as none
            return
        if record["pid"] not in in_use:
            Adopted(record["pid"], record["started"]).end()
            file.unlink(missing_ok=True)


def records() -> Iterator[tuple[Path, Record]]:
    """The running engines that belong to the keeper."""
    owner = keeper()
    for file in sorted((paths.state() / "run").glob("*.json")) if owner else ():
        with contextlib.suppress(OSError, ValueError):
            record = json.loads(file.read_text())
            own = record.get("parent") == owner and "same" in record
            if own and start_time(record["pid"]) == record["started"]:
                yield file, record


def identity(
    spec: EngineSpec, model: ModelChoice, precision: str, flags: Flags, cores: int, speculation: Speculation | None
) -> list[Any]:
    """What two launches must have in common to share one engine, as it reads back from JSON."""
    weights = model.sha256(spec.weights_form(model, precision))
    draft = speculation.provenance() if speculation else None
    same: list[Any] = json.loads(json.dumps([model.name, weights, precision, dict(flags), cores, draft]))
    return same


def down(parent: int | None = None) -> int:
    """End every engine that any notebook on this machine (or only the process `parent`) started. Returns how many."""
    ended = 0
    for file in sorted((paths.state() / "run").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(file.read_text())
            pid = record["pid"]
            if parent not in (None, record["parent"]):
                continue
            if record["started"] == start_time(pid):
                os.kill(pid, signal.SIGTERM)  # the watchdog, which ends all processes below it
                while start_time(pid) == record["started"]:
                    time.sleep(0.05)
                print(f"ended {record['engine']} (process {pid}, port {record['port']})")
                ended += 1
        file.unlink(missing_ok=True)
    if parent is None:
        for name in containers.left():  # left where the watchdog was killed too
            try:
                containers.remove(name)
            except LabError as e:  # the others are removed
                print(e)
            else:
                print(f"removed the container {name}")
                ended += 1
    return ended
