"""The student's gateway: the files beside the notebook, with the reference's function for each unfinished exercise.

gateway = student_gateway.start(lab, engine)                      # run the cell again after a change: it restarts
gateway = student_gateway.start(lab, engine, config='most_queued = 4', keys=two_keys)
"""

import hashlib
import hmac
import json
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

from shared.course import starter
from shared.course.gateway import running
from shared.course.gateway.running import Gateway
from shared.course.labs import OpenLab
from shared.errors import LabError
from shared.launch.running import Engine
from shared.processes import free_port

NAME = "gateway"
KEYS_FILE = "keys.json"
SECRET = "the labs' own: a real installation makes one"


def start(
    lab: OpenLab,
    engine: Engine,
    config: str = "",
    *,
    keys: str = "",
    engines: Mapping[str, Mapping[str, object]] | None = None,
    name: str = NAME,
) -> Gateway:
    """Start the gateway with the files as they are on disk now; a running one of this name is ended first.

    config: its settings, as TOML. An engine's table there needs no url: it is this engine. engines: tables with their
    urls, in place of those. Unless a table states it, an engine has as many seats as this one has slots (`-np`).
    keys: the text of a keys file; without one, any request from this machine is served.
    Raises LabError if the settings are not valid TOML, or the gateway doesn't start.
    """
    try:
        settings = tomllib.loads(config)
    except tomllib.TOMLDecodeError as e:
        raise LabError(
            f"The gateway's settings are not valid TOML: {e}.", "correct the text, then start it again"
        ) from None
    folder, port = Path(tempfile.mkdtemp(prefix="labs-gateway-")), free_port()
    package = starter.merge(lab.check.lab, lab.check.use_own(), folder)
    usual = {"seats": int(str(engine.flags.get("-np", 1)))}
    tables = engines or {one: {"url": engine.url, **table} for one, table in settings.get("engines", {}).items()}
    settings["engines"] = {
        one: {**usual, **table} for one, table in (tables or {"engine": {"url": engine.url}}).items()
    }
    (folder / "gateway.toml").write_text("\n".join(f"{one} = {toml(value)}" for one, value in settings.items()))
    env = {"GATEWAY_CONFIG": "gateway.toml", "GATEWAY_PORT": str(port), "PYTHONPATH": str(folder)}
    if keys:
        (folder / KEYS_FILE).write_text(keys)
        env["GATEWAY_KEYS_FILE"] = KEYS_FILE
    for table in settings["engines"].values():
        table["url"] = "an engine's"  # its port differs each time, and changes nothing
    made_of = {
        "code": running.code_of(package),
        "settings": settings,
        "keys": hashlib.sha256(keys.encode()).hexdigest()[:16],
    }
    return running.start(
        name, "Your gateway", engine, [sys.executable, "-m", "gateway"], port=port, folder=folder, ready="/ready",
        counters=running.COUNTERS, made_of=made_of, env=env,
    )  # fmt: skip


def toml(value: object) -> str:
    """A value of a TOML file; a table stands inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(one)}" for name, one in value.items()) + "}"
    return json.dumps(value)


def keys(**entries: Mapping[str, object]) -> str:
    """The text of a keys file: NAME's key is sk-NAME, and its entry may hold `priority` and `limits`."""
    found = {
        name: {"hash": hmac.digest(SECRET.encode(), f"sk-{name}".encode(), "sha256").hex(), **entry}
        for name, entry in entries.items()
    }
    return json.dumps({"secret": SECRET, "keys": found}, sort_keys=True)
