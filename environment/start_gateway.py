"""Start the gateway of lab 3.3.5 in front of the engines of this machine: `make gateway`.

make gateway                            # in front of every engine that the labs have started and that runs now
make gateway ENGINE=llamacpp            # start this engine first; it ends with the gateway
make gateway URL=http://127.0.0.1:8000  # in front of an engine that the labs did not start
make gateway TREE=labs                  # the student's files, labs/gateway (an unfinished function answers with 500)

On a machine with a GPU the engine is started with a small KV cache (container_flags.py): 4 requests of 4096 tokens.
Each engine has as many seats as its flags let it run at once (`-np`, `--max-num-seqs`), so that requests wait at the
gateway and not in the engine. Where its flags say nothing, or aren't known (URL=...), it has the gateway's default.
GATEWAY_CONFIG and GATEWAY_* variables are passed on to the gateway (solutions/gateway/settings.py lists all settings).
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path

from environment.container_flags import flags_for
from shared import LabError, hardware, models, paths
from shared.engines import ENGINES
from shared.engines.http import request
from shared.errors import command
from shared.launch import launch
from shared.processes import port_taken, start_time
from shared.results.recorded_engine import SEATS

START_S = 20.0
DEFAULT_PORT = 9000

EXAMPLE = """
Try it:
  curl -N {url}/v1/chat/completions -H 'Content-Type: application/json' {key}\\
    -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "What is gravity?"}}]}}'
  {url}/dashboard shows what it does, {url}/metrics its counters. Ctrl-C ends it.
"""


@command
def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="make gateway")
    parser.add_argument("--engine", choices=list(ENGINES))
    parser.add_argument("--url")
    parser.add_argument("--tree", choices=("solutions", "labs"), default="solutions")
    asked = parser.parse_args(arguments)
    port = port_of_settings()
    if port_taken(port):
        raise LabError(f"Port {port} is taken by another program.", f"GATEWAY_PORT={port + 1} make gateway")
    package = paths.REPO / asked.tree / "gateway"
    if not package.is_dir():
        raise LabError(f"There is no gateway in {paths.show(package)}.", "git checkout solutions labs")
    with contextlib.ExitStack() as stack:
        engines = running_engines()
        if asked.engine and asked.engine not in engines:
            machine = hardware.detect()
            flags = flags_for(asked.engine, machine)
            engine = stack.enter_context(launch(asked.engine, models.choose(machine), flags))
            engines[asked.engine] = table(engine.url, asked.engine, engine.flags)
        if asked.url:
            engines = {"engine": table(asked.url.rstrip("/").removesuffix("/v1"))}  # OpenAI's clients want it with /v1
        if not engines and "GATEWAY_CONFIG" not in os.environ and "GATEWAY_ENGINES" not in os.environ:
            raise LabError(
                "No engine of the labs runs on this machine.",
                "make gateway ENGINE=llamacpp starts one, too. If another program runs an engine: "
                "make gateway URL=http://127.0.0.1:8000",
            )
        return serve(package.parent.as_posix(), f"http://127.0.0.1:{port}", engines)


def port_of_settings() -> int:
    """The gateway's port: GATEWAY_PORT, else `port` in the file that GATEWAY_CONFIG names, else the gateway's default.

    Raises LabError if it is no port, or if the file can't be read.
    """
    name = os.environ.get("GATEWAY_CONFIG")
    try:
        in_file = tomllib.loads(Path(name).read_text()).get("port") if name else None
    except (OSError, ValueError) as e:
        fix = "correct it, or name another file; environment/gateway/gateway.toml is one that works"
        raise LabError(f"GATEWAY_CONFIG is {name!r}, which can't be read: {e}.", fix) from None
    port = str(os.environ.get("GATEWAY_PORT") or in_file or DEFAULT_PORT)
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise LabError(
            f"The gateway's port is {port!r}, but must be from 1 to 65535.", "make GATEWAY_PORT=9001 gateway"
        )
    return int(port)


def table(url: str, engine: str = "", flags: Mapping[str, object] | None = None) -> dict[str, object]:
    """An engine's settings, of its address and its flags."""
    stated = str((flags or {}).get(SEATS.get(engine, ""), ""))
    return {"url": url, **({"seats": int(stated)} if stated.isdecimal() and int(stated) else {})}


def running_engines() -> dict[str, dict[str, object]]:
    """The settings for the engines that notebooks or commands of the labs started and that answer now, by name."""
    found = {}
    for file in sorted((paths.state() / "run").glob("*.json"), key=changed_s):
        with contextlib.suppress(OSError, ValueError, KeyError):
            record = json.loads(file.read_text())
            url = f"http://127.0.0.1:{record['port']}"
            if start_time(record["pid"]) == record["started"] and request("GET", url + "/v1/models", 2).is_success:
                found[record["engine"]] = table(url, record["engine"], record.get("flags"))
    return found


def changed_s(file: Path) -> float:
    """When the file was written last; 0 if its engine has ended and removed it just now."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def serve(tree: str, url: str, engines: Mapping[str, Mapping[str, object]]) -> int:
    """Run the gateway until it ends, and print an example once it answers. Returns its exit code."""
    env = {**os.environ, "PYTHONPATH": tree}
    if engines:
        env["GATEWAY_ENGINES"] = json.dumps(engines)
    gateway = subprocess.Popen([sys.executable, "-m", "gateway"], env=env)
    signal.signal(signal.SIGTERM, lambda *_: gateway.terminate())
    try:
        if model := served_model(gateway, url):
            print("".join(f"\n{name} answers on {one['url']}." for name, one in engines.items()))
            key = "-H 'Authorization: Bearer YOUR-KEY' " if model == "MODEL" else ""
            print(EXAMPLE.format(url=url, model=model, key=key), flush=True)
        elif gateway.poll() is None:
            asked = ", ".join(str(one["url"]) for one in engines.values()) or "its settings' engines"
            print(f"\nNo engine has answered the gateway within {START_S:g} s. It goes on asking {asked}.", flush=True)
        return gateway.wait()
    except KeyboardInterrupt:  # the gateway has got it, too: its streams may end
        gateway.wait()
        return 0


def served_model(gateway: "subprocess.Popen[bytes]", url: str) -> str:
    """A model that the gateway serves, once it is ready; "MODEL" if only keys may ask for it, "" if it has ended."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and gateway.poll() is None:
        with contextlib.suppress(OSError, LookupError):
            if request("GET", url + "/ready", 2).is_success:
                answer = request("GET", url + "/v1/models", 2)
                return str(answer.json()["data"][0]["id"]) if answer.is_success else "MODEL"
        time.sleep(0.05)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
