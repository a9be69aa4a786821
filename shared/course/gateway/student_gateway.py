"""The student's gateway: the files beside the notebook, with the reference's function for each unfinished exercise.

gateway = student_gateway.start(lab, engine)                      # run the cell again after a change: it restarts
gateway = student_gateway.start(lab, engine, config='most_queued = 4', keys=two_keys)
"""

import hashlib
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


def start(
    lab: OpenLab,
    engine: Engine,
    config: str = "",
    *,
    keys: str = "",
    engines: Mapping[str, str] | None = None,
    name: str = NAME,
) -> Gateway:
    """Start the gateway with the files as they are on disk now; a running one of this name is ended first.

    config: its settings, as TOML. keys: the text of a keys file; without one, any request from this machine is served.
    engines: addresses by name, in place of the engine's own. Each has as many seats as the engine has slots (`-np`),
    and the models that it lists itself. Raises LabError if the settings are not valid TOML, or the gateway doesn't
    start.
    """
    try:
        settings = tomllib.loads(config)
    except tomllib.TOMLDecodeError as e:
        raise LabError(
            f"The gateway's settings are not valid TOML: {e}.", "correct the text, then start it again"
        ) from None
    folder, port = Path(tempfile.mkdtemp(prefix="labs-gateway-")), free_port()
    package = starter.merge(lab.check.lab, lab.check.use_own(), folder)
    seats = int(str(engine.flags.get("-np", 1)))
    tables = [
        f'[engines.{one}]\nurl = "{url}"\nseats = {seats}' for one, url in (engines or {"engine": engine.url}).items()
    ]
    (folder / "gateway.toml").write_text("\n\n".join([config, *tables]))
    env = {"GATEWAY_CONFIG": "gateway.toml", "GATEWAY_PORT": str(port), "PYTHONPATH": str(folder)}
    if keys:
        (folder / "keys.toml").write_text(keys)
        env["GATEWAY_KEYS_FILE"] = "keys.toml"
    made_of = {
        "code": running.code_of(package),
        "settings": json.dumps(settings, sort_keys=True),
        "engines": sorted(engines or ["engine"]),
        "keys": hashlib.sha256(keys.encode()).hexdigest()[:16],
    }
    return running.start(
        name, "Your gateway", engine, [sys.executable, "-m", "gateway"], port=port, folder=folder, ready="/ready",
        counters=running.COUNTERS, made_of=made_of, env=env,
    )  # fmt: skip
